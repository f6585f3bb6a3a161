"""Camera paths composed from labeled segments, with the tremor of a hand on top.

pan-right turns the camera to the right (the picture moves left); tilt-up turns it up; roll-cw
turns it clockwise seen from behind (the picture turns counter-clockwise); zoom changes the focal
length; dolly-in moves along the optical axis; truck-right moves along the camera's x axis.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tests.support.scenes.geometry import rigid, turn

YAW, PITCH, ROLL, LOG_FOCAL, TRUCK, DOLLY = range(6)

MOTIONS = {
    "pan-left": (YAW, -0.24), "pan-right": (YAW, 0.24),
    "tilt-up": (PITCH, 0.20), "tilt-down": (PITCH, -0.20),
    "roll-cw": (ROLL, 0.32), "roll-ccw": (ROLL, -0.32),
    "zoom-in": (LOG_FOCAL, 0.36), "zoom-out": (LOG_FOCAL, -0.36),
    "truck-left": (TRUCK, -0.62), "truck-right": (TRUCK, 0.62),
    "dolly-in": (DOLLY, 0.75), "dolly-out": (DOLLY, -0.75),
}  # fmt: skip
"""What a label drives and its usual rate: rad/s, log focal length per second, or m/s.

Chosen for 2-5 px of motion per frame at 640 x 360 and 30 fps, 2-3 m from the scene.
"""

CAMERA_LABELS = ("static", *MOTIONS, "handheld")
LABELS = (*CAMERA_LABELS, "object-moving")

EASE_S = 0.25
TREMOR_RAD, TREMOR_M = 0.0020, 0.0035
"""RMS of the tremor at ``jitter=1``: about a quarter pixel per frame at 640 x 360."""
SHAKE_RAD, SHAKE_M = 0.016, 0.012
"""RMS of a "handheld" segment: about three pixels per frame."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of one camera motion.

    Attributes:
        label: One of `CAMERA_LABELS`.
        duration_s: Seconds.
        speed: Factor on the usual rate of the label.
    """

    label: str
    duration_s: float
    speed: float = 1.0

    def __post_init__(self) -> None:
        if self.label not in CAMERA_LABELS:
            raise ValueError(f"{self.label = } is not one of {', '.join(CAMERA_LABELS)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Path:
    """A camera over time; row i of every array is frame i.

    Attributes:
        pts_ns: ``int64 [T]``.
        T_world_camera: ``float64 [T, 4, 4]``, OpenCV axes, meters.
        focal_px: ``float64 [T]``.
        labels: (label, start_s, end_s) in order of start.
        cuts: Frames that begin a new shot, 0 left out.
    """

    pts_ns: np.ndarray
    T_world_camera: np.ndarray
    focal_px: np.ndarray
    labels: tuple[tuple[str, float, float], ...]
    cuts: tuple[int, ...] = ()

    @property
    def length_m(self) -> float:
        """Length of the way of the camera's center, jumps at cuts left out."""
        steps = np.linalg.norm(np.diff(self.T_world_camera[:, :3, 3], axis=0), axis=1)
        steps[[c - 1 for c in self.cuts]] = 0.0
        return float(steps.sum())


def compose(
    segments: Sequence[Segment],
    *,
    start_m: tuple[float, float, float] = (0.0, -1.4, 0.0),
    yaw_rad: float = 0.0,
    pitch_rad: float = -0.14,
    focal_px: float = 480.0,
    fps: float = 30.0,
    jitter: float = 1.0,
    seed: int = 0,
) -> Path:
    """Return the path through the segments; ``jitter`` scales the tremor of the hand."""
    frames = round(sum(s.duration_s for s in segments) * fps)
    t = np.arange(frames) / fps
    rates, shake, labels = _rates(segments, frames, fps)
    angles = np.array([yaw_rad, pitch_rad, 0.0]) + _summed(rates[:, :3], fps)
    wobble = jitter * tremor(frames, fps, 6, (0.3, 1.6), seed)
    storm = shake[:, None] * tremor(frames, fps, 6, (0.8, 2.6), seed + 1)
    angles = angles + TREMOR_RAD * wobble[:, :3] + SHAKE_RAD * storm[:, :3]
    rotations = np.stack([turn(*a) for a in angles])
    drift = TREMOR_M * wobble[:, 3:] + SHAKE_M * storm[:, 3:]
    steps = rates[:, TRUCK, None] * rotations[:, :, 0] + rates[:, DOLLY, None] * rotations[:, :, 2]
    centers = np.array(start_m) + _summed(steps, fps)
    centers = centers + np.einsum("tij,tj->ti", rotations, drift)
    return Path(
        pts_ns=np.round(t * 1e9).astype(np.int64),
        T_world_camera=np.stack([rigid(R, c) for R, c in zip(rotations, centers, strict=True)]),
        focal_px=focal_px * np.exp(_summed(rates[:, LOG_FOCAL : LOG_FOCAL + 1], fps)[:, 0]),
        labels=tuple(labels),
    )


def join(first: Path, second: Path) -> Path:
    """Return the two paths one after the other, with a hard cut between them."""
    step = int(np.median(np.diff(first.pts_ns)))
    offset = int(first.pts_ns[-1]) + step
    later = tuple((label, a + offset / 1e9, b + offset / 1e9) for label, a, b in second.labels)
    count = len(first.pts_ns)
    return Path(
        pts_ns=np.concatenate([first.pts_ns, second.pts_ns + offset]),
        T_world_camera=np.concatenate([first.T_world_camera, second.T_world_camera]),
        focal_px=np.concatenate([first.focal_px, second.focal_px]),
        labels=first.labels + later,
        cuts=(*first.cuts, count, *(count + c for c in second.cuts)),
    )


def tremor(
    frames: int, fps: float, channels: int, band_hz: tuple[float, float], seed: int
) -> np.ndarray:
    """Return smooth noise ``[frames, channels]`` of unit RMS within a frequency band."""
    rng = np.random.default_rng([seed, 4])
    t = np.arange(frames)[:, None, None] / fps
    frequency = rng.uniform(*band_hz, (1, 12, channels))
    phase = rng.uniform(0, 2 * np.pi, (1, 12, channels))
    waves = np.sin(2 * np.pi * frequency * t + phase) / np.sqrt(frequency)
    return waves.sum(1) / np.sqrt((0.5 / frequency).sum(1))


def _rates(segments, frames, fps):
    """Return rates ``[frames - 1, 6]`` between frames, shake ``[frames]`` and the labels."""
    middle = (np.arange(frames) + 0.5) / fps
    rates, shake, labels, start = np.zeros((frames, 6)), np.zeros(frames), [], 0.0
    for segment in segments:
        end = start + segment.duration_s
        if segment.label in MOTIONS:
            channel, rate = MOTIONS[segment.label]
            rates[:, channel] += rate * segment.speed * eased(middle, start, end)
        elif segment.label == "handheld":
            shake += segment.speed * eased(middle - 0.5 / fps, start, end)
        labels.append((segment.label, start, end))
        start = end
    return rates, shake, labels


def eased(t_s: np.ndarray, start_s: float, end_s: float) -> np.ndarray:
    """Return 1 within an interval, easing in and out of it over `EASE_S`, 0 outside."""
    ease = min(EASE_S, 0.3 * (end_s - start_s))
    ramp = np.clip(np.minimum(t_s - start_s, end_s - t_s) / ease, 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def _summed(rates: np.ndarray, fps: float) -> np.ndarray:
    total = np.cumsum(rates, axis=0) / fps
    return np.concatenate([np.zeros_like(total[:1]), total[:-1]])
