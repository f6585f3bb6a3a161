"""Splats from one camera as an image, or along a camera path as a video."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.atomic import replacing
from pipeline.contract import Options, Splats, Viewer
from pipeline.errors import UsageError, did_you_mean
from stages._rendering.camera_path import (
    fit_intrinsics,
    look_at,
    orbit,
    solid_points,
    through,
    walk,
)
from stages._rendering.overview import FIELD_OF_VIEW, overview
from stages._rendering.path_file import read_path_file
from stages._rendering.run_cameras import RunCameras
from stages._rendering.splat_renderer import SplatRenderer, write_png
from stages._rendering.splat_scene import SPLATS, USUAL_SIZE, read_scene_of_splats

__all__ = ["Config", "Model"]

Array = npt.NDArray[np.float64]


class Config(Options):
    """Cameras, size and length of the output."""

    at: int | None = Field(None, ge=0, description="draw the view of this source frame")
    path: str | None = Field(None, description="orbit, train, or a JSON file of cameras")
    width: int | None = Field(None, ge=16, le=8192, description="width of the image, px")
    height: int | None = Field(None, ge=16, le=8192, description="height of the image, px")
    fps: float = Field(30.0, ge=1, le=240, description="frames per second of the video")
    seconds: float = Field(6.0, ge=0.1, le=600, description="length of the video, s")
    depth: bool = Field(False, description="draw depth, red near and blue far")
    quality: int = Field(18, ge=0, le=51, description="x264 rate factor; lower is better")


class Model(Viewer[Config]):
    """`reel3d render`: renders splats from any camera."""

    writes: ClassVar[tuple[str, ...]] = (".png", ".mp4")

    def show(self, source: Path, out: Path | None = None) -> None:
        """Render the splats of a run folder, or of a .ply file, to a .png or .mp4 file.

        Raises:
            UsageError: There are no splats or no such camera, or the files are inconsistent.
        """
        if out is None:
            raise UsageError("splats are rendered to a file; name a .png or .mp4 file")
        suffix = out.suffix.lower()
        if suffix not in self.writes:
            raise UsageError(
                f"'{out.name}' is neither an image nor a video; name it .png (one camera) or "
                ".mp4 (a camera path)"
            )
        if out.is_dir():
            raise UsageError(f"{out} is a folder; name a file")
        if not next(p for p in out.absolute().parents if os.path.lexists(p)).is_dir():
            raise UsageError(f"{out} cannot be written: its folder is a file")
        if self.config.at is not None and suffix == ".mp4":
            raise UsageError("--at renders a single image: name it .png")
        scene, keyframes = self._read(source)
        size = self._size(keyframes)
        K, T = self._cameras(scene, keyframes, size, still=suffix == ".png")
        threads = self.context.threads
        with (
            SplatRenderer(scene, size, depth=self.config.depth, threads=threads) as renderer,
            replacing(out) as temporary,
        ):
            if suffix == ".png":
                write_png(temporary, renderer.render(K[0], T[0]))
                return
            renderer.video(
                temporary,
                K,
                T,
                fps=self.config.fps,
                quality=self.config.quality,
                progress=self.progress,
            )

    def _read(self, source: Path) -> tuple[Splats, RunCameras | None]:
        if not source.exists():
            raise UsageError(f"there is no run folder or .ply file {source}")
        if not source.is_dir():
            return read_scene_of_splats(source, self.warn), None
        path = source / SPLATS
        if not path.is_file():
            raise UsageError(
                f"{source} has no splats (there is no {SPLATS}); run `reel3d run … --resume` with "
                "the step splat, and see report.html there for what failed"
            )
        scene = read_scene_of_splats(path, self.warn)
        if (source / "transforms.json").is_file() or not self._own_path:
            return scene, RunCameras.read(source)
        return scene, None

    @property
    def _own_path(self) -> bool:
        """Whether the path is a file, which needs none of the run's cameras."""
        return self.config.at is None and self.config.path not in (None, "orbit", "train")

    def _size(self, keyframes: RunCameras | None) -> tuple[int, int]:
        width, height = self.config.width, self.config.height
        if width and height:
            return width, height
        return keyframes.size if keyframes else USUAL_SIZE

    def _cameras(
        self, scene: Splats, keyframes: RunCameras | None, size: tuple[int, int], *, still: bool
    ) -> tuple[Array, Array]:
        """Return intrinsics [N, 3, 3] for `size` and poses [N, 4, 4]."""
        if self.config.at is not None:
            if keyframes is None:
                raise UsageError("a .ply file has no frames; --at needs a run folder")
            T, K, said = keyframes.at(self.config.at)
            if said:
                self.warn(said)
            return fit_intrinsics(K, keyframes.size, size)[None], T[None]
        count = max(1, round(self.config.fps * self.config.seconds))
        path = self.config.path
        if path not in (None, "orbit", "train"):
            return self._from_file(Path(path), keyframes, size, count, still=still)
        if still and path is not None:
            raise UsageError(f"--path {path} makes a video: name it .mp4, or give --at FRAME")
        if keyframes is None:
            if path == "train":
                raise UsageError("a .ply file has no training cameras; --path train needs a run")
            return _turntable(scene, size, count)
        K = fit_intrinsics(keyframes.usual, keyframes.size, size)
        poses, xyz = keyframes.T_world_camera, solid_points(scene)
        if path == "train":
            T = walk(poses, keyframes.usual, keyframes.size, xyz, count)
        else:
            T = orbit(poses, keyframes.usual, keyframes.size, xyz, count)
        return np.repeat(K[None], len(T), axis=0), T

    def _from_file(
        self,
        path: Path,
        keyframes: RunCameras | None,
        size: tuple[int, int],
        count: int,
        *,
        still: bool,
    ) -> tuple[Array, Array]:
        if path.suffix.lower() != ".json":
            hint = did_you_mean(str(path), ("orbit", "train"))
            raise UsageError(
                f"there is no camera path '{path}'; allowed are orbit, train and FILE.json{hint}"
            )
        focal = size[1] / 2 / np.tan(FIELD_OF_VIEW / 2)
        usual = np.array([[focal, 0, size[0] / 2], [0, focal, size[1] / 2], [0, 0, 1]])
        if keyframes is not None:
            usual = fit_intrinsics(keyframes.usual, keyframes.size, size)
        poses, K = read_path_file(path, size, usual)
        if still:
            if len(poses) > 1:
                raise UsageError(
                    f"{path} holds {len(poses)} cameras, which make a video: name it .mp4"
                )
            return K, poses
        # The scene's distance is unknown: assume the extent of the path.
        away = float(np.linalg.norm(np.ptp(poses[:, :3, 3], axis=0))) or 1.0
        T, stands = through(poses, count, away)
        before = np.minimum(stands.astype(int), max(len(K) - 2, 0))
        after = np.minimum(before + 1, len(K) - 1)
        share = (stands - before)[:, None, None]
        return (1 - share) * K[before] + share * K[after], T


def _turntable(scene: Splats, size: tuple[int, int], count: int) -> tuple[Array, Array]:
    """Return cameras on a circle around the center of splats without a run's cameras."""
    view = overview(solid_points(scene).astype(np.float32), None)
    arm, up = view.eye - view.center, view.up
    angle = 2 * np.pi * np.arange(count)[:, None] / count
    # Rodrigues' formula: rotate the arm about the up direction.
    turned = (
        np.cos(angle) * arm
        + np.sin(angle) * np.cross(up, arm)
        + (1 - np.cos(angle)) * (up @ arm) * up
    )
    T = look_at(view.center + turned, view.center, up)
    return np.repeat(view.intrinsics(*size)[None], count, axis=0), T
