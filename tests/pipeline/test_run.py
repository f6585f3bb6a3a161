"""The command from film to run folder: what it writes, resumes, loses and says."""

import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.main import main
from tests.support.paths import MISBEHAVING, ROOT

Reel3d = Callable[..., subprocess.CompletedProcess[str]]

QUICK = ("--preset", "understand", "sample.model=fps", "sample.fps=15")


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def stage(folder: Path, name: str) -> dict[str, Any]:
    stages = manifest(folder)["stages"]
    return next(s for s in stages if f"{s['step']}/{s['model']}" == name)


@pytest.fixture(scope="module")
def finished_run(short_film: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run; tests copy it, since each must be able to spoil its own."""
    folder = tmp_path_factory.mktemp("runs") / "truck"
    words = ["run", str(short_film), "--out", str(folder), *QUICK, "--quiet"]
    assert main(words) == 0
    return folder


@pytest.fixture
def out(finished_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "out", dirs_exist_ok=True)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_is_whole_and_listed(reel3d: Reel3d, short_film: Path, tmp_path: Path) -> None:
    done = reel3d("run", short_film, *QUICK)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "runs/truck\n"
    folder = tmp_path / "runs" / "truck"
    listed = {a["path"]: a for a in manifest(folder)["artifacts"]}
    found = {p.name for p in folder.iterdir()} - {".reel3d", "manifest.json"}
    assert found == set(listed)
    for path, artifact in listed.items():
        assert artifact["bytes"] == (folder / path).stat().st_size
    assert not list(folder.rglob(".writing-*"))
    assert "Traceback" not in done.stderr
    # The folder can be moved and read anywhere: no absolute path stands in what it says.
    for name in ("manifest.json", "config.yaml", "report.html"):
        assert str(tmp_path / "runs") not in (folder / name).read_text()


def test_the_same_seed_gives_the_same_files_and_config_repeats_the_run(
    reel3d: Reel3d, here: Reel3d, short_film: Path, tmp_path: Path
) -> None:
    words = ("sample.model=random", "sample.frames=8", "--preset", "understand")
    first = here("run", short_film, "--out", "a", *words)
    assert first.returncode == 0, first.stderr
    # In a process of its own, whose hashes have another seed.
    again = reel3d("run", short_film, "--out", "b", "--config", tmp_path / "a" / "config.yaml")
    assert again.returncode == 0, again.stderr
    for name in ("frames.parquet", "events.jsonl", "config.yaml"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_resume_does_only_what_an_option_outdates(
    here: Reel3d, short_film: Path, out: Path
) -> None:
    before = {p: p.stat().st_mtime_ns for p in out.iterdir() if p.is_file()}

    untouched = here("run", short_film, "--out", out, *QUICK, "--resume")
    assert untouched.returncode == 0, untouched.stderr
    assert {p: p.stat().st_mtime_ns for p in out.iterdir() if p.is_file()} == before

    changed = here(
        "run", short_film, "--out", out, *QUICK, "--resume", "export.flow_video.width=160"
    )
    assert changed.returncode == 0, changed.stderr
    after = {p: p.stat().st_mtime_ns for p in out.iterdir() if p.is_file()}
    assert after[out / "flow.mp4"] > before[out / "flow.mp4"]
    assert after[out / "events.jsonl"] == before[out / "events.jsonl"]


def test_resume_drops_what_was_left_out(here: Reel3d, short_film: Path, out: Path) -> None:
    done = here("run", short_film, "--out", out, *QUICK, "--resume", "export.flow_video=none")
    assert done.returncode == 0, done.stderr
    assert not (out / "flow.mp4").exists()
    assert "flow.mp4" not in {a["path"] for a in manifest(out)["artifacts"]}


def test_resume_of_a_run_with_old_names_says_what_begins_again(
    here: Reel3d, short_film: Path, out: Path
) -> None:
    ledger = out / ".reel3d" / "ledger.json"
    tree = json.loads(ledger.read_text())
    scores = {**tree["action/motion"], "kept": ["scores.npz"], "artifacts": []}
    tree["action/motion"]["key"] = "of options with old names"
    tree["recognise/zero_shot"] = scores
    (ledger.parent / "scores.npz").touch()
    ledger.write_text(json.dumps(tree).replace('"artifacts"', '"artefacts"'))
    before = (out / "events.jsonl").read_bytes()
    flow_video = (out / "flow.mp4").stat().st_mtime_ns

    done = here("run", short_film, "--out", out, *QUICK, "--resume")
    assert done.returncode == 0, done.stderr
    said = f"{out} was made before names of options changed: these begin again"
    assert done.stderr.replace("\n", " ").count(said) == 1
    assert ": action/motion\n" in done.stderr
    assert (out / "events.jsonl").read_bytes() == before
    assert (out / "flow.mp4").stat().st_mtime_ns == flow_video
    assert not (ledger.parent / "scores.npz").exists()
    assert "recognise" not in ledger.read_text()

    again = here("run", short_film, "--out", out, *QUICK, "--resume")
    assert "nothing had to be done" in again.stderr
    assert "begin again" not in again.stderr


def test_resume_never_replaces_the_run_of_another_video(
    here: Reel3d, short_film: Path, out: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.mp4"
    other.write_bytes(short_film.read_bytes() + b"more")
    before = (out / "manifest.json").read_bytes()
    done = here("run", other, "--out", out, *QUICK, "--resume")
    assert done.returncode == 2
    assert "truck.mp4, and" in done.stderr
    assert "is not the same" in done.stderr
    assert (out / "manifest.json").read_bytes() == before


def test_a_run_folder_is_no_source(here: Reel3d, out: Path) -> None:
    done = here("run", out, *QUICK)
    assert done.returncode == 3
    assert "is a run folder, not a source; `reel3d view` shows it" in done.stderr


def test_what_is_left_out_is_told(here: Reel3d, short_film: Path) -> None:
    done = here("run", short_film, *QUICK, "flow.model=none")
    assert done.returncode == 0, done.stderr
    assert "action/motion was left out: no stage makes Motion" in done.stderr


def test_resume_makes_a_damaged_artifact_again(here: Reel3d, short_film: Path, out: Path) -> None:
    whole = (out / "events.jsonl").read_bytes()
    (out / "events.jsonl").write_bytes(whole[:10])
    assert here("run", short_film, "--out", out, *QUICK, "--resume").returncode == 0
    assert (out / "events.jsonl").read_bytes() == whole


def test_an_interrupted_run_is_finished_by_resume(
    here: Reel3d, short_film: Path, finished_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = [str(short_film), "--out", str(out), *QUICK]
    environment = {**os.environ, "PYTHONPATH": f"{MISBEHAVING}{os.pathsep}{ROOT}"}
    running = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "run", *words, "flow.model=slow"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not (out / ".reel3d" / "slow-began").exists():
            assert time.monotonic() < deadline, "the run never reached its flow stage"
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        # It must not wait for the 60 s that the stage takes.
        _, said = running.communicate(timeout=50)
    finally:
        running.kill()
    assert running.returncode == 130
    assert "--resume finishes the run" in said
    assert "Traceback" not in said
    assert not (out / "manifest.json").exists()
    assert not list(out.rglob(".writing-*"))
    assert not _children_of(running.pid)

    finished = here("run", *words, "--resume")
    assert finished.returncode == 0, finished.stderr
    for name in ("events.jsonl", "frames.parquet"):
        assert (out / name).read_bytes() == (finished_run / name).read_bytes()


def _children_of(pid: int) -> list[str]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[1] == str(pid):
            found.append(status.parent.name)
    return found


def test_a_crash_in_a_stage_is_data_and_the_rest_goes_on(
    here: Reel3d, short_film: Path, tmp_path: Path
) -> None:
    done = here("run", short_film, "--out", "out", *QUICK, "flow.model=crash", models=MISBEHAVING)
    assert done.returncode == 4
    assert "ended by signal 11 (SIGSEGV)" in done.stderr
    assert "Traceback" not in done.stderr
    errors = lines(tmp_path / "out" / "errors.jsonl")
    assert errors[0]["stage"] == "flow/crash"
    assert (tmp_path / "out" / "report.html").is_file()
    # A crash may be an accident: the next resume tries again, with another model it succeeds.
    again = here("run", short_film, "--out", "out", *QUICK, "--resume")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "out" / "flow.mp4").is_file()


def test_a_stage_that_hangs_is_ended_at_its_deadline(
    here: Reel3d, short_film: Path, tmp_path: Path
) -> None:
    done = here("run", short_film, "--out", "out", *QUICK, "flow.model=hang", models=MISBEHAVING)
    assert done.returncode == 4
    assert "flow/hang gave no sign of life for 1 s and was ended" in done.stderr


def test_a_poison_clip_costs_itself_only(here: Reel3d, short_film: Path, tmp_path: Path) -> None:
    words = (*QUICK, "sample.clip_frames=8", "flow.model=poison")
    done = here("run", short_film, "--out", "out", *words, models=MISBEHAVING)
    assert done.returncode == 4
    (error,) = lines(tmp_path / "out" / "errors.jsonl")
    assert error["what"].startswith("clip truck/")
    assert "a bug in flow/poison: ZeroDivisionError: a poisonous clip" in error["why"]
    assert "Traceback" in error["detail"]
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out" / "events.jsonl").stat().st_size > 0


def test_a_full_disk_stops_the_run_with_one_line(short_film: Path, tmp_path: Path) -> None:
    """A file size limit stands in for the full disk: both fail in the middle of a write."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))

    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pipeline.cli",
            "run",
            short_film,
            "--out",
            tmp_path / "out",
            *QUICK,
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": "/nonexistent"},
        capture_output=True,
        text=True,
        preexec_fn=limit,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "no space is left there; free some, then add --resume" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert not list((tmp_path / "out").rglob(".writing-*"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda out: out.write_text("x"), "is a file; give --out a folder"),
        (lambda out: (out / "mine").mkdir(parents=True), "exists and is not empty; add --resume"),
    ],
)
def test_an_existing_out_is_left_alone(
    here: Reel3d,
    short_film: Path,
    tmp_path: Path,
    make: Callable[[Path], object],
    message: str,
) -> None:
    out = tmp_path / "out"
    make(out)
    done = here("run", short_film, "--out", out, *QUICK)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_resume_of_a_folder_that_is_no_run_is_refused(
    here: Reel3d, short_film: Path, tmp_path: Path
) -> None:
    (tmp_path / "out" / "mine").mkdir(parents=True)
    done = here("run", short_film, "--out", "out", *QUICK, "--resume")
    assert done.returncode == 2
    assert "out holds no run to resume" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_out_is_one_line(here: Reel3d, short_film: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    done = here("run", short_film, "--out", "locked/out", *QUICK)
    assert done.returncode == 2
    assert "cannot write" in done.stderr


def test_out_on_a_file_system_that_takes_no_files_is_one_line(
    here: Reel3d, short_film: Path
) -> None:
    done = here("run", short_film, "--out", "/proc/reel3d", *QUICK)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "cannot write /proc/reel3d" in done.stderr


def test_two_runs_do_not_share_a_folder(here: Reel3d, short_film: Path, out: Path) -> None:
    with (out / ".reel3d" / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = here("run", short_film, "--out", out, *QUICK, "--resume")
    assert done.returncode == 2
    assert "another reel3d is working on" in done.stderr


def test_several_sources_get_a_folder_each_and_one_bad_one_costs_itself(
    here: Reel3d, short_film: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.mp4").write_text("no video")
    done = here("run", short_film, "bad.mp4", short_film, "--out", "all", *QUICK)
    assert done.returncode == 3
    assert done.stdout.splitlines() == ["all/truck", "all/truck-2"]
    assert "bad.mp4" in done.stderr
    assert not (tmp_path / "all" / "bad").exists()


def test_awkward_names_are_read_and_cleaned(
    reel3d: Reel3d, short_film: Path, tmp_path: Path
) -> None:
    names = ['it\'s "mine" & yours.mp4', "line\nbreak.mp4", "füñ 🎬.mp4", "-x.mp4"]
    for name in names:
        (tmp_path / name).write_bytes(short_film.read_bytes())
    quick = ("sample.fps=4", "export.flow_video=none", "export.storyboard=none")
    done = reel3d("run", *(f"./{name}" for name in names), *QUICK, *quick)
    assert done.returncode == 0, done.stderr
    folders = [tmp_path / line for line in done.stdout.splitlines()]
    assert set(folders) == set((tmp_path / "runs").iterdir())
    for folder, name in zip(folders, names, strict=True):
        assert folder.name.strip("._-")
        assert not set(folder.name) & set("\n\"'& /")
        assert not set(folder.name) & set("\\:*?<>|")
        shown = manifest(folder)["source"]["shown"]
        assert shown.isprintable()
        assert shown[:6] in f"./{name}"
