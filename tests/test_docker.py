"""The container files, as far as they can be checked without an engine."""

import itertools
import re
import shlex
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cli.main import _parse
from pipeline.jobs.client import OLDEST_RAY
from pipeline.jobs.submission import CLUSTER
from pipeline.sources.remote import SCHEMES
from tests.support.paths import ROOT

DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
LOCK = (ROOT / "requirements.lock").read_text()
STORES = (DOCKER / "object-stores.lock").read_text()


def instructions() -> list[tuple[str, str]]:
    """(instruction, rest) of the Dockerfile, continued lines joined, comments left out."""
    text = "\n".join(line for line in DOCKERFILE.splitlines() if not line.startswith("#"))
    joined = re.sub(r"\s*\\\n\s*", " ", text)
    lines = [line.strip() for line in joined.splitlines() if line.strip()]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def locked(name: str, lock: str = LOCK) -> str:
    found = re.search(rf"^{re.escape(name)}==([^ ;\\]+)", lock, re.MULTILINE)
    assert found, f"{name} is not locked"
    return found[1]


def compose() -> dict[str, Any]:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())


def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DOCKER / "rayjob.yaml").read_text()))


def test_every_file_that_is_copied_exists_and_reaches_the_engine() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    let_through = [line[1:] for line in ignore if line.startswith("!")]
    assert "*" in ignore
    stages = [re.findall(r"AS (\w+)", rest)[0] for name, rest in instructions() if name == "FROM"]
    copied: set[str] = set()
    for name, rest in instructions():
        if name not in ("COPY", "ADD"):
            continue
        words = rest.split()
        if words[0].startswith("--from="):
            assert words[0].removeprefix("--from=") in stages
            continue
        copied |= set(words[:-1])
    for source in copied:
        assert (ROOT / source).exists(), source
        assert source in let_through, f"{source} is kept from the engine by .dockerignore"
    # What goes to the engine is what is copied, no more: no secrets, no runs, no .git.
    assert set(let_through) == copied
    # All that the wheel is made of.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    parts = {*wheel["packages"], *wheel["force-include"], "pyproject.toml"}
    assert copied >= parts | {project["project"]["readme"], *project["project"]["license-files"]}


def test_versions_are_those_of_the_lock() -> None:
    arguments = dict(rest.split("=", 1) for name, rest in instructions() if name == "ARG")
    assert arguments["CUDA"] == locked("cuda-toolkit")
    # Python of the Ubuntu that the images are made of; the path of its packages says the same.
    python = {"24.04": (3, 12)}[arguments["UBUNTU"]]
    (path,) = set(re.findall(r"/lib/python(\d+)\.(\d+)/", DOCKERFILE))
    assert tuple(map(int, path)) == python
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    low, high = (tuple(map(int, bound.split("."))) for bound in re.findall(r"[\d.]+", wanted))
    assert low <= python < high
    (job,) = (document for document in documents() if document["kind"] == "RayJob")
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == locked("ray")
    assert tuple(map(int, locked("ray").split(".")[:2])) >= OLDEST_RAY
    # The compiler's flags were read off this version.
    script = (DOCKER / "compile_gsplat.py").read_text()
    assert f"in {locked('gsplat')}" in " ".join(script.split())


def test_the_kernels_are_compiled_as_gsplat_would() -> None:
    import importlib.util

    spec = importlib.util.find_spec("gsplat")
    assert spec is not None
    assert spec.origin is not None
    cuda = Path(spec.origin).parent / "cuda"
    own = (cuda / "_backend.py").read_text()
    script = (DOCKER / "compile_gsplat.py").read_text()
    assert "from gsplat import csrc as _C" in own
    assert 'name="csrc"' in script
    for flag in ("-Wno-attributes", "-use_fast_math", "-O3"):
        assert flag in own
        assert flag in script
    for place in ("csrc/third_party/glm/glm", "include", "ext.cpp", "csrc"):
        assert (cuda / place).exists(), place
    (copy,) = (rest for name, rest in instructions() if name == "COPY" and "csrc.so" in rest)
    assert copy.endswith("/site-packages/gsplat/csrc.so")


