"""Every stage that folds over a stream goes on from a snapshot as if nothing had happened.

A film is run without a break; then it is cut at every border of a clip: the state goes through
the disk, what a crash may leave behind is there, and a new instance does the rest.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from pipeline.chain import ORDER
from pipeline.contract import (
    Actions,
    Artifact,
    Context,
    Event,
    Frames,
    Keyframes,
    Loss,
    Masks,
    Metric,
    Motion,
    Scores,
    Stage,
    Tracks,
    Warn,
)
from pipeline.contract.stage import find, iterate, models, options_of, ports
from pipeline.storage.snapshots import Snapshots
from tests.support import results
from tests.support.media import Told, numbered, read, write_video
from tests.support.motions import clip_of, texture

Parcel = dict[type, Any]

HEIGHT, WIDTH = 96, 160
OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "keyframe/parallax": (
        {"min_keyframes": 2, "max_keyframes": 50, "step": 0.06},
        {"min_keyframes": 2, "max_keyframes": 7, "step": 0.03},
        {"min_keyframes": 100},
    ),
    "keyframe/every": ({"n": 5},),
    "track/overlap": ({"patience_s": 0.2}, {"min_seen": 1, "min_overlap": 0.6}),
    "export/storyboard": ({"pictures": 6, "width": 120},),
    "export/events": ({"every_s": 0},),
    "export/flo": ({"every": 2},),
    "action/recognized": ({"recognized_s": 0}, {"recognized_s": 0.2, "top_k": 2}),
}
WHOLE = (
    *(
        "colmap",
        "depth_png",
        "depth_video",
        "held_out",
        "masks",
        "mesh",
        "points",
        "splat",
        "splat_video",
    ),
    *("splats", "spz", "trajectory", "transforms"),
)
"""Exports that take a whole stream in one call: nothing to remember between two."""
STEPS = ("flow", "action", "segment", "track", "keyframe", "export")
FOLDING = [
    (step, model)
    for step in STEPS
    for model in models(step)
    if find(step, model).scope == "stream" and not (step == "export" and model in WHOLE)
]


def film() -> list[Parcel]:
    """Eight clips of three shots, two of a single pair; what is known at the end comes last."""
    rng = np.random.default_rng(5)
    parcels: list[Parcel] = []
    at = 0
    for shot, clips in enumerate(
        (((9, 0), (9, 1), (9, 3), (9, 1), (5, 1)), ((2, 0), (2, 1)), ((9, 0),))
    ):
        base = texture(HEIGHT, WIDTH, seed=shot)
        speed = 3 if shot else 1.7
        for n, (length, overlap) in enumerate(clips):
            rows = np.arange(at - overlap, at - overlap + length)
            images = np.stack([np.roll(base, -round(speed * r), axis=1) for r in rows.tolist()])
            made = clip_of(images, rows * 70_000_000, shot=shot, overlap=overlap)
            extra = {
                "index": rows * 2,
                "sharpness": rng.uniform(1, 2, 1000).astype(np.float32)[rows],
                "intrinsics": np.tile(results.K, (length, 1, 1)) + rows[:, None, None],
                "metric": True,
                "depth": images[..., 0] / np.float32(50) + rows[:, None, None].astype(np.float32),
                "right": np.ascontiguousarray(images[:, ::-1]),
                "baseline_m": 0.25,
            }
            frames = Frames(**{**_fields(made), **extra})
            flow = np.zeros((length - 1, HEIGHT, WIDTH, 2), np.float32)
            flow[..., 0] = -speed + rng.normal(0, 0.1, flow.shape[:3])
            flow[:, 30:60, 40:80, 1] = 4 * (n % 2)
            trust = np.full(flow.shape[:3], 0.9, np.float32)
            motion = Motion(clip=frames.clip, flow=flow, confidence=trust)
            parcels.append(
                {
                    Frames: frames,
                    Motion: motion,
                    Scores: _scores(frames, n),
                    Masks: _masks(frames, rows),
                }
            )
            at = int(rows[-1]) + 1
    for n, parcel in enumerate(parcels[1:]):
        parcel[Actions] = results.actions((n / 2, n / 2 + 1, "pan-left", "camera"))
        parcel[Tracks] = results.tracks((n / 2, n / 2 + 1, "person", n + 1))
    parcels.append({Keyframes: results.keyframes([0, 6, 30])})
    return parcels


def _scores(frames: Frames, n: int) -> Scores:
    """Two windows; labels come and go, one over several clips, two over one another."""
    middle_ns, end_ns = int(frames.pts_ns[len(frames.pts_ns) // 2]), int(frames.pts_ns[-1]) + 70_000
    high = np.array([[0.9, 0.1 + 0.6 * (n % 2), 0.2], [0.4, 0.8, 0.55 * (n == 2)]], np.float32)
    return Scores(
        clip=frames.clip,
        shot=frames.shot,
        start_ns=np.array([frames.pts_ns[0], middle_ns], np.int64),
        end_ns=np.array([middle_ns, end_ns], np.int64),
        score=high,
        label=("walking", "running", "waving"),
        model="some/network",
    )


def _masks(frames: Frames, rows: np.ndarray) -> Masks:
    """A thing that crosses the picture and is hidden now and then, and one that is always there."""
    instance = np.zeros((len(rows), HEIGHT, WIDTH), np.uint16)
    for t, row in enumerate(rows.tolist()):
        instance[t, 60:80, 10:40] = 1
        if row % 9 < 6:
            left = (3 * row) % 100
            instance[t, 20:50, left : left + 30] = 2
    seen = [(t, n) for t in range(len(rows)) for n in np.unique(instance[t])[1:].tolist()]
    boxes = [(10, 60, 40, 80), (0, 20, 30, 50)]
    box = np.array([boxes[n - 1] for _, n in seen], np.float32)
    moved = np.array([(3 * int(rows[t])) % 100 if n == 2 else 0 for t, n in seen])
    box[:, [0, 2]] += moved[:, None]
    return Masks(
        clip=frames.clip,
        moving=instance == 2,
        frame=np.array([t for t, _ in seen], np.int32),
        box=box,
        score=np.array([0.5 + n / 10 for _, n in seen], np.float32),
        label=tuple(("dog", "person")[n - 1] for _, n in seen),
        model="segment/scripted",
        instance=instance,
    )


def _fields(message: Any) -> dict[str, Any]:
    return {f.name: getattr(message, f.name) for f in fields(message)}


@dataclass
class Outcome:
    """What came out of a stage."""

    messages: list[Any] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def told(self) -> list[Any]:
        """What goes into the manifest."""
        return [e for e in self.events if isinstance(e, Artifact | Loss | Metric | Warn)]


def opened(step: str, model: str, folder: Path, outcome: Outcome, variant: int = 0) -> Stage[Any]:
    options = OPTIONS.get(f"{step}/{model}", ({},))[variant]
    stage = find(step, model)(options_of(step, model)(**options))
    scratch = folder / ".reel3d" / "scratch"
    stage.open(Context(folder=folder, scratch=scratch, report=outcome.events.append))
    return stage


def feed(stage: Stage[Any], parcels: list[Parcel], outcome: Outcome) -> Iterator[int]:
    """Feed parcels; yield after each that the stage took."""
    wires = ports(type(stage))
    for n, parcel in enumerate(parcels):
        arguments = wires.take(parcel)
        if arguments:
            outcome.messages += iterate(stage.process(**arguments))
        yield n


def finish(stage: Stage[Any], outcome: Outcome) -> None:
    outcome.messages += iterate(stage.finish())
    stage.close()


def files(folder: Path) -> dict[str, str]:
    """The run folder as a user finds it: path to hash."""
    shutil.rmtree(folder / ".reel3d", ignore_errors=True)
    found = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def _unlike(one: Path, other: Path) -> list[str]:
    """Where the files of two folders part: what a failure that comes once leaves to go by."""
    told = []
    for path in sorted(p for p in one.rglob("*") if p.is_file()):
        twin = other / path.relative_to(one)
        a, b = path.read_bytes(), twin.read_bytes() if twin.is_file() else b""
        if a != b:
            at = next((n for n, (i, j) in enumerate(zip(a, b, strict=False)) if i != j), len(a))
            told.append(f"{path.name}: {len(a)} and {len(b)} bytes, from {at}: {a[at:][:32].hex()}")
            told.append(b[at:][:32].hex())
    return told


def same(a: list[Any], b: list[Any]) -> bool:
    """Whether two lists of messages hold the same values."""
    if [type(m) for m in a] != [type(m) for m in b]:
        return False
    for one, other in zip(a, b, strict=True):
        for name, value in _fields(one).items():
            twin = getattr(other, name)
            if isinstance(value, np.ndarray):
                alike = value.dtype == twin.dtype and np.array_equal(
                    value, twin, equal_nan=value.dtype.kind == "f"
                )
            else:
                alike = value == twin
            if not alike:
                return False
    return True


def _many(message: Any) -> bool:
    return isinstance(message, Keyframes) and len(message.images) > 30


def spoil(scratch: Path) -> None:
    """Leave what a crash in the middle of a write leaves: a torn tail, and a file too many."""
    for path in scratch.iterdir() if scratch.is_dir() else ():
        if path.is_file():
            with path.open("ab") as spool:
                spool.write(b'\x07torn{"index": 12')


def test_the_film_covers_every_stage_that_folds() -> None:
    """A new model must be put into the one list or the other."""
    known = {(step, model) for step in ORDER[2:] if step != "report" for model in models(step)}
    streams = {(s, m) for s, m in known if find(s, m).scope == "stream" and s in STEPS}
    assert streams == set(FOLDING) | {("export", model) for model in WHOLE}
    reads = {t for parcel in film() for t in parcel}
    for step, model in FOLDING:
        assert set(ports(find(step, model)).required.values()) <= reads
    for model in WHOLE:
        assert not {Frames, Motion, Actions} & set(ports(find("export", model)).reads)


@pytest.mark.parametrize(
    ("step", "model", "variant"),
    [(s, m, v) for s, m in FOLDING for v in range(len(OPTIONS.get(f"{s}/{m}", "1")))],
)
def test_a_stage_goes_on_from_every_snapshot(
    step: str, model: str, variant: int, tmp_path: Path
) -> None:
    parcels = film()
    whole = Outcome()
    (tmp_path / "whole").mkdir()
    stage = opened(step, model, tmp_path / "whole", whole, variant)
    list(feed(stage, parcels, whole))
    finish(stage, whole)
    expected = files(tmp_path / "whole")
    assert expected or whole.messages

    # A source that is kept whole takes time at its end, where all its frames are compared.
    cuts = (
        (2, 7) if len(whole.messages) and _many(whole.messages[-1]) else range(1, len(parcels) + 1)
    )
    for cut in cuts:
        folder = tmp_path / f"cut-{cut}"
        folder.mkdir()
        kept = Snapshots(folder / ".reel3d" / "snapshots")
        first = Outcome()
        stage = opened(step, model, folder, first, variant)
        for n in feed(stage, parcels[: cut + 1], first):
            if n == cut - 1:
                kept.save(cut, stage.snapshot())
                before = Outcome(list(first.messages), list(first.events))
        # It is gone without a word: nothing is closed. What came after the snapshot is lost.
        spoil(folder / ".reel3d" / "scratch")
        again = opened(step, model, folder, before, variant)
        again.restore(Snapshots(folder / ".reel3d" / "snapshots").load(cut)[0])
        list(feed(again, parcels[cut:], before))
        finish(again, before)
        stage.close()
        assert same(before.messages, whole.messages), f"cut after {cut}"
        assert set(map(repr, before.told())) == set(map(repr, whole.told()))
        assert files(folder) == expected, f"cut after {cut}: {_unlike(tmp_path / 'whole', folder)}"


@pytest.mark.parametrize(("step", "model"), FOLDING)
def test_a_crash_before_the_first_snapshot_leaves_no_trace(
    step: str, model: str, tmp_path: Path
) -> None:
    parcels = film()
    made = []
    for folder in (tmp_path / "clean", tmp_path / "crashed"):
        folder.mkdir()
        if folder.name == "crashed":
            lost = opened(step, model, folder, Outcome())
            list(feed(lost, parcels[2:4], Outcome()))
            spoil(folder / ".reel3d" / "scratch")
        outcome = Outcome()
        stage = opened(step, model, folder, outcome)
        list(feed(stage, parcels, outcome))
        finish(stage, outcome)
        made.append((outcome.messages, files(folder)))
    assert same(made[0][0], made[1][0])
    assert made[0][1] == made[1][1]


def arrays(state: Any) -> list[np.ndarray]:
    if isinstance(state, np.ndarray):
        return [state]
    items = state.values() if isinstance(state, dict) else state
    return [a for i in items for a in arrays(i)] if isinstance(state, dict | list | tuple) else []


@pytest.mark.parametrize(("step", "model"), FOLDING)
def test_a_snapshot_is_cheap(step: str, model: str, tmp_path: Path) -> None:
    """Large arrays are handed out as they are held, own and frozen; the rest stays small."""
    outcome = Outcome()
    stage = opened(step, model, tmp_path, outcome)
    held: dict[int, np.ndarray] = {}
    fresh_bytes = []
    for _ in feed(stage, film()[:-1], outcome):
        state = stage.snapshot()
        large = [a for a in arrays(state) if a.nbytes >= 16_384]
        assert all(a.base is None and not a.flags.writeable for a in large)
        twins = [a for a in arrays(stage.snapshot()) if a.nbytes >= 16_384]
        assert all(a is b for a, b in zip(large, twins, strict=True))
        fresh_bytes.append(sum(a.nbytes for a in large if id(a) not in held))
        held |= {id(a): a for a in large}
        small = Snapshots(tmp_path / "small")
        small.save(0, _without_large(state))
        assert (tmp_path / "small" / "0.json").stat().st_size < 40_000
    # At most the frames that the clip brought: colors, depth of 4 bytes, and the right views.
    assert max(fresh_bytes) <= 9 * HEIGHT * WIDTH * (3 + 4 + 3)
    stage.close()


def _without_large(state: Any) -> Any:
    if isinstance(state, np.ndarray):
        return None if state.nbytes >= 16_384 else state
    if isinstance(state, dict):
        return {key: _without_large(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [_without_large(value) for value in state]
    return state


def test_no_two_keyframes_in_a_row_carry_one_number(tmp_path: Path) -> None:
    """H.264, 7.4.3: idr_pic_id tells neighboring keyframes apart; players go by it."""
    stage = opened("export", "flow_video", tmp_path, Outcome())
    list(feed(stage, film(), Outcome()))
    finish(stage, Outcome())
    with av.open(str(tmp_path / "flow.mp4")) as file:
        packets = [bytes(p) for p in file.demux(file.streams.video[0]) if p.size]
    slices = [_slice(packet) for packet in packets]
    keys = [n for n, slice_ in enumerate(slices) if slice_[0] & 31 == 5]
    assert len(keys) == 8
    assert keys[-3] == keys[-2] - 1 == keys[-1] - 2
    numbers = [_idr_pic_id(slices[n]) for n in keys[-3:]]
    assert numbers[0] != numbers[1] != numbers[2], "the film has two clips of one pair"


def _slice(sample: bytes) -> bytes:
    """The first slice of an MP4 sample: 4 bytes of length before each NAL unit."""
    at = 0
    while sample[at + 4] & 31 not in (1, 5):
        at += 4 + int.from_bytes(sample[at : at + 4])
    return sample[at + 4 :]


def _idr_pic_id(slice_: bytes) -> int:
    bits = iter("".join(f"{byte:08b}" for byte in slice_[1:16]))

    def ue() -> int:
        zeros = 0
        while next(bits) == "0":
            zeros += 1
        return (1 << zeros) - 1 + int("0" + "".join(next(bits) for _ in range(zeros)), 2)

    first_mb, slice_type, parameter_set = ue(), ue(), ue()
    assert (first_mb, slice_type, parameter_set) == (0, 7, 0)
    # frame_num: x264 writes it in 4 bits with these settings, and an IDR picture is number 0.
    assert [next(bits) for _ in range(4)] == ["0"] * 4
    return ue()


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shots of 25 pictures as video with open groups, and a folder of images."""
    folder = tmp_path_factory.mktemp("films")
    images = [
        np.roll(np.maximum(numbered(n), texture(96, 160, seed=n // 25)), -(n % 25), axis=1)
        for n in range(75)
    ]
    gop = {"g": "10", "bf": "2", "x264-params": "open-gop=1:keyint=10:min-keyint=5:scenecut=0"}
    write_video(folder / "film.mp4", images, options=gop)
    write_video(folder / "film.ts", images, options=gop)
    (folder / "images").mkdir()
    for n, image in enumerate(images[:40]):
        cv2.imwrite(str(folder / "images" / f"{n:03d}.png"), image[..., ::-1])
    return folder


SAMPLERS = {
    "adaptive": {"clip_frames": 5},
    "dense": {"frames": 8, "stride": 2, "overlap": 3},
    "fps": {"clip_frames": 4, "fps": 9},
    "keyframe": {"clip_frames": 2},
    "random": {"clip_frames": 4, "frames": 17},
    "uniform": {"clip_frames": 4, "frames": 13},
}


def sampler(model: str) -> Stage[Any]:
    stage = find("sample", model)(options_of("sample", model)(**SAMPLERS[model]))
    stage.open(Context(seed=3))
    return stage


def taken(path: Path, model: str, state: Any = None, told: Told | None = None):
    """Yield each clip and the state after it."""
    decode = "images" if path.is_dir() else "pyav"
    reader = read(path, decode, told)
    stage = sampler(model)
    if state is not None:
        stage.restore(state)
    try:
        for clip in stage.process(reader):
            yield clip, stage.snapshot()
    finally:
        stage.close()
        reader.close()


@pytest.mark.parametrize("name", ["film.mp4", "film.ts", "images"])
@pytest.mark.parametrize("model", sorted(SAMPLERS))
def test_a_sampler_goes_on_from_every_clip(
    model: str, name: str, films: Path, tmp_path: Path
) -> None:
    assert set(SAMPLERS) == set(models("sample"))
    whole = list(taken(films / name, model))
    assert len(whole) >= 3
    clips = [clip for clip, _ in whole]
    if (model, name) == ("adaptive", "film.mp4"):
        assert {clip.shot for clip in clips} == {0, 1, 2}
    for n, (_, state) in enumerate(whole):
        if state is None:
            assert n >= len(whole) - 2, "only what comes once the film is over has no state"
            continue
        kept = Snapshots(tmp_path / "snapshots")
        kept.save(n, state)
        rest = taken(films / name, model, Snapshots(tmp_path / "snapshots").load(n)[0])
        assert same([clip for clip, _ in rest], clips[n + 1 :]), f"after clip {n}"


def test_going_on_decodes_a_group_and_not_the_film(films: Path) -> None:
    """The second half of a film costs about half of what it costs to decode it all."""
    states = list(taken(films / "film.mp4", "adaptive"))
    clip, state = states[-3]
    reader = read(films / "film.mp4")
    context = reader._stream.codec_context
    counted: list[int] = []
    decode = reader._packets

    def packets(landed: Any) -> Iterator[Any]:
        for place, packet in decode(landed):
            counted.append(place)
            yield place, packet

    reader._packets = packets
    stage = sampler("adaptive")
    stage.restore(state)
    rest = list(stage.process(reader))
    assert len(rest) == 2
    # Open groups of 10: at most the group before the frame that is needed first, and its leaders.
    assert min(counted) >= clip.index[-1] - 30
    assert context.name == "h264"
    reader.close()


def test_what_a_cut_off_film_lacks_is_told_once_more_and_in_the_same_words(
    films: Path, tmp_path: Path
) -> None:
    """A damaged group in the middle: no state after it, the same words after one before it."""
    data = bytearray((films / "film.mp4").read_bytes())
    with av.open(str(films / "film.mp4")) as file:
        packets = [(p.pos, p.size) for p in file.demux(file.streams.video[0]) if p.size]
    for pos, size in packets[45:48]:
        data[pos + 4 : pos + size] = b"\xff" * (size - 4)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    told = Told()
    whole = list(taken(path, "adaptive", told=told))
    assert told.losses
    states = [state for _, state in whole]
    known = [n for n, state in enumerate(states) if state is not None]
    assert known == list(range(len(known))), "none from the first gap on"
    assert 1 < len(known) < len(states)
    for n in known:
        again = Told()
        rest = [clip for clip, _ in taken(path, "adaptive", states[n], again)]
        assert same(rest, [clip for clip, _ in whole[n + 1 :]])
        assert again.losses == told.losses
