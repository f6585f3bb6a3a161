"""The nouns: what the stages pass to one another.

Every message is a frozen dataclass of read-only numpy arrays that checks itself and prints
shapes, not pixels. Row i of every array of a message is the same moment. Conventions:

- Time is int64 nanoseconds from the container's own timestamps, never index / fps.
- A pose is `T_world_camera`: it takes camera coordinates to world coordinates. Cameras have
  OpenCV axes (x right, y down, z forward).
- Pixel (column u, row v) has its centre at (u + 0.5, v + 0.5); intrinsics follow that.
- Images are upright RGB with square pixels and without lens distortion wherever intrinsics
  stand beside them.

Letters in shapes: T frames of a clip, K keyframes, H rows, W columns, N rows of a table,
W windows of a clip, C labels, P sparse points, M observations, V vertices, G Gaussians.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

__all__ = [
    "Actions",
    "DepthMaps",
    "Frames",
    "Keyframes",
    "Masks",
    "Message",
    "Motion",
    "Points",
    "RunSummary",
    "Scores",
    "Splats",
    "Tracks",
    "Views",
]

Array = npt.NDArray[Any]

SIZES = {"2": 2, "3": 3, "4": 4}


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """A message checks the shape and dtype of its arrays against `SPEC` and freezes them."""

    SPEC: ClassVar[dict[str, tuple[str, str]]] = {}
    """Field name to (dtype, shape), such as `("uint8", "T H W 3")`; `T-1` is allowed."""

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        for name, (dtype, shape) in self.SPEC.items():
            array = getattr(self, name)
            if array is None:
                continue
            if not isinstance(array, np.ndarray) or array.dtype != np.dtype(dtype):
                got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
                raise ValueError(f"{type(self).__name__}.{name} must be {dtype}, got {got}")
            _check_shape(f"{type(self).__name__}.{name}", array.shape, shape, sizes)
            if array.flags.writeable:
                frozen = array.view()
                frozen.flags.writeable = False
                object.__setattr__(self, name, frozen)

    def __repr__(self) -> str:
        parts = []
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                parts.append(f"{field.name}={value.dtype}{list(value.shape)}")
            elif isinstance(value, tuple) and len(value) > 4:
                parts.append(f"{field.name}=<{len(value)} rows>")
            else:
                parts.append(f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(parts)})"

    @property
    def nbytes(self) -> int:
        """Bytes held by the arrays."""
        values = (getattr(self, field.name) for field in fields(self))
        return sum(value.nbytes for value in values if isinstance(value, np.ndarray))


def _check_shape(name: str, got: tuple[int, ...], shape: str, sizes: dict[str, int]) -> None:
    letters = shape.split()
    if len(got) != len(letters):
        raise ValueError(f"{name} must have shape [{', '.join(letters)}], got {list(got)}")
    for letter, size in zip(letters, got, strict=True):
        base, minus, less = letter.partition("-")
        known = SIZES.get(letter)
        if known is None:
            # "T-1" stands for max(T - 1, 0): a clip of one frame has no pair.
            total = size + int(less) if minus else size
            known = sizes.setdefault(base, total)
            if minus:
                known = max(known - int(less), 0)
        if size != known:
            raise ValueError(
                f"{name} must have shape [{', '.join(letters)}] with {letter} = {known}, "
                f"got {list(got)}"
            )


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Frames(Message):
    """A clip: a bounded window of sampled frames of one shot, the unit of transport and retry.

    Consecutive clips of one shot share `overlap` frames, so that every pair of neighbouring
    sampled frames lies inside some clip; who counts frames skips the first `overlap`.
    """

    clip: str
    """`<source>/<first index>-<last index>`: names the clip; it can be made again from it."""
    images: Array
    """RGB, uint8 [T, H, W, 3]; upright, square pixels, full range."""
    pts_ns: Array
    """int64 [T]: presentation time since the start of the source, strictly rising."""
    index: Array
    """int64 [T]: number of the frame in the source, in presentation order from 0."""
    sharpness: Array
    """float32 [T]: variance of the Laplacian of the luma; compare within one source only."""
    shot: int = 0
    """Number of the shot, from 0; it rises at every scene cut."""
    overlap: int = 0
    """How many leading frames the previous clip held already."""
    intrinsics: Array | None = None
    """float64 [T, 3, 3] px for these images, or None where the source does not say."""
    T_world_camera: Array | None = None
    """float64 [T, 4, 4]: poses that came with the source (NaN where one lacks), or None."""
    metric: bool = False
    """Whether the source's own poses are in metres."""
    depth: Array | None = None
    """float32 [T, H, W]: z in metres as a sensor measured it beside the images and registered to
    them, NaN unknown; None where the source has none."""
    right: Array | None = None
    """RGB, uint8 [T, H, W, 3]: the right view of a rectified stereo pair, for which `images` are
    the left one: the same camera moved along +x, so that what it sees lies in the same row. All 0
    where a frame has none; None where the source has none."""
    baseline_m: float | None = None
    """How far apart the two cameras of a stereo pair are, metres; None where it is not known."""

    SPEC: ClassVar = {
        "images": ("uint8", "T H W 3"),
        "pts_ns": ("int64", "T"),
        "index": ("int64", "T"),
        "sharpness": ("float32", "T"),
        "intrinsics": ("float64", "T 3 3"),
        "T_world_camera": ("float64", "T 4 4"),
        "depth": ("float32", "T H W"),
        "right": ("uint8", "T H W 3"),
    }

    def __post_init__(self) -> None:
        Message.__post_init__(self)
        if len(self.images) == 0:
            raise ValueError("Frames must hold at least one frame, got 0")
        if np.any(np.diff(self.pts_ns) <= 0):
            raise ValueError(f"Frames.pts_ns must rise strictly, got {self.pts_ns.tolist()}")


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Motion(Message):
    """Optical flow between the neighbouring frames of one clip."""

    clip: str
    """The clip of the `Frames` that it belongs to."""
    flow: Array
    """float32 [T-1, H, W, 2] px (x right, y down): frame t at p lies in t+1 at p + flow.

    NaN where the model does not know (sparse methods)."""
    confidence: Array
    """float32 [T-1, H, W] in 0..1 from the forward-backward error; 0 where flow is NaN."""

    SPEC: ClassVar = {
        "flow": ("float32", "T-1 H W 2"),
        "confidence": ("float32", "T-1 H W"),
    }


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Scores(Message):
    """How well labels fit what windows of one clip show, as a network for that says."""

    clip: str
    """The clip of the `Frames` that it belongs to."""
    shot: int
    """The shot of that clip."""
    start_ns: Array
    """int64 [W]: when each window begins, never falling."""
    end_ns: Array
    """int64 [W]: when it ends, after its start."""
    score: Array
    """float32 [W, C] in 0..1."""
    label: tuple[str, ...]
    """C labels, each once."""
    model: str
    """The checkpoint that said so."""

    SPEC: ClassVar = {
        "start_ns": ("int64", "W"),
        "end_ns": ("int64", "W"),
        "score": ("float32", "W C"),
    }

    def __post_init__(self) -> None:
        Message.__post_init__(self)
        if len(self.label) != self.score.shape[1]:
            raise ValueError(
                f"Scores must have as many labels ({len(self.label)}) as columns "
                f"({self.score.shape[1]})"
            )


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Actions(Message):
    """Timed labels: what happened, and which models said so."""

    start_ns: Array
    """int64 [N]"""
    end_ns: Array
    """int64 [N], after `start_ns`."""
    score: Array
    """float32 [N] in 0..1."""
    label: tuple[str, ...]
    """N labels, such as `pan-left`."""
    kind: tuple[str, ...]
    """N of `shot`, `camera`, `object`, `action`."""
    model: tuple[str, ...]
    """N names of who said so, such as `action/motion`, or a checkpoint's."""

    SPEC: ClassVar = {
        "start_ns": ("int64", "N"),
        "end_ns": ("int64", "N"),
        "score": ("float32", "N"),
    }

    def __post_init__(self) -> None:
        Message.__post_init__(self)
        if not len(self.label) == len(self.kind) == len(self.model) == len(self.start_ns):
            raise ValueError(
                f"Actions must have as many labels ({len(self.label)}), kinds ({len(self.kind)}) "
                f"and models ({len(self.model)}) as rows ({len(self.start_ns)})"
            )

    @classmethod
    def concat(cls, parts: list[Self]) -> Self:
        """Join the rows of several messages, ordered by their start."""
        order = np.argsort(np.concatenate([p.start_ns for p in parts]), kind="stable")
        joined: dict[str, Any] = {
            name: np.concatenate([getattr(p, name) for p in parts])[order] for name in cls.SPEC
        }
        for name in ("label", "kind", "model"):
            rows = [row for p in parts for row in getattr(p, name)]
            joined[name] = tuple(rows[i] for i in order)
        return cls(**joined)


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Tracks(Actions):
    """Things followed through a stream: events that also say which thing, and where it was."""

    track: Array
    """int64 [N]: number of the thing in its stream, from 1."""
    start_box: Array
    """float32 [N, 4] px: left, top, right, bottom where it was first seen."""
    end_box: Array
    """float32 [N, 4] px: where it was last seen."""

    SPEC: ClassVar = {
        **Actions.SPEC,
        "track": ("int64", "N"),
        "start_box": ("float32", "N 4"),
        "end_box": ("float32", "N 4"),
    }


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Masks(Message):
    """What a model saw in one clip, and which pixels must be kept out of the geometry.

    The rows of `frame`, `box`, `score` and `label` are the things seen, frame by frame.
    """

    clip: str
    """The clip of the `Frames` that it belongs to."""
    moving: Array
    """bool [T, H, W]: the pixel shows something that moves or may move, or its border."""
    frame: Array
    """int32 [N]: the frame of the clip, never falling."""
    box: Array
    """float32 [N, 4] px: left, top, right, bottom; inside the picture."""
    score: Array
    """float32 [N] in 0..1."""
    label: tuple[str, ...]
    """N labels, such as `person`."""
    model: str
    """The model that said so, such as `segment/detection`."""
    instance: Array | None = None
    """uint16 [T, H, W]: which thing of its frame a pixel shows, counted from 1 in the order of the
    rows of that frame; 0 none. None where the model knows boxes only."""
    thing: Array | None = None
    """int32 [N]: which thing of the clip it is, from 1; None where the model looks at each frame by
    itself."""

    SPEC: ClassVar = {
        "moving": ("bool", "T H W"),
        "frame": ("int32", "N"),
        "box": ("float32", "N 4"),
        "score": ("float32", "N"),
        "instance": ("uint16", "T H W"),
        "thing": ("int32", "N"),
    }

    def __post_init__(self) -> None:
        Message.__post_init__(self)
        if len(self.label) != len(self.frame):
            raise ValueError(
                f"Masks must have as many labels ({len(self.label)}) as rows ({len(self.frame)})"
            )
        if np.any(np.diff(self.frame) < 0):
            raise ValueError(f"Masks.frame must never fall, got {self.frame.tolist()}")


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Keyframes(Message):
    """The frames of a stream chosen for reconstruction, before anyone knows their poses."""

    images: Array
    """RGB, uint8 [K, H, W, 3]."""
    pts_ns: Array
    """int64 [K]"""
    index: Array
    """int64 [K]: frame number in the source."""
    sharpness: Array
    """float32 [K]"""
    shot: Array
    """int32 [K]: number of the shot."""
    parallax_px: Array
    """float32 [K]: median image motion since the keyframe before that no rotation or zoom of
    the camera explains; NaN for the first of a shot and where tracking failed."""
    intrinsics: Array | None = None
    """float64 [K, 3, 3] px, or None where the source does not say."""
    T_world_camera: Array | None = None
    """float64 [K, 4, 4]: poses that came with the source (NaN where one lacks), or None."""
    metric: bool = False
    """Whether the source's own poses are in metres."""
    depth: Array | None = None
    """float32 [K, H, W]: z in metres as a sensor measured it beside the images and registered to
    them, NaN unknown; None where the source has none."""
    masks: Array | None = None
    """bool [K, H, W]: pixels of what moves, kept out of the geometry; None where nobody looked."""
    right: Array | None = None
    """RGB, uint8 [K, H, W, 3]: the right view of a rectified stereo pair, for which `images` are
    the left one: the same camera moved along +x, so that what it sees lies in the same row. All 0
    where a frame has none; None where the source has none."""
    baseline_m: float | None = None
    """How far apart the two cameras of a stereo pair are, metres; None where it is not known."""

    SPEC: ClassVar = {
        "images": ("uint8", "K H W 3"),
        "masks": ("bool", "K H W"),
        "pts_ns": ("int64", "K"),
        "index": ("int64", "K"),
        "sharpness": ("float32", "K"),
        "shot": ("int32", "K"),
        "parallax_px": ("float32", "K"),
        "intrinsics": ("float64", "K 3 3"),
        "T_world_camera": ("float64", "K 4 4"),
        "depth": ("float32", "K H W"),
        "right": ("uint8", "K H W 3"),
    }


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Views(Message):
    """Posed keyframes and the sparse points that tie them together."""

    images: Array
    """RGB, uint8 [K, H, W, 3], undistorted: a pinhole camera with `intrinsics`."""
    pts_ns: Array
    """int64 [K]"""
    index: Array
    """int64 [K]: frame number in the source."""
    intrinsics: Array
    """float64 [K, 3, 3] px."""
    T_world_camera: Array
    """float64 [K, 4, 4], in units of `scale`."""
    points: Array
    """float32 [P, 3]: sparse points in the world."""
    points_rgb: Array
    """uint8 [P, 3]"""
    points_error_px: Array
    """float32 [P]: mean reprojection error."""
    observed_point: Array
    """int32 [M]: the point of each observation."""
    observed_view: Array
    """int32 [M]: the view of each observation."""
    observed_xy: Array
    """float32 [M, 2]: where it was seen, px."""
    candidates: int
    """How many keyframes were tried; `K / candidates` is the registered share."""
    scale: Literal["metric", "arbitrary"] = "arbitrary"
    """Whether world units are metres."""
    depth: Array | None = None
    """float32 [K, H, W]: z in metres, whatever `scale` says, as a sensor measured it, for the
    undistorted images; NaN unknown; None where the source has none."""
    masks: Array | None = None
    """bool [K, H, W]: pixels of what moves, kept out of the geometry; None where nobody looked."""
    right: Array | None = None
    """RGB, uint8 [K, H, W, 3]: the right view of a rectified stereo pair, for which `images` are
    the left one: the same camera moved along +x, so that what it sees lies in the same row. All 0
    where a frame has none; None where the source has none."""
    baseline_m: float | None = None
    """How far apart the two cameras of a stereo pair are, metres; None where it is not known."""

    SPEC: ClassVar = {
        "images": ("uint8", "K H W 3"),
        "masks": ("bool", "K H W"),
        "pts_ns": ("int64", "K"),
        "index": ("int64", "K"),
        "intrinsics": ("float64", "K 3 3"),
        "T_world_camera": ("float64", "K 4 4"),
        "points": ("float32", "P 3"),
        "points_rgb": ("uint8", "P 3"),
        "points_error_px": ("float32", "P"),
        "observed_point": ("int32", "M"),
        "observed_view": ("int32", "M"),
        "observed_xy": ("float32", "M 2"),
        "depth": ("float32", "K H W"),
        "right": ("uint8", "K H W 3"),
    }


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class DepthMaps(Message):
    """Depth of each view."""

    depth: Array
    """float32 [K, H, W]: z in the camera's frame, in the units of the `Views`; NaN unknown."""

    SPEC: ClassVar = {"depth": ("float32", "K H W")}


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Points(Message):
    """The reconstructed surface as a cloud and, where the model makes one, a mesh."""

    xyz: Array
    """float32 [N, 3] in the world of the `Views`."""
    rgb: Array
    """uint8 [N, 3]"""
    normals: Array
    """float32 [N, 3], unit length, towards the cameras that saw the point."""
    voxel_size: float
    """Resolution of the surface in world units."""
    vertices: Array | None = None
    """float32 [V, 3]"""
    vertices_rgb: Array | None = None
    """uint8 [V, 3]"""
    vertices_normals: Array | None = None
    """float32 [V, 3]"""
    triangles: Array | None = None
    """int32 [F, 3]: vertex numbers, counter-clockwise seen from outside."""

    SPEC: ClassVar = {
        "xyz": ("float32", "N 3"),
        "rgb": ("uint8", "N 3"),
        "normals": ("float32", "N 3"),
        "vertices": ("float32", "V 3"),
        "vertices_rgb": ("uint8", "V 3"),
        "vertices_normals": ("float32", "V 3"),
        "triangles": ("int32", "F 3"),
    }


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Splats(Message):
    """Gaussian splats: the place as soft ellipsoids, in gsplat's own parameterisation."""

    means: Array
    """float32 [G, 3] in the world of the `Views`."""
    quats: Array
    """float32 [G, 4]: rotations, wxyz, unit length."""
    log_scales: Array
    """float32 [G, 3]: logarithms of the standard deviations in world units."""
    opacity_logits: Array
    """float32 [G]: the opacity before the sigmoid."""
    sh: Array
    """float32 [G, S, 3], S of 1, 4, 9, 16: spherical harmonics in 3DGS order and signs; the
    colour is max(0, 0.5 + their sum), display RGB in 0..1."""
    intrinsics: Array
    """float64 [K, 3, 3] px: the cameras of the `Views`."""
    T_world_camera: Array
    """float64 [K, 4, 4]: their poses, refined where the training was asked to."""
    held_out: Array
    """int32 [E]: the views that were kept out of the training, to measure it."""
    size: tuple[int, int]
    """(width, height) px of the `Views`, for the intrinsics."""
    antialiased: bool = False
    """Whether a Gaussian pays with opacity for the blur of 0.3 px^2 (Mip-Splatting)."""

    SPEC: ClassVar = {
        "means": ("float32", "G 3"),
        "quats": ("float32", "G 4"),
        "log_scales": ("float32", "G 3"),
        "opacity_logits": ("float32", "G"),
        "sh": ("float32", "G S 3"),
        "intrinsics": ("float64", "K 3 3"),
        "T_world_camera": ("float64", "K 4 4"),
        "held_out": ("int32", "E"),
    }

    def __post_init__(self) -> None:
        Message.__post_init__(self)
        if self.sh.shape[1] not in (1, 4, 9, 16):
            raise ValueError(f"Splats.sh must have 1, 4, 9 or 16 rows, got {self.sh.shape[1]}")


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class RunSummary(Message):
    """What a run did, for the report: the manifest as it stands before the report is listed."""

    manifest: dict[str, Any]
    """The content of `manifest.json`."""
