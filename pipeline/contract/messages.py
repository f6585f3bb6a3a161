"""The nouns: what the stages pass to one another.

Every message is a frozen dataclass of read-only numpy arrays that checks itself and prints
shapes, not pixels. Row i of every array of a message is the same moment. Conventions:

- Time is int64 nanoseconds from the container's own timestamps, never index / fps.
- A pose is `T_world_camera`: it takes camera coordinates to world coordinates. Cameras have
  OpenCV axes (x right, y down, z forward).
- Pixel (column u, row v) has its center at (u + 0.5, v + 0.5); intrinsics follow that.
- Images are upright RGB with square pixels and without lens distortion wherever intrinsics
  come with them.

The dtype and shape of an array are part of its annotation, `Annotated[Array, Spec("uint8",
"T H W 3")]`, and are checked from there. Letters in shapes: T frames of a clip, K keyframes,
H rows, W columns (of `Scores`: windows), N rows of a table, C labels, P sparse points,
M observations, V vertices, F faces, G Gaussians, S spherical harmonics, E held-out views.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, get_type_hints

import numpy as np
import numpy.typing as npt

__all__ = [
    "Actions",
    "Array",
    "DepthMaps",
    "Frames",
    "Keyframes",
    "Masks",
    "Message",
    "Motion",
    "Points",
    "RunSummary",
    "Scores",
    "SensorData",
    "Spec",
    "Splats",
    "StereoPair",
    "Tracks",
    "Views",
]

Array = npt.NDArray[Any]

SIZES = {"2": 2, "3": 3, "4": 4}
ROWS = "*"


class Spec(NamedTuple):
    """The dtype and shape that an array of a message must have."""

    dtype: str
    """Name of a numpy dtype, such as `float32`."""
    shape: str
    """Letters and numbers, such as `T H W 3`. The same letter is the same size in all arrays of a
    message; `T-1` is one less, and at least 0; `*` is as long as the first axis of `images`."""

    def __str__(self) -> str:
        return f"{self.dtype} [{', '.join(self.shape.split())}]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """Base of all messages: checks the dtype and shape of its arrays and makes them read-only.

    Raises:
        ValueError: An array has another dtype or shape than its annotation says.
    """

    SPEC: ClassVar[dict[str, Spec]] = {}
    """Field name to dtype and shape, collected from the annotations of the class."""

    def __init_subclass__(cls) -> None:
        hints = get_type_hints(cls, include_extras=True)
        found: dict[str, Spec] = {}
        # Its own arrays first: a mismatch is blamed on what came with `images`, not on them.
        for name in sorted(hints, key=lambda name: name not in cls.__annotations__):
            for extra in getattr(hints[name], "__metadata__", ()):
                if isinstance(extra, Spec):
                    found[name] = extra
        if "images" in found:
            rows = found["images"].shape.split()[0]
            found = {n: Spec(s.dtype, s.shape.replace(ROWS, rows)) for n, s in found.items()}
        cls.SPEC = found
        # `slots=True` makes every class twice; the second has the docstring of the first.
        if cls.__doc__ and found and "\n    Arrays:\n" not in cls.__doc__:
            rows_of_doc = "".join(f"        {name}: {spec}\n" for name, spec in found.items())
            cls.__doc__ = f"{cls.__doc__.rstrip()}\n\n    Arrays:\n{rows_of_doc}    "

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
class StereoPair(Message):
    """The right view of a rectified stereo camera whose left view is `images`."""

    right: Annotated[Array | None, Spec("uint8", "* H W 3")] = None
    """RGB images of the right camera: the left camera moved along its +x axis, so that a point lies
    in the same row of both. All 0 where a frame has none; None where the source has none."""
    baseline_m: float | None = None
    """Distance between the centers of the left and the right camera, meters; None where it is
    not known."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class SensorData(StereoPair):
    """What a source may know of its own images: calibration, poses, sensor depth, a right view."""

    intrinsics: Annotated[Array | None, Spec("float64", "* 3 3")] = None
    """Camera matrices in px of `images`; None where the source gives none."""
    T_world_camera: Annotated[Array | None, Spec("float64", "* 4 4")] = None
    """Poses that came with the source, camera to world coordinates, OpenCV axes, in meters if
    `metric`; NaN where a frame has no pose. None where the source gives none."""
    metric: bool = False
    """Whether the source's own poses are in meters."""
    depth: Annotated[Array | None, Spec("float32", "* H W")] = None
    """Depth along the camera's z axis in meters, as a sensor measured it beside the images and
    registered to them; NaN where it is not known. None where the source has none."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Frames(SensorData):
    """A clip: a bounded window of sampled frames of one shot, the unit of transport and retry.

    Consecutive clips of one shot share `overlap` frames, so that every pair of neighboring
    sampled frames lies inside some clip. To count frames, skip the first `overlap` of each clip.
    """

    clip: str
    """Name of the clip, `<source>/<first index>-<last index>`; it can be decoded again from it."""
    images: Annotated[Array, Spec("uint8", "T H W 3")]
    """RGB images, upright, square pixels, full range 0..255."""
    pts_ns: Annotated[Array, Spec("int64", "T")]
    """Presentation times since the start of the source, ns, strictly rising."""
    index: Annotated[Array, Spec("int64", "T")]
    """Numbers of the frames in the source, in presentation order from 0."""
    sharpness: Annotated[Array, Spec("float32", "T")]
    """Variance of the Laplacian of the luma; comparable within one source only."""
    shot: int = 0
    """Number of the shot, from 0; it rises by 1 at every scene cut."""
    overlap: int = 0
    """Number of leading frames that the previous clip of the shot held already."""

    def __post_init__(self) -> None:
        Message.__post_init__(self)
        if len(self.images) == 0:
            raise ValueError("Frames must hold at least one frame, got 0")
        if np.any(np.diff(self.pts_ns) <= 0):
            raise ValueError(f"Frames.pts_ns must rise strictly, got {self.pts_ns.tolist()}")


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Motion(Message):
    """Optical flow between the neighboring frames of one clip."""

    clip: str
    """Name of the clip of the `Frames` that the flow was computed from."""
    flow: Annotated[Array, Spec("float32", "T-1 H W 2")]
    """Displacements in px (x right, y down): what frame t shows at p, frame t+1 shows at p + flow.
    NaN where the model does not know (sparse methods)."""
    confidence: Annotated[Array, Spec("float32", "T-1 H W")]
    """Confidence in 0..1 from the forward-backward error; 0 where the flow is NaN."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Scores(Message):
    """How well labels fit what windows of one clip show, as a network scores them."""

    clip: str
    """Name of the clip of the `Frames` that was scored."""
    shot: int
    """Number of the shot of that clip."""
    start_ns: Annotated[Array, Spec("int64", "W")]
    """Start of each window, ns since the start of the source, never falling."""
    end_ns: Annotated[Array, Spec("int64", "W")]
    """End of each window, ns since the start of the source, after its start."""
    score: Annotated[Array, Spec("float32", "W C")]
    """Score of each label in each window, 0..1."""
    label: tuple[str, ...]
    """Labels of the C columns of `score`, each once."""
    model: str
    """Name of the checkpoint that scored."""

    def __post_init__(self) -> None:
        Message.__post_init__(self)
        if len(self.label) != self.score.shape[1]:
            raise ValueError(
                f"Scores must have as many labels ({len(self.label)}) as columns "
                f"({self.score.shape[1]})"
            )


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Actions(Message):
    """Timed labels: what happened, and which models detected it."""

    start_ns: Annotated[Array, Spec("int64", "N")]
    """Start of each event, ns since the start of the source."""
    end_ns: Annotated[Array, Spec("int64", "N")]
    """End of each event, ns since the start of the source, after its start."""
    score: Annotated[Array, Spec("float32", "N")]
    """Score of each event, 0..1."""
    label: tuple[str, ...]
    """Label of each of the N events, such as `pan-left`."""
    kind: tuple[str, ...]
    """Kind of each of the N events: `shot`, `camera`, `object` or `action`."""
    model: tuple[str, ...]
    """Source of each of the N events: a stage such as `action/motion`, or a checkpoint."""

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

    track: Annotated[Array, Spec("int64", "N")]
    """Number of the followed thing in its stream, from 1."""
    start_box: Annotated[Array, Spec("float32", "N 4")]
    """Box where the thing was first seen, px: left, top, right, bottom."""
    end_box: Annotated[Array, Spec("float32", "N 4")]
    """Box where the thing was last seen, px: left, top, right, bottom."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Masks(Message):
    """What a model saw in one clip, and which pixels must be kept out of the geometry.

    The rows of `frame`, `box`, `score` and `label` are the things seen, frame by frame.
    """

    clip: str
    """Name of the clip of the `Frames` that was segmented."""
    moving: Annotated[Array, Spec("bool", "T H W")]
    """Pixels that show something that moves or may move, or its border."""
    frame: Annotated[Array, Spec("int32", "N")]
    """Frame of the clip in which each thing was seen, from 0, never falling."""
    box: Annotated[Array, Spec("float32", "N 4")]
    """Box of each thing, px: left, top, right, bottom; inside the image."""
    score: Annotated[Array, Spec("float32", "N")]
    """Score of each detection, 0..1."""
    label: tuple[str, ...]
    """Label of each of the N things, such as `person`."""
    model: str
    """Name of the model that segmented, such as `segment/detection`."""
    instance: Annotated[Array | None, Spec("uint16", "T H W")] = None
    """Thing that each pixel shows, counted from 1 in the order of its frame's rows; 0 for none.
    None where the model knows boxes only."""
    thing: Annotated[Array | None, Spec("int32", "N")] = None
    """Number of each thing in the clip, from 1; None where the model looks at each frame by
    itself."""

    def __post_init__(self) -> None:
        Message.__post_init__(self)
        if len(self.label) != len(self.frame):
            raise ValueError(
                f"Masks must have as many labels ({len(self.label)}) as rows ({len(self.frame)})"
            )
        if np.any(np.diff(self.frame) < 0):
            raise ValueError(f"Masks.frame must never fall, got {self.frame.tolist()}")


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Keyframes(SensorData):
    """The frames of a stream chosen for reconstruction, before their poses are estimated."""

    images: Annotated[Array, Spec("uint8", "K H W 3")]
    """RGB images, upright, square pixels, full range 0..255."""
    pts_ns: Annotated[Array, Spec("int64", "K")]
    """Presentation times since the start of the source, ns, strictly rising."""
    index: Annotated[Array, Spec("int64", "K")]
    """Numbers of the frames in the source, in presentation order from 0."""
    sharpness: Annotated[Array, Spec("float32", "K")]
    """Variance of the Laplacian of the luma; comparable within one source only."""
    shot: Annotated[Array, Spec("int32", "K")]
    """Number of the shot of each keyframe, from 0."""
    parallax_px: Annotated[Array, Spec("float32", "K")]
    """Median image motion since the previous keyframe that no rotation or zoom of the camera
    explains, px; NaN for the first keyframe of a shot and where tracking failed."""
    masks: Annotated[Array | None, Spec("bool", "K H W")] = None
    """Pixels of what moves, kept out of the geometry; None where no stage segments."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Views(StereoPair):
    """Posed keyframes and the sparse points that tie them together."""

    images: Annotated[Array, Spec("uint8", "K H W 3")]
    """RGB images, undistorted: those of a pinhole camera with `intrinsics`."""
    pts_ns: Annotated[Array, Spec("int64", "K")]
    """Presentation times since the start of the source, ns."""
    index: Annotated[Array, Spec("int64", "K")]
    """Numbers of the frames in the source, in presentation order from 0."""
    intrinsics: Annotated[Array, Spec("float64", "K 3 3")]
    """Camera matrices in px of `images`."""
    T_world_camera: Annotated[Array, Spec("float64", "K 4 4")]
    """Poses, camera to world coordinates, OpenCV axes, in units of `scale`."""
    points: Annotated[Array, Spec("float32", "P 3")]
    """Sparse points in world coordinates, in units of `scale`."""
    points_rgb: Annotated[Array, Spec("uint8", "P 3")]
    """Colors of the sparse points, RGB."""
    points_error_px: Annotated[Array, Spec("float32", "P")]
    """Mean reprojection error of each sparse point, px."""
    observed_point: Annotated[Array, Spec("int32", "M")]
    """Row of `points` that each observation is of."""
    observed_view: Annotated[Array, Spec("int32", "M")]
    """View that each observation was made in, from 0."""
    observed_xy: Annotated[Array, Spec("float32", "M 2")]
    """Position of each observation in its image, px (x right, y down)."""
    candidates: int
    """Number of keyframes that were tried; `K / candidates` is the registered share."""
    scale: Literal["metric", "arbitrary"] = "arbitrary"
    """Unit of the world: meters, or an arbitrary one."""
    depth: Annotated[Array | None, Spec("float32", "K H W")] = None
    """Depth along the camera's z axis in meters, whatever `scale` is, as a sensor measured it, for
    the undistorted images; NaN where it is not known. None where the source has none."""
    masks: Annotated[Array | None, Spec("bool", "K H W")] = None
    """Pixels of what moves, kept out of the geometry; None where no stage segments."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class DepthMaps(Message):
    """Depth of each view."""

    depth: Annotated[Array, Spec("float32", "K H W")]
    """Depth along the camera's z axis, in the world units of the `Views`; NaN where it is not
    known."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Points(Message):
    """The reconstructed surface as a point cloud and, where the model makes one, a mesh."""

    xyz: Annotated[Array, Spec("float32", "N 3")]
    """Points in the world coordinates and units of the `Views`."""
    rgb: Annotated[Array, Spec("uint8", "N 3")]
    """Colors of the points, RGB."""
    normals: Annotated[Array, Spec("float32", "N 3")]
    """Normals of the points, unit length, towards the cameras that saw them."""
    voxel_size: float
    """Resolution of the surface in world units."""
    vertices: Annotated[Array | None, Spec("float32", "V 3")] = None
    """Vertices of the mesh in world coordinates; None without a mesh."""
    vertices_rgb: Annotated[Array | None, Spec("uint8", "V 3")] = None
    """Colors of the vertices, RGB; None without a mesh."""
    vertices_normals: Annotated[Array | None, Spec("float32", "V 3")] = None
    """Normals of the vertices, unit length; None without a mesh."""
    triangles: Annotated[Array | None, Spec("int32", "F 3")] = None
    """Faces of the mesh as rows of `vertices`, counter-clockwise seen from outside; None without
    a mesh."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Splats(Message):
    """Gaussian splats: the place as soft ellipsoids, in gsplat's own parameterization."""

    means: Annotated[Array, Spec("float32", "G 3")]
    """Centers of the Gaussians in the world coordinates and units of the `Views`."""
    quats: Annotated[Array, Spec("float32", "G 4")]
    """Rotations of the Gaussians as quaternions wxyz, unit length."""
    log_scales: Annotated[Array, Spec("float32", "G 3")]
    """Natural logarithms of the standard deviations along the axes, in world units."""
    opacity_logits: Annotated[Array, Spec("float32", "G")]
    """Opacities before the sigmoid."""
    sh: Annotated[Array, Spec("float32", "G S 3")]
    """Spherical harmonics in 3DGS order and signs, S of 1, 4, 9 or 16; the color is
    max(0, 0.5 + their sum), display RGB in 0..1."""
    intrinsics: Annotated[Array, Spec("float64", "K 3 3")]
    """Camera matrices of the `Views` in px of `size`."""
    T_world_camera: Annotated[Array, Spec("float64", "K 4 4")]
    """Poses of the `Views`, camera to world coordinates, OpenCV axes; refined where the training
    was asked to."""
    held_out: Annotated[Array, Spec("int32", "E")]
    """Views that were kept out of the training to measure it, from 0."""
    size: tuple[int, int]
    """Width and height of the images of the `Views`, px."""
    antialiased: bool = False
    """Whether a Gaussian loses opacity for the blur of 0.3 px^2 (Mip-Splatting)."""

    def __post_init__(self) -> None:
        Message.__post_init__(self)
        if self.sh.shape[1] not in (1, 4, 9, 16):
            raise ValueError(f"Splats.sh must have 1, 4, 9 or 16 rows, got {self.sh.shape[1]}")


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class RunSummary(Message):
    """What a run did, for the report: the manifest before the report is listed in it."""

    manifest: dict[str, Any]
    """Content of `manifest.json`."""
