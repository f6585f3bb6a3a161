"""A finished run as Python objects: what is in its folder, read when it is asked for."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.api.arrays import CameraArrays, SplatArrays
from pipeline.contract import Context, DepthMaps, Event, Splats, Views, Warn
from pipeline.contract.read_back import PosedCameras, read_back
from pipeline.contract.stage import options_of
from pipeline.contract.viewer import VIEW, find_viewer
from pipeline.errors import PartNotMade, Reel3dError, UsageError, require
from pipeline.storage import RunFolder

if TYPE_CHECKING:
    import open3d as o3d
    import pyarrow as pa

__all__ = ["Run", "RunLoss", "RunWarning", "open"]

"""What Open3D's wheel needs of the system."""

log = logging.getLogger(__name__)


class RunLoss(NamedTuple):
    """A part of the result, or a piece of the source, that could not be made or used."""

    stage: str
    """Stage that lost it, such as `pose/colmap`."""
    what: str
    """Part that is missing."""
    why: str
    """Reason, as the report gives it."""


class RunWarning(NamedTuple):
    """A fallback or a doubt that a stage reported."""

    stage: str
    """Stage that warned, such as `flow/raft`."""
    text: str
    """What it said."""


class _Part(NamedTuple):
    file: str
    """Its path in the run folder."""
    what: str
    """What a user calls it."""
    export: str
    """Exporter that writes it."""


