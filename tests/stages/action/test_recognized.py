"""Scores of windows become segments: hysteresis, the best of what overlaps, nothing too late."""

from typing import Any

import numpy as np
import pytest

from pipeline.contract import Actions, Context, Frames, Motion, Scores
from pipeline.contract.stage import find, options_of
from stages.action._recognized import Recognized, RecognizedOptions
from tests.support.motions import clip_of

S = 1_000_000_000
Row = tuple[float, float, str]


def scores(
    windows: list[tuple[float, float, list[float]]],
    labels: tuple[str, ...] = ("a",),
    shot: int = 0,
) -> Scores:
    """Windows of (start_s, end_s, score of each label)."""
    return Scores(
        clip="c",
        shot=shot,
        start_ns=np.array([round(w[0] * S) for w in windows], np.int64),
        end_ns=np.array([round(w[1] * S) for w in windows], np.int64),
        score=np.array([w[2] for w in windows], np.float32),
        label=labels,
        model="some/network",
    )


def segments(clips: list[Scores], **options: Any) -> list[Row]:
    fold = Recognized(RecognizedOptions(**options))
    found = [s for clip in clips for s in fold.push(clip)] + fold.flush()
    return [(s.start_ns / S, s.end_ns / S, s.label) for s in found]


def test_a_label_begins_high_and_lasts_while_it_is_not_low() -> None:
    values = [0.2, 0.4, 0.6, 0.4, 0.35, 0.2, 0.4, 0.1]
    clips = [scores([(t, t + 1, [v])]) for t, v in enumerate(values)]
    assert segments(clips, recognized_from=0.5, recognized_while=0.3) == [(2, 5, "a")]
    fold = Recognized(RecognizedOptions())
    found = [s for clip in clips for s in fold.push(clip)]
    assert found[0].score == pytest.approx((0.6 + 0.4 + 0.35) / 3)
    assert found[0].model == "some/network"


def test_windows_that_cover_the_same_time_are_averaged() -> None:
    clip = scores([(0, 2, [0.9]), (1, 3, [0.3])])
    # 0-1: 0.9, 1-2: 0.6, 2-3: 0.3
    assert segments([clip], recognized_while=0.5) == [(0, 2, "a")]
    assert segments([clip], recognized_while=0.25) == [(0, 3, "a")]


def test_what_the_clip_before_has_covered_is_settled() -> None:
    clips = [scores([(0, 2, [0.9])]), scores([(1, 3, [0.0])])]
    assert segments(clips) == [(0, 2, "a")]


def test_segments_run_on_over_clips_but_not_over_cuts_and_holes() -> None:
    clips = [scores([(0, 1, [0.9])]), scores([(1, 2, [0.8])])]
    assert segments(clips) == [(0, 2, "a")]
    assert segments([clips[0], scores([(1, 2, [0.8])], shot=1)]) == [(0, 1, "a"), (1, 2, "a")]
    assert segments([clips[0], scores([(1.5, 2, [0.8])])]) == [(0, 2, "a")]
    assert segments([clips[0], scores([(2.5, 3, [0.8])])]) == [(0, 1, "a"), (2.5, 3, "a")]


def test_short_ones_are_left_out() -> None:
    clips = [scores([(0, 0.3, [0.9]), (0.3, 1, [0.0])])]
    assert segments(clips, recognized_s=0.5) == []
    assert segments(clips, recognized_s=0.3) == [(0, 0.3, "a")]


def test_of_what_overlaps_the_best_stay() -> None:
    two = ("a", "b")
    clips = [
        scores([(0, 1, [0.6, 0.9]), (1, 2, [0.6, 0.9])], two),
        scores([(2, 3, [0.9, 0.0])], two),
    ]
    # b: 0-2 at 0.9; a: 0-3 at 0.7; they share 2 of 3 seconds.
    assert segments(clips) == [(0, 2, "b")]
    assert sorted(segments(clips, top_k=2)) == [(0, 2, "b"), (0, 3, "a")]
    assert sorted(segments(clips, most_overlap=0.7)) == [(0, 2, "b"), (0, 3, "a")]


def slow_suppression(all_of: list[Any], options: RecognizedOptions) -> list[Any]:
    """Non-maximum suppression with everything known."""
    kept: list[Any] = []
    for one in sorted(all_of, key=lambda s: s.rank):
        over = [k for k in kept if one.overlap(k) >= options.most_overlap]
        if len(over) < options.top_k:
            kept.append(one)
    return kept


@pytest.mark.parametrize("seed", range(30))
def test_it_equals_suppression_with_everything_known(seed: int) -> None:
    """And what is handed out early would not be taken back."""
    rng = np.random.default_rng(seed)
    labels = tuple("abcdef")
    options = RecognizedOptions(top_k=int(rng.integers(1, 4)), most_overlap=0.4, recognized_s=0)
    walk = np.clip(np.cumsum(rng.normal(0, 0.25, (80, 6)), axis=0) % 1.2, 0, 1)
    clips = [scores([(t, t + 1, row.tolist())], labels) for t, row in enumerate(walk)]
    everything = Recognized(RecognizedOptions(top_k=100, most_overlap=1, recognized_s=0))
    known = [s for clip in clips for s in everything.push(clip)] + everything.flush()
    wanted = slow_suppression(known, options)
    fold = Recognized(options)
    found: list[Any] = []
    for clip in clips:
        new = fold.push(clip)
        now_ns = int(clip.end_ns[-1])
        # Whoever waits for longer than its own length over (1 / overlap - 1) waits in vain.
        found += new
        for late in fold._closed:
            longest = max(s.end_ns - s.start_ns for s in (late, *fold._closed))
            assert now_ns - late.end_ns <= longest / options.most_overlap + S
    found += fold.flush()
    key = [(s.start_ns, s.end_ns, s.label) for s in found]
    assert sorted(key) == sorted((s.start_ns, s.end_ns, s.label) for s in wanted)
    assert len(key) == len(set(key))


def test_motion_tells_what_was_recognized_beside_what_the_camera_does() -> None:
    stage: Any = find("action", "motion")(options_of("action", "motion")(recognized_s=0.1))
    stage.open(Context())
    parts: list[Actions | None] = []
    for n in range(3):
        images = np.full((5, 64, 96, 3), 90, np.uint8)
        frames: Frames = clip_of(images, (np.arange(5) + 4 * n) * 100_000_000)
        motion = Motion(
            clip=frames.clip,
            flow=np.zeros((4, 64, 96, 2), np.float32),
            confidence=np.ones((4, 64, 96), np.float32),
        )
        seen = scores([(0.4 * n, 0.4 * n + 0.5, [0.9 if n == 1 else 0.1])]) if n < 2 else None
        parts.append(stage.process(frames, motion, seen))
    parts.append(stage.finish())
    said = Actions.concat([part for part in parts if part is not None])
    rows = list(zip(said.kind, said.label, said.model, strict=True))
    assert ("camera", "static", "action/motion") in rows
    assert rows.count(("action", "a", "some/network")) == 1
    at = said.kind.index("action")
    assert said.start_ns[at] / S == pytest.approx(0.5)
    assert said.end_ns[at] / S == pytest.approx(0.9)
    assert said.score[at] == pytest.approx(0.9)
