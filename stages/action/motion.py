"""Camera and object motion recognized from optical flow, and the shots."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.contract import Actions, Frames, Motion, Scores, Stage
from stages.action._camera import (
    FEWEST,
    LABELS,
    SHAKE_NS,
    SMOOTH_NS,
    PairMotion,
    costs_of,
    packed,
    unpacked,
)
from stages.action._decoding import Decoder, StateRun, Step
from stages.action._objects import object_evidence
from stages.action._planar import camera_motion, fit_plane
from stages.action._recognized import Recognized, RecognizedOptions
from stages.action._rows import Row, actions_of, recognized_rows
from stages.action._samples import sample_flow

__all__ = ["Config", "Model"]

MODEL = "action/motion"

LOOK_AHEAD_NS = SMOOTH_NS + SHAKE_NS
"""A pair is judged when everything within this has been seen."""
CAMERA_LAG_NS = 500_000_000
OBJECT_LAG_NS = 1_000_000_000
"""With the look-ahead (camera only) and the shortest segment, nothing is later than 1.5 s."""
CAMERA_SWITCH_S = 0.16
OBJECT_SWITCH_S = 0.12
"""A change of label costs what this long in a wholly wrong label costs: two changes outweigh the
half periods of a shaking hand (0.2-0.6 s), not a pan of half a second."""
UNSEEN_COST = 0.5
"""What it costs at most to say that an object moves: along epipolar lines nothing shows it."""
FEWEST_SAMPLES = 24
"""Eight parameters need some redundancy."""
SINGLE_FRAME_NS = 40_000_000
"""How long a shot lasts of which only one frame was sampled and that nothing follows."""


class Config(RecognizedOptions):
    """Options of the recognition of camera and object motion, and of a recognizer's actions."""

    shortest_s: float = Field(
        0.4, ge=0.1, le=2.0, description="camera motions shorter than this join their neighbor"
    )
    focal_widths: float = Field(
        0.85,
        ge=0.2,
        le=10.0,
        description="focal length in image widths where the source does not say it",
    )