PARTS = {
    "events": _Part("events.jsonl", "events", "events"),
    "frames": _Part("frames.parquet", "frame table", "frames"),
    "cameras": _Part("transforms.json", "cameras", "transforms"),
    "points": _Part("points.ply", "point cloud", "points"),
    "mesh": _Part("mesh.ply", "mesh", "mesh"),
    "splats": _Part("splats.ply", "splats", "splats"),
}
"""Attributes of a `Run` that a run may lack."""


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run. Each part is read from the folder when it is first asked for.

    A part that the run does not hold raises when it is read: `PartNotMade` with the run's own
    reason where it could not be made (no parallax, say), `UsageError` where options left it out.
    `parts` says which ones there are. Tables are Arrow; `.to_pandas()` makes DataFrames of them and
    needs `pip install pandas`.
    """

    folder: Path
    """The run folder."""
    manifest: dict[str, Any] = field(repr=False)
    """Content of `manifest.json`: source, options, stages, versions, artifacts with hashes."""
    did_nothing: bool = field(default=False, repr=False)
    """Whether `resume` found everything made already."""

    def __repr__(self) -> str:
        parts = ", ".join(self.parts) or "nothing"
        return f"Run('{self.folder}', exit_code={self.exit_code}, parts: {parts})"

    @property
    def exit_code(self) -> int:
        """0 if everything was made; 4 if a part could not be, see `losses`."""
        return self.manifest["exit_code"]

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts that the folder holds, of events, frames, cameras, points, ..."""
        return tuple(name for name, part in PARTS.items() if (self.folder / part.file).is_file())

    @property
    def losses(self) -> list[RunLoss]:
        """What could not be made, and why."""
        return [
            RunLoss(_name(stage), loss["what"], loss["why"])
            for stage in self.manifest["stages"]
            for loss in stage["losses"]
        ]

    @property
    def warnings(self) -> list[RunWarning]:
        """Fallbacks and doubts of the stages."""
        return [
            RunWarning(_name(stage), text)
            for stage in self.manifest["stages"]
            for text in stage["warnings"]
        ]

    @cached_property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Figures of each stage by its name, such as `metrics["pose/colmap"]["registered_share"]`.

        Every stage has `items` and `seconds`; the names of all others end in their unit.
        """
        rows = _lines(self.folder / "metrics.jsonl")
        return {row.pop("stage"): row for row in rows}

    @cached_property
    def events(self) -> pa.Table:  # pyright: ignore[reportUnknownParameterType]: pyarrow has no types
        """What happened: a `pyarrow.Table` with a row an event, ordered by start.

        Columns: start_s, end_s (float64, seconds of the source), label, kind (`shot`, `camera`,
        `object`, `action`), score (float64 in 0..1, or null), model; of a followed thing also track
        (int64, from 1), start_box and end_box (4 float64: left, top, right, bottom, px), else null.
        """
        import pyarrow as pa

        box = pa.list_(pa.float64(), 4)
        columns = {
            **{"start_s": pa.float64(), "end_s": pa.float64(), "label": pa.string()},
            **{"kind": pa.string(), "score": pa.float64(), "model": pa.string()},
            **{"track": pa.int64(), "start_box": box, "end_box": box},
        }
        path = self._path("events")
        try:
            return pa.Table.from_pylist(_lines(path), schema=pa.schema(list(columns.items())))
        except (pa.ArrowException, AttributeError) as error:
            raise UsageError(f"{path} is broken: {error}; run it again with --resume") from error

    @cached_property
    def frames(self) -> pa.Table:  # pyright: ignore[reportUnknownParameterType]: pyarrow has no types
        """The sampled frames: a `pyarrow.Table` with a row a frame, in order of time.

        Columns: index (int64, number in the source), pts_s (float64, seconds), clip, shot (int32),
        sharpness (float32), motion_px (float32, median flow to the next frame, or null), keyframe
        (bool).
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self._path("frames")
        try:
            return pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise UsageError(f"{path} is broken: {error}; run it again with --resume") from error

    @cached_property
    def cameras(self) -> CameraArrays:
        """The posed keyframes: `T_world_camera` [N, 4, 4], `K` [N, 3, 3], `pts_ns`, `names`, ...

        `cameras.pycolmap()` gives them with the sparse points as a `pycolmap.Reconstruction`.
        """
        self._path("cameras")
        cameras = read_back("transforms", PosedCameras, self.folder)
        pts_ns = None
        if "frames" in self.parts:
            index = self.frames["index"].to_numpy()
            rows = np.searchsorted(index, cameras.index)
            if not np.array_equal(index[np.minimum(rows, len(index) - 1)], cameras.index):
                raise UsageError(
                    f"{self.folder}: transforms.json and frames.parquet are not of one run; run it "
                    "again with --resume"
                )
            pts_ns = np.rint(self.frames["pts_s"].to_numpy()[rows] * 1e9).astype(np.int64)
        return CameraArrays.of(cameras, pts_ns, self.folder)

    @property
    def points(self) -> o3d.geometry.PointCloud:
        """The point cloud with colors and normals: an `open3d.geometry.PointCloud`.

        In world coordinates; y points down. It is read again each time, since Open3D changes its
        geometries in place.
        """
        return self._open3d("points", "read_point_cloud")

    @property
    def mesh(self) -> o3d.geometry.TriangleMesh:
        """The surface with colors and normals: an `open3d.geometry.TriangleMesh`.

        In world coordinates; y points down. It is read again each time, since Open3D changes its
        geometries in place.
        """
        return self._open3d("mesh", "read_triangle_mesh")

    @cached_property
    def splats(self) -> SplatArrays:
        """The Gaussians as gsplat takes them: `means`, `scales`, `quats`, `opacities`, `sh`."""
        self._path("splats")
        return SplatArrays.of(read_back("splats", Splats, self.folder))

    def depth(self, i: int) -> npt.NDArray[np.float32]:
        """Return the depth map of camera i, a row of `cameras`.

        Returns:
            float32 [H, W]: depth along the camera's z axis in world units, NaN where it is not
            known; of the size of the camera's image.

        Raises:
            IndexError: There is no camera i.
            UsageError: The run made no depth, or kept none.
        """
        index = int(self.cameras.index[i])
        maps, frames = self._kept_depth
        if maps is not None and frames is not None:
            return maps[int(np.flatnonzero(frames == index)[0])]
        return self._depth_image(index)

    def view(
        self,
        screenshot: str | Path | None = None,
        *,
        cloud: bool = False,
        report: Callable[[Event], None] | None = None,
    ) -> Path | None:
        """Show the place in a window until it is closed, or write a picture of it.

        Args:
            screenshot: A .png file to write instead of opening a window.
            cloud: Show the point cloud (or mesh) where there are splats.
            report: Called with the viewer's warnings; without it they are logged.

        Returns:
            The picture; without one, `report.html` where there is no display to open a window on;
            None after a window.

        Raises:
            UsageError: There is nothing in 3D, or it cannot be shown here.
        """
        display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        page = self.folder / "report.html"
        if not display and screenshot is None and page.is_file():
            return page
        config = options_of(VIEW, "open3d").model_validate({"cloud": cloud})
        out = None if screenshot is None else Path(screenshot)
        find_viewer("open3d")(config, Context(report=report or _log)).show(self.folder, out)
        return out

    def _path(self, name: str) -> Path:
        """Return the file of a part.

        Raises:
            PartNotMade: The run could not make it.
            UsageError: The options of the run left it out, or it was deleted.
        """
        part = PARTS[name]
        path = self.folder / part.file
        if not path.is_file():
            raise self._missing(part)
        return path

    def _missing(self, part: _Part) -> Reel3dError:
        lacks = f"{self.folder} holds no {part.what} (there is no {part.file})"
        if part.file in [artifact["path"] for artifact in self.manifest["artifacts"]]:
            return UsageError(f"{lacks}: it was deleted; `reel3d run … --resume` makes it again")
        name = f"export/{part.export}"
        if name not in [_name(stage) for stage in self.manifest["stages"]]:
            why = self.manifest.get("left_out", {}).get(name, f"export.{part.export} is off")
            return UsageError(
                f"{lacks}: {why}; `reel3d run … --resume` with the steps that it needs and "
                f"export.{part.export}=on makes it"
            )
        if not self.losses:
            return PartNotMade(f"{lacks}: the source gave nothing to write into it")
        why = "; ".join(f"{loss.what}: {loss.why}" for loss in self.losses)
        return PartNotMade(f"{lacks}: {why}")

    def _open3d(self, name: str, reader: str) -> Any:
        path = self._path(name)
        library: Any = require("open3d")
        # Open3D warns of an empty cloud, which is what a run of few views may have.
        with library.utility.VerbosityContextManager(library.utility.VerbosityLevel.Error):
            return getattr(library.io, reader)(str(path))

    @cached_property
    def _kept_depth(self) -> tuple[npt.NDArray[np.float32] | None, npt.NDArray[np.int64] | None]:
        """Depth maps [K, H, W] and frame numbers [K] as the stages handed them on."""
        folder = RunFolder.finished(self.folder)
        depth, views = folder.kept_arrays(DepthMaps, "depth"), folder.kept_arrays(Views, "index")
        if depth is None or views is None:
            return None, None
        depth["depth"].flags.writeable = False
        return depth["depth"], views["index"]

    def _depth_image(self, index: int) -> npt.NDArray[np.float32]:
        """Read a 16-bit depth image of `export.depth_png`."""
        path = self.folder / "depth" / f"{index:06d}.png"
        if not path.is_file():
            raise UsageError(
                f"{self.folder} holds no depth of frame {index}; `reel3d run … --resume` with the "
                "step depth and export.depth_png=on writes it"
            )
        import cv2

        steps = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        try:
            scale = json.loads((path.parent / "scale.json").read_text(encoding="utf-8"))
            step = np.float32(scale["unit_per_step"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path.parent}/scale.json is broken: {error}") from error
        if steps is None or steps.dtype != np.uint16 or steps.ndim != 2:
            raise UsageError(f"{path} is not a 16-bit depth image; run it again with --resume")
        return np.where(steps > 0, steps * step, np.float32(np.nan))


def open(folder: str | Path) -> Run:
    """Open the run folder of a finished run.

    Args:
        folder: What `reel3d run` printed, such as `runs/holiday`.

    Raises:
        UsageError: There is no such folder, or the run in it is not complete: it is still going
            on or was interrupted.
    """
    path = Path(folder)
    manifest = RunFolder.finished(path).manifest()
    assert manifest is not None, "a finished run has a manifest"
    return Run(path, manifest)


def _name(stage: dict[str, Any]) -> str:
    return f"{stage['step']}/{stage['model']}"


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}; run it again with --resume") from error


def _log(event: Event) -> None:
    if isinstance(event, Warn):
        log.warning("%s", event.text)