def test_packages_are_installed_by_hash_and_from_no_named_index() -> None:
    runs = [rest for name, rest in instructions() if name == "RUN"]
    (install,) = (run for run in runs if "requirements.lock" in run)
    assert "--require-hashes" in install
    assert "object-stores.lock" in install
    for run in runs:
        for command in re.findall(r"pip install ([^&|;]*)", run):
            assert "--require-hashes" in command or "--no-deps" in command
    everything = [path for path in DOCKER.iterdir() if path.is_file()]
    for path in everything:
        text = path.read_text()
        assert not re.search(r"index-url|find-links|trusted-host|pypi\.|/simple", text), path
    for block in re.split(r"\n(?=\S)", STORES.strip()):
        assert block.startswith("#") or "--hash=sha256:" in block, block
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra in {extra for extra in SCHEMES.values() if extra}:
        (driver,) = extras["optional-dependencies"][extra]
        assert locked(re.split(r"[ >=]", driver)[0], STORES)
    names = [set(re.findall(r"^([a-z0-9._-]+)==", text, re.MULTILINE)) for text in (LOCK, STORES)]
    assert not names[0] & names[1]


def test_the_images() -> None:
    found = instructions()
    (debian,) = (
        rest for name, rest in found if name == "RUN" and "/tmp/debian-packages.txt" in rest
    )
    assert "apt-get install -y --no-install-recommends" in debian
    for name, rest in found:
        if name == "FROM":
            image = rest.split()[0]
            assert ":" in image or image in ("system", "runtime"), image
            assert "latest" not in rest
        if name == "RUN" and "apt-get install" in rest:
            assert "rm -rf /var/lib/apt/lists/*" in rest
    targets = re.findall(r"^FROM runtime AS (\w+)", DOCKERFILE, re.MULTILINE)
    assert set(targets) == {"cpu", "gpu"}
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    (entry,) = (yaml.safe_load(rest) for name, rest in found if name == "ENTRYPOINT")
    assert entry[0] in scripts
    (check,) = (rest for name, rest in found if name == "HEALTHCHECK")
    words = yaml.safe_load(check.partition("CMD ")[2])
    assert words == ["reel3d", "--version"]
    # Nothing runs as root: the user is set, and no later stage sets another.
    last = [rest for name, rest in found if name == "USER"]
    assert last == ["reel3d"]
    (user,) = (rest for name, rest in found if name == "RUN" and "useradd" in rest)
    assert "--uid 1000" in user


