"""A run in Open3D: an interactive window, or an image.

Open3D runs in a separate process: without a working graphics driver it does not raise an exception
but aborts the process (measured: 0.20 with Vulkan's loader and no driver).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

import stages
from pipeline.atomic import replacing
from pipeline.contract import Options, Viewer
from pipeline.errors import UsageError, later
from stages._rendering.overview import overview
from stages._rendering.scene import Scene, read_scene
from stages._rendering.splat_renderer import SplatRenderer, write_png
from stages._rendering.splat_scene import SPLATS, SplatScene, read_splat_scene

__all__ = ["Config", "Model"]

render = later("stages._rendering.point_renderer")

DRIVERS = "libvulkan1 mesa-vulkan-drivers"


class Config(Options):
    """Options of the image."""

    width: int = Field(1280, ge=16, le=8192, description="width of the image, px")
    height: int = Field(720, ge=16, le=8192, description="height of the image, px")
    renderer: Literal["auto", "open3d", "software"] = Field(
        "auto", description="image renderer: Open3D, or reel3d's own (software), without a driver"
    )
    patience_s: float = Field(60.0, gt=0, description="timeout of Open3D for the image, s")
    cloud: bool = Field(False, description="show the point cloud (or mesh), not the splats")


class Model(Viewer[Config]):
    """`reel3d view`: an interactive window, or an image of the scene."""

    writes: ClassVar[tuple[str, ...]] = (".png",)

    def show(self, source: Path, out: Path | None = None) -> None:
        """Show the splats of a run folder, otherwise the cloud (or mesh) and the cameras.

        Args:
            source: A run folder, which is untrusted.
            out: PNG to write instead of opening a window; no display is needed.

        Raises:
            UsageError: The folder has nothing in 3D or is broken, there is no display, or Open3D
                is not installed or cannot draw.
        """
        splats = not self.config.cloud and (source / SPLATS).is_file()
        scene = read_splat_scene(source, self.warn) if splats else read_scene(source)
        if out is not None:
            self._picture(source, scene, out)
            return
        advice = f"open {source / 'report.html'} in a browser, or add --screenshot FILE.png"
        if sys.platform == "linux" and not _has_display():
            raise UsageError(f"there is no display to open a window on: {advice}")
        trouble = _draw("window", _what(scene), source, timeout_s=None)
        if trouble:
            raise UsageError(f"Open3D's window failed ({trouble}): {advice}")

    def _picture(self, folder: Path, scene: Scene | SplatScene, screenshot: Path) -> None:
        if screenshot.suffix.lower() != ".png":
            raise UsageError(f"a screenshot is a .png file, got '{screenshot.name}'")
        size = (self.config.width, self.config.height)
        with replacing(screenshot) as temporary:
            if self._asks_open3d(scene):
                # An empty file must not be taken for an image.
                temporary.unlink()
                arguments = (str(temporary), *map(str, size))
                trouble = _draw(
                    "picture", _what(scene), folder, *arguments, timeout_s=self.config.patience_s
                )
                if not trouble and temporary.is_file():
                    return
                trouble = trouble or "it wrote no image"
                if self.config.renderer == "open3d":
                    raise UsageError(
                        f"Open3D cannot draw without a window here ({trouble}): install {DRIVERS}, "
                        "or set renderer to software"
                    )
                self.warn(
                    f"Open3D cannot draw without a window here ({trouble}); the image was drawn "
                    f"in software instead. To use Open3D, install {DRIVERS}"
                )
            write_png(temporary, self._in_software(scene, size))

    def _asks_open3d(self, scene: Scene | SplatScene) -> bool:
        """Return whether Open3D should draw the image.

        Splats are drawn on the CPU unless Open3D is chosen explicitly: on Mesa's software Vulkan,
        typical for computers without a display, it leaves varying tiles black (measured: 0.20,
        Mesa 22.3).
        """
        if self.config.renderer == "auto":
            return not isinstance(scene, SplatScene)
        return self.config.renderer == "open3d"

    def _in_software(
        self, scene: Scene | SplatScene, size: tuple[int, int]
    ) -> npt.NDArray[np.uint8]:
        if isinstance(scene, SplatScene):
            threads = self.context.threads
            with SplatRenderer(scene.splats, size, depth=False, threads=threads) as renderer:
                return renderer.render(scene.intrinsics(*size), scene.pose)
        xyz = np.empty((0, 3), np.float32) if scene.surface is None else scene.surface.xyz
        return render.render_scene(scene, overview(xyz, scene.cameras), size)


def _what(scene: Scene | SplatScene) -> str:
    return "splats" if isinstance(scene, SplatScene) else "cloud"


def _has_display() -> bool:
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _draw(how: str, what: str, folder: Path, *arguments: str, timeout_s: float | None) -> str:
    """Draw in a separate process; return a short description of the error, or ""."""
    root = str(Path(stages.__path__[0]).parent)
    paths = [root, os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}
    command = [
        sys.executable,
        "-m",
        "stages.view._open3d_process",
        how,
        what,
        str(folder.resolve()),
    ]
    try:
        done = subprocess.run(
            [*command, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no image within {timeout_s:g} s"
    if done.returncode == 0:
        return ""
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    if done.returncode == UsageError.exit_code and said:
        return said[-1]
    return f"its process ended with status {done.returncode}" + (
        f": {said[-1][:200]}" if said else ""
    )
