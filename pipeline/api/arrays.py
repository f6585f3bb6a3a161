"""The cameras and the splats of a run as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.contract import Splats
from pipeline.contract.read_back import PosedCameras
from pipeline.errors import UsageError, require

if TYPE_CHECKING:
    import pycolmap

__all__ = ["CameraArrays", "SplatArrays"]


@dataclass(frozen=True, kw_only=True, eq=False)
class CameraArrays:
    """The N cameras of a run in order of time; row i of every array is the same camera.

    Poses take camera coordinates to world coordinates; cameras have OpenCV axes (x right, y down,
    z forward). The center of pixel (column u, row v) is (u + 0.5, v + 0.5). World units are meters
    if the poses were metric, else arbitrary.
    """

    T_world_camera: npt.NDArray[np.float64]
    """float64 [N, 4, 4]: poses, camera to world, in world units."""
    K: npt.NDArray[np.float64]
    """float64 [N, 3, 3]: camera matrices in px of an image of `width` x `height`."""
    pts_ns: npt.NDArray[np.int64] | None
    """int64 [N]: presentation times since the start of the source, ns; None where the run wrote no
    `frames.parquet`."""
    index: npt.NDArray[np.int64]
    """int64 [N]: numbers of the frames in the source, rising."""
    names: tuple[str, ...]
    """Paths of the N images, relative to the run folder, such as `images/000123.jpg`."""
    width: int
    """Width of the images, px."""
    height: int
    """Height of the images, px."""
    folder: Path = field(repr=False)
    """The run folder."""

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        return f"CameraArrays({len(self)} cameras, {self.width}x{self.height} px)"

    def pycolmap(self) -> pycolmap.Reconstruction:
        """Return the cameras and sparse points as a `pycolmap.Reconstruction`.

        It is read from `sparse/0`; its images have the names of `images/` and COLMAP's poses,
        world to camera.

        Raises:
            UsageError: The run wrote no COLMAP model, or it is broken.
        """
        model = self.folder / "sparse" / "0"
        if not model.is_dir():
            raise UsageError(
                f"{self.folder} holds no COLMAP model (there is no sparse/0); run it again with "
                "--resume export.colmap=on"
            )
        try:
            return require("pycolmap").Reconstruction(str(model))
        except (ValueError, RuntimeError, IndexError) as error:
            raise UsageError(
                f"{model} cannot be read: {error}; run it again with --resume"
            ) from error

    @classmethod
    def of(
        cls, cameras: PosedCameras, pts_ns: npt.NDArray[np.int64] | None, folder: Path
    ) -> CameraArrays:
        """Return the arrays of what `transforms.json` holds."""
        width, height = cameras.size
        return cls(
            T_world_camera=cameras.T_world_camera,
            K=cameras.intrinsics,
            pts_ns=pts_ns,
            index=cameras.index,
            names=cameras.files,
            width=width,
            height=height,
            folder=folder,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class SplatArrays:
    """The G Gaussians of a run as gsplat's `rasterization` takes them.

    ::

        gsplat.rasterization(means, quats, scales, opacities, sh, ..., sh_degree=splats.sh_degree)
    """

    means: npt.NDArray[np.float32]
    """float32 [G, 3]: centers in world coordinates."""
    scales: npt.NDArray[np.float32]
    """float32 [G, 3]: standard deviations along the axes, in world units."""
    quats: npt.NDArray[np.float32]
    """float32 [G, 4]: rotations as quaternions wxyz, unit length."""
    opacities: npt.NDArray[np.float32]
    """float32 [G]: opacities in 0..1."""
    sh: npt.NDArray[np.float32]
    """float32 [G, S, 3]: spherical harmonics in 3DGS order and signs, S of 1, 4, 9 or 16; the color
    is max(0, 0.5 + their sum), display RGB in 0..1."""
    antialiased: bool
    """Whether they were trained with Mip-Splatting's compensation (`rasterize_mode`)."""

    def __len__(self) -> int:
        return len(self.means)

    def __repr__(self) -> str:
        return f"SplatArrays({len(self)} Gaussians, sh_degree={self.sh_degree})"

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 3."""
        return int(np.sqrt(self.sh.shape[1])) - 1

    @classmethod
    def of(cls, splats: Splats) -> SplatArrays:
        """Return the arrays of the message, with lengths and opacities in place of their logs."""
        return cls(
            means=splats.means,
            scales=np.exp(splats.log_scales),
            quats=splats.quats,
            # 1 / (1 + exp(-x)) without an overflow for logits far below 0.
            opacities=np.exp(-np.logaddexp(np.float32(0), -splats.opacity_logits)),
            sh=splats.sh,
            antialiased=splats.antialiased,
        )