def test_compose_holds_together() -> None:
    told = compose()
    services: dict[str, Any] = told["services"]
    assert {"head", "worker", "worker-gpu", "camera"} <= set(services)
    stages = set(re.findall(r"^FROM \S+ AS (\w+)", DOCKERFILE, re.MULTILINE))
    images = {"reel3d:cpu", "reel3d:gpu"}
    for name, service in services.items():
        assert service["image"] in images, name
        if build := service.get("build"):
            assert (DOCKER / build["context"] / build["dockerfile"]).resolve() == (
                DOCKER / "Dockerfile"
            )
            assert build["target"] in stages
            assert service["image"] == f"reel3d:{build['target']}"
        assert set(service.get("depends_on", {})) <= set(services)
        for other in service.get("depends_on", {}):
            assert services[other]["healthcheck"]
        assert service["healthcheck"]["test"][0] == "CMD"
        assert set(service.get("secrets", [])) <= set(told["secrets"])
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source.startswith("../") or source in told["volumes"], volume
        for port in service.get("ports", []):
            assert re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port), f"{name} opens {port}"
        assert "privileged" not in service
        if service.get("entrypoint") == ["ray", "start"]:
            environment = service["environment"]
            assert environment["RAY_AUTH_MODE"] == "token"
            assert environment["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"
            assert "ray_token" in service["secrets"]
            assert service["shm_size"]
            assert {v.split(":")[1] for v in service["volumes"]} >= {"/runs", "/sources"}
    ports = {services["head"]["command"][i] for i in range(len(services["head"]["command"]))}
    assert {"--port=6379", "--dashboard-port=8265"} <= ports
    assert "--address=head:6379" in services["worker"]["command"]


def test_what_ray_is_told_it_understands() -> None:
    from ray.scripts.scripts import healthcheck, start

    for service in compose()["services"].values():
        if service.get("entrypoint") == ["ray", "start"]:
            start.make_context("start", [str(word) for word in service["command"]])
            words = service["healthcheck"]["test"][1:]
            assert words[:2] == ["ray", "health-check"]
            healthcheck.make_context("health-check", words[2:])


def test_the_camera_of_compose_is_the_test_server(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    from tests.support import rtsp_server

    camera = compose()["services"]["camera"]
    assert camera["entrypoint"] == ["python", "-m", "tests.support.rtsp_server"]
    mounted = [volume for volume in camera["volumes"] if volume.endswith("/tests:ro")]
    assert mounted == [f"../tests:{camera['working_dir']}/tests:ro"]
    seen: list[Any] = []
    monkeypatch.setattr("sys.argv", ["rtsp_server", *camera["command"]])
    monkeypatch.setattr(rtsp_server, "Film", str)
    monkeypatch.setattr(rtsp_server, "Server", lambda films, options: _Served(films, options, seen))
    monkeypatch.setattr(asyncio, "run", lambda nothing: None)
    rtsp_server.main()
    ((films, options),) = seen
    assert films == ["/sources/camera.mp4"]
    assert (options.host, options.port, options.loop) == ("0.0.0.0", 8554, True)


class _Served:
    def __init__(self, films: list[str], options: Any, seen: list[Any]) -> None:
        seen.append((films, options))

    def serve(self) -> None:
        return None


def test_the_job_on_kubernetes_holds_together() -> None:
    claims = {d["metadata"]["name"] for d in documents() if d["kind"] == "PersistentVolumeClaim"}
    (job,) = (document for document in documents() if document["kind"] == "RayJob")
    assert job["apiVersion"] == "ray.io/v1"
    spec = job["spec"]
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    words = shlex.split(spec["entrypoint"])
    options = _parse(words[1:])
    assert words[0] == "reel3d"
    assert options.runner == "cluster"
    assert options.resume
    assert " ".join(CLUSTER) in spec["entrypoint"]
    head, *workers = cluster["headGroupSpec"], *cluster["workerGroupSpecs"]
    assert [group["groupName"] for group in workers] == ["cpu", "gpu"]
    assert head["serviceType"] == "ClusterIP"
    for group in (head, *workers):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == 1000
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for volume in volumes.values():
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            assert claim is None or claim in claims
        (container,) = pod["containers"]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert set(mounts.values()) == set(volumes)
        assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
        assert {"/runs", "/sources", "/cache"} <= set(mounts)
        assert container["resources"]["limits"] == container["resources"]["requests"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]
    for group in workers:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for source in options.words:
        assert source.startswith("/sources/")
    assert str(options.out).startswith("/runs/")
    images = [g["template"]["spec"]["containers"][0]["image"] for g in (head, *workers)]
    assert images == ["reel3d:cpu", "reel3d:cpu", "reel3d:gpu"]
    assert (
        "nvidia.com/gpu" in workers[1]["template"]["spec"]["containers"][0]["resources"]["limits"]
    )


def test_the_commands_in_the_comments_are_understood() -> None:
    found = 0
    for path in (DOCKER / "compose.yaml", DOCKER / "rayjob.yaml", DOCKER / "Dockerfile"):
        for line in path.read_text().splitlines():
            if re.match(r"#\s+reel3d (run|submit|watch) ", line):
                words = shlex.split(line.lstrip("# "))
                _parse(words[1:])
                found += 1
    assert found


def test_no_secret_is_committed() -> None:
    for path in (*DOCKER.iterdir(), ROOT / ".dockerignore"):
        if path.suffix == ".lock" or not path.is_file():
            continue
        text = path.read_text()
        assert not re.search(r"RAY_AUTH_TOKEN\s*[:=]\s*\S", text), path
        for word in itertools.chain.from_iterable(map(str.split, text.splitlines())):
            bare = word.strip("\"'`,;()")
            assert not re.fullmatch(r"[0-9a-f]{24,}", bare), f"{path}: {bare}"
            assert not re.fullmatch(r"[A-Za-z0-9+/]{40,}={0,2}", bare) or "/" in bare, path
    secret = compose()["secrets"]["ray_token"]["file"]
    place = re.sub(r"\$\{\w+:-(.*)\}", r"\1", secret).removeprefix("../")
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert any(fnmatch(f"/{place}", f"{line.rstrip('/')}/*") for line in ignored if line), place
