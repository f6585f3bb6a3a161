"""Weights: fetched once and whole, refused where they could run code, named in the manifest."""

import hashlib
import json
import pickle
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import optical_flow

from pipeline.cli.main import main
from pipeline.errors import UsageError
from pipeline.weights.files import Weights, bring, fit, own_file, read_tensors, sha256_of
from tests.support.scenes import alone, encode

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        del format, args


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """The address of a server that has one file, `good.pth`."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "good.pth").write_bytes(CONTENT)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def nothing_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def named(url: str, path: Path, sha256: str = SHA256[:8]) -> Weights:
    return Weights(
        id="net-v1",
        task="optical flow",
        license="MIT",
        nbytes=7_000_000,
        url=url,
        sha256=sha256,
        path=path,
        instead="flow.model=dis",
    )


def test_weights_are_fetched_once(site: str, tmp_path: Path) -> None:
    weights = named(f"{site}/good.pth", tmp_path / "cache" / "net.pth")
    bring(weights, "flow/net")
    assert weights.path.read_bytes() == CONTENT
    assert sha256_of(weights) == SHA256
    changed = weights.path.stat().st_mtime_ns
    bring(named("http://127.0.0.1:1/none", weights.path), "flow/net")
    assert weights.path.stat().st_mtime_ns == changed


def test_what_is_not_what_it_should_be_does_not_stay(site: str, tmp_path: Path) -> None:
    weights = named(f"{site}/good.pth", tmp_path / "net.pth", sha256="0" * 8)
    with pytest.raises(UsageError, match="cannot be fetched: invalid hash value"):
        bring(weights, "flow/net")
    assert list(tmp_path.glob("net*")) == []


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_is_one_clear_line(
    site: str, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    weights = named(f"{site}/good.pth", tmp_path / "net.pth")
    with pytest.raises(UsageError) as told:
        bring(weights, "flow/net")
    assert str(told.value) == (
        f"flow/net needs the weights net-v1 (7 MB, MIT): they are not on this machine, and {name} "
        "says that nothing is to be fetched; where there is a network: reel3d models fetch "
        f"net-v1 (they go to {weights.home}), or take flow.model=dis, which needs none"
    )
    assert not weights.path.exists()


def test_no_network_is_one_clear_line(tmp_path: Path) -> None:
    weights = named("http://127.0.0.1:1/net.pth", tmp_path / "net.pth")
    with pytest.raises(UsageError, match=r"and cannot be fetched: .*refused.*fetch net-v1"):
        bring(weights, "flow/net")


def test_damaged_weights_are_not_used(tmp_path: Path) -> None:
    weights = named("", tmp_path / "net.pth")
    weights.path.write_bytes(CONTENT[:-1])
    with pytest.raises(UsageError, match=f"damaged .*it should be {SHA256[:8]}….; remove the file"):
        bring(weights, "flow/net")


class Harm:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("harm"),))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.pth", pickle.dumps(Harm()), "pickle that holds more than tensors"),
        ("a.pth", b"PK\x03\x04 torn", "cannot be read as weights"),
        ("a.pth", b"", "cannot be read as weights"),
        ("a.safetensors", b"\x10\0\0\0\0\0\0\0{}", "cannot be read as weights"),
        ("a.safetensors", b"", "cannot be read as weights"),
    ],
)
def test_only_tensors_are_read(
    name: str, content: bytes, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=says) as told:
        read_tensors(tmp_path / name)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("saved", [[torch.zeros(1)], {"net": {"a": torch.zeros(1)}}, {"a": 1}])
def test_only_a_state_dict_will_do(saved: Any, tmp_path: Path) -> None:
    torch.save(saved, tmp_path / "a.pth")
    with pytest.raises(UsageError, match="holds no state_dict"):
        read_tensors(tmp_path / "a.pth")


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    network = torch.nn.Linear(2, 3)
    weights = named("", tmp_path / "a.pth")
    fit(network, {"weight": torch.ones(3, 2), "bias": torch.ones(3)}, weights, "net")
    assert network.weight.sum() == 6
    more = {f"b{n}": torch.ones(1) for n in range(5)}
    with pytest.raises(UsageError) as told:
        fit(network, {"weight": torch.ones(2, 3), **more}, weights, "net")
    assert str(told.value) == (
        f"{weights.path} holds no weights of net: bias is missing; weight is of another shape; b0, "
        "b1, b2 and 2 more are not part of it; give the file that belongs to net"
    )


def test_an_own_file_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"allowed are .safetensors, .pth, .pt; save others with"):
        own_file(str(tmp_path / "a.pkl"), task="optical flow")
    with pytest.raises(UsageError, match="there is no file of weights at"):
        own_file(str(tmp_path / "a.pth"), task="optical flow")


# The command ----------------------------------------------------------------------------------


def test_models_are_listed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["models"]) == 0
    listed = " ".join(capsys.readouterr().out.split())
    assert "raft_large-C_T_SKHT_V2 optical flow BSD-3-Clause 21" in listed
    assert "fetch one: reel3d models fetch NAME; it goes to" in listed


def test_models_are_checked_and_fetched(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["models", "check"]) == 0
    assert "no weights are on this machine" in capsys.readouterr().out
    name = optical_flow.Raft_Small_Weights.DEFAULT.url.rpartition("/")[2]
    path = tmp_path / "torch" / "hub" / "checkpoints" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    assert main(["models", "check"]) == 2
    assert "are damaged (sha256 " in capsys.readouterr().err.replace("\n", " ")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["models", "fetch", "flow/raft"]) == 2
    assert "HF_HUB_OFFLINE says that nothing is to be fetched" in capsys.readouterr().err
    assert main(["models", "fetch", "flow/rfat"]) == 2
    assert "did you mean 'flow/raft'?" in capsys.readouterr().err


def test_a_run_without_its_weights_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    film = tmp_path / "film.mp4"
    encode(film, alone("truck-right", seed=1).images[:10])
    out = tmp_path / "out"
    assert main(["run", str(film), "--out", str(out), "--preset", "pretrained"]) == 2
    told = capsys.readouterr().err
    assert "flow/raft needs the weights raft_large-C_T_SKHT_V2 (21 MB, BSD-3-Clause)" in told
    assert "or take flow.model=dis, which needs none" in told
    assert not out.exists()


def test_a_run_names_its_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "raft.pth"
    film = tmp_path / "film.mp4"
    encode(film, alone("truck-right", seed=1).images[:10])
    out = tmp_path / "out"
    words = ["run", str(film), "--out", str(out), "--preset", "understand", "--quiet", "--resume"]
    words += ["flow.model=raft", "flow.size=small", f"flow.weights={path}", "flow.iterations=1"]
    words += ["flow.working_side=128", "sample.model=fps", "sample.fps=10"]
    found: list[dict[str, Any]] = []
    for _ in range(2):
        # With other weights in the same place the flow is made again.
        torch.save(optical_flow.raft_small(weights=None).state_dict(), path)
        assert main(words) == 0
        manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        stages = {f"{s['step']}/{s['model']}": s for s in manifest["stages"]}
        assert stages["sample/fps"]["weights"] == "none"
        flow = stages["flow/raft"]
        assert flow["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        assert flow["weights"] == [{"id": str(path), "sha256": sha256, "license": "unknown"}]
        found.append(flow)
    assert found[0]["weights"] != found[1]["weights"]
    assert sha256[:8] not in (out / "config.yaml").read_text(encoding="utf-8")
    assert "raft.pth" in (out / "report.html").read_text(encoding="utf-8")