@dataclass(kw_only=True)
class ShotState:
    """Everything remembered of the shot in progress; its size does not grow with the shot."""

    number: int
    start_ns: int
    last_ns: int
    camera: Decoder
    objects: Decoder
    waiting: list[PairMotion] = field(default_factory=list[PairMotion])
    """Pairs around the next one to be judged, in order."""
    judged: int = 0
    """How many of `waiting` have been judged; they stay while later ones look back at them."""

    def snapshot(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "number": self.number,
            "start_ns": self.start_ns,
            "last_ns": self.last_ns,
            "camera": self.camera.snapshot(),
            "objects": self.objects.snapshot(),
            "waiting": packed(self.waiting),
            "judged": self.judged,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot of the same shot."""
        self.last_ns, self.judged = state["last_ns"], state["judged"]
        self.camera.restore(state["camera"])
        self.objects.restore(state["objects"])
        self.waiting = unpacked(state["waiting"])


class Model(Stage[Config]):
    """Labels what the camera does, when objects move by themselves, and the shots.

    Camera segments (kind `camera`) tile each shot and come at most 1.5 s after they end; object
    segments (kind `object`) lie over them; a shot (kind `shot`) comes when the next one begins.
    What a recognizer saw (kind `action`) comes as `Recognized` settles it. A
    shot of which one frame was sampled has no camera segment. Where too little of the image
    could be followed, the label is the neighbors' or `handheld`, with a score near 0.
    """

    scope = "stream"
    version = 2

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._shot: ShotState | None = None
        self._recognized = Recognized(config)
        self._pairs = self._followed = 0

    def process(
        self, frames: Frames, motion: Motion, scores: Scores | None = None
    ) -> Actions | None:
        """Take the next clip and return the segments that it settles."""
        rows: list[Row] = []
        if scores is not None:
            rows += recognized_rows(self._recognized.push(scores))
        shot = self._shot
        if shot is not None and frames.shot != shot.number:
            rows += self._end(shot, int(frames.pts_ns[0]))
            shot = None
        first = int(frames.pts_ns[0])
        if shot is None:
            shot = self._shot = self._begin(frames.shot, first)
        elif first > shot.last_ns:
            # Frames between the clips are missing: nothing is known of the time between.
            rows += self._take(shot, _unknown(shot.last_ns, first))
        for t in range(len(frames.pts_ns) - 1):
            if frames.pts_ns[t + 1] > shot.last_ns:
                rows += self._take(shot, self._measure_pair(frames, motion, t))
        shot.last_ns = max(shot.last_ns, int(frames.pts_ns[-1]))
        return actions_of(rows)

    def finish(self) -> Actions | None:
        """Return the rest: the last shot and what was not yet settled."""
        if self._pairs:
            self.measure("trusted_pairs_share", self._followed / self._pairs)
            if self._followed < self._pairs / 2:
                self.warn(
                    f"the image could be followed between only {self._followed} of "
                    f"{self._pairs} pairs of sampled frames: camera labels are uncertain; "
                    "sample more frames a second"
                )
        rows = recognized_rows(self._recognized.flush())
        shot, self._shot = self._shot, None
        if shot is not None:
            rows += self._end(shot, max(shot.last_ns, shot.start_ns + SINGLE_FRAME_NS))
        return actions_of(rows)

    def snapshot(self) -> Any:
        """Return the shot in progress and the counts."""
        return {
            "shot": self._shot and self._shot.snapshot(),
            "pairs": self._pairs,
            "followed": self._followed,
            "recognized": self._recognized.snapshot(),
        }

    def restore(self, state: Any) -> None:
        """Go on from a snapshot."""
        self._pairs, self._followed = state["pairs"], state["followed"]
        self._recognized.restore(state["recognized"])
        self._shot = None
        if state["shot"] is not None:
            self._shot = self._begin(state["shot"]["number"], state["shot"]["start_ns"])
            self._shot.restore(state["shot"])

    def _begin(self, number: int, start_ns: int) -> ShotState:
        shortest = round(self.config.shortest_s * 1e9)
        return ShotState(
            number=number,
            start_ns=start_ns,
            last_ns=start_ns,
            camera=Decoder(switch_s=CAMERA_SWITCH_S, lag_ns=CAMERA_LAG_NS, shortest_ns=shortest),
            objects=Decoder(switch_s=OBJECT_SWITCH_S, lag_ns=OBJECT_LAG_NS, shortest_ns=shortest),
        )

    def _measure_pair(self, frames: Frames, motion: Motion, t: int) -> PairMotion:
        start, end = int(frames.pts_ns[t]), int(frames.pts_ns[t + 1])
        samples = sample_flow(motion.flow[t], motion.confidence[t], frames.images[t])
        self._pairs += 1
        if len(samples.flow) < FEWEST_SAMPLES or samples.weight.sum() <= 0:
            return _unknown(start, end)
        focal = self.config.focal_widths
        if frames.intrinsics is not None:
            focal = float(frames.intrinsics[t, 0, 0]) / frames.images.shape[2]
        fit = fit_plane(samples)
        camera = camera_motion(samples, fit, focal)
        self._followed += fit.support >= FEWEST
        return PairMotion(
            start_ns=start,
            end_ns=end,
            motion=camera,
            trust=fit.support,
            moving=object_evidence(samples, fit),
        )

    def _take(self, shot: ShotState, pair: PairMotion) -> list[Row]:
        moving = Step(
            start_ns=pair.start_ns,
            end_ns=pair.end_ns,
            costs=_object_costs(pair),
            trust=pair.trust,
        )
        rows = _object_rows(shot.objects.push(moving))
        shot.waiting.append(pair)
        while (
            shot.judged < len(shot.waiting)
            and pair.end_ns - shot.waiting[shot.judged].end_ns >= LOOK_AHEAD_NS
        ):
            rows += self._judge(shot)
        return rows

    def _judge(self, shot: ShotState) -> list[Row]:
        pair = shot.waiting[shot.judged]
        step = Step(
            start_ns=pair.start_ns,
            end_ns=pair.end_ns,
            costs=costs_of(shot.waiting, shot.judged),
            trust=pair.trust,
        )
        rows = [_camera_row(run) for run in shot.camera.push(step)]
        shot.judged += 1
        while shot.judged and pair.end_ns - shot.waiting[0].end_ns > LOOK_AHEAD_NS:
            shot.waiting.pop(0)
            shot.judged -= 1
        return rows

    def _end(self, shot: ShotState, end_ns: int) -> list[Row]:
        """Settle a shot that ends at `end_ns`, where the next one begins."""
        rows: list[Row] = []
        while shot.judged < len(shot.waiting):
            rows += self._judge(shot)
        runs = shot.camera.flush()
        if runs:
            runs[-1].end_ns = end_ns
        rows += [_camera_row(run) for run in runs]
        rows += _object_rows(shot.objects.flush())
        rows.append(("shot", "shot", shot.start_ns, end_ns, 1.0, MODEL))
        return rows


def _unknown(start_ns: int, end_ns: int) -> PairMotion:
    return PairMotion(start_ns=start_ns, end_ns=end_ns, motion=None, trust=0.0, moving=0.0)


def _object_costs(pair: PairMotion) -> npt.NDArray[np.float64]:
    """Return the costs of rest and of motion; an object is not always seen to move."""
    if pair.trust < FEWEST:
        return np.array([0.5, 0.5])
    return np.array([pair.moving, min(1 - pair.moving, UNSEEN_COST)])


def _camera_row(run: StateRun) -> Row:
    return LABELS[run.state], "camera", run.start_ns, run.end_ns, run.score, MODEL


def _object_rows(runs: list[StateRun]) -> list[Row]:
    return [
        ("object-moving", "object", r.start_ns, r.end_ns, r.score, MODEL) for r in runs if r.state
    ]
