"""The posed keyframes of a run from its `transforms.json`, which is validated."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UsageError
from stages._geometry.transforms import OPENCV_FROM_OPENGL
from stages._rendering.camera_path import between

__all__ = ["RunCameras", "rigid"]

FILE_BYTES = 64 << 20
NUMBER = re.compile(r"(\d+)\.\w+$")
WIDEST_PX = 1 << 16

SKEW = 1e-3
"""Tolerance of rotations, since files have few digits."""


def rigid(matrix: Any) -> npt.NDArray[np.float64] | None:
    """Convert nested lists to a pose [4, 4] with an exact rotation; None if it is not a pose."""
    try:
        T = np.array(matrix, dtype=np.float64)
    except (ValueError, TypeError):
        return None
    if T.shape != (4, 4) or not np.all(np.abs(T) < 1e12):
        return None
    R = T[:3, :3]
    if np.abs(R.T @ R - np.eye(3)).max() > SKEW or np.linalg.det(R) < 0:
        return None
    if np.abs(T[3] - [0, 0, 0, 1]).max() > SKEW:
        return None
    U, _, Vt = np.linalg.svd(R)
    T[:3, :3], T[3] = U @ Vt, (0, 0, 0, 1)
    return T


@dataclass(frozen=True)
class RunCameras:
    """Posed cameras of a run, in temporal order."""

    index: npt.NDArray[np.int64]
    """int64 [K]: frame numbers in the source, ascending."""
    T_world_camera: npt.NDArray[np.float64]
    """float64 [K, 4, 4], OpenCV axes."""
    intrinsics: npt.NDArray[np.float64]
    """float64 [K, 3, 3] px."""
    size: tuple[int, int]
    """(width, height) px of their images."""
    files: tuple[str, ...]
    """Paths of the K images, as in the file."""
    frames: tuple[int, int]
    """Numbers of the first and the last frame of the run."""
    shots: tuple[int, ...]
    """Frame numbers at which a new shot begins."""

    @classmethod
    def read(cls, folder: Path) -> RunCameras:
        """Read the keyframes of a run folder.

        Raises:
            UsageError: There are none, or the file is broken.
        """
        path = folder / "transforms.json"
        content = _content(path)
        rows = [_frame(path, n, content, row) for n, row in enumerate(content["frames"])]
        if not rows:
            raise UsageError(f"{path} has no cameras; see report.html beside it for the reason")
        sizes = {row[3] for row in rows}
        if len(sizes) > 1:
            raise UsageError(f"{path} has images of several sizes; all must have one size")
        rows.sort(key=lambda row: row[0])
        index = np.array([row[0] for row in rows], dtype=np.int64)
        if np.any(np.diff(index) == 0):
            raise UsageError(f"{path} lists a frame twice; each frame must have one pose")
        frames, shots = _looked_at(folder / "frames.parquet", index)
        return cls(
            index=index,
            T_world_camera=np.array([row[1] for row in rows]),
            intrinsics=np.array([row[2] for row in rows]),
            size=sizes.pop(),
            files=tuple(row[4] for row in rows),
            frames=frames,
            shots=shots,
        )

    @property
    def usual(self) -> npt.NDArray[np.float64]:
        """Median of the intrinsics, float64 [3, 3]."""
        return np.median(self.intrinsics, axis=0)

    def at(self, frame: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], str]:
        """Return pose, intrinsics and, unless it is a posed keyframe, how they were derived.

        Raises:
            UsageError: The run has no such frame.
        """
        first, last = self.frames
        if not first <= frame <= last:
            raise UsageError(
                f"there is no frame {frame} in this run: it has {first} to {last}, and poses of "
                f"{self.index[0]} to {self.index[-1]}"
            )
        after = int(np.searchsorted(self.index, frame))
        if after < len(self.index) and self.index[after] == frame:
            return self.T_world_camera[after], self.intrinsics[after], ""
        before = after - 1
        if before < 0:
            return self._nearest(frame, 0, "poses begin after it")
        if after == len(self.index):
            return self._nearest(frame, before, "poses end before it")
        low, high = int(self.index[before]), int(self.index[after])
        share = (frame - low) / (high - low)
        if any(low < shot <= high for shot in self.shots):
            return self._nearest(frame, after if share > 0.5 else before, "a cut is near")
        T = between(self.T_world_camera[before], self.T_world_camera[after], share)
        K = (1 - share) * self.intrinsics[before] + share * self.intrinsics[after]
        return T, K, f"frame {frame} is not a keyframe: pose interpolated from {low} and {high}"

    def _nearest(
        self, frame: int, row: int, why: str
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], str]:
        said = f"frame {frame} has no pose ({why}): using that of frame {self.index[row]}"
        return self.T_world_camera[row], self.intrinsics[row], said


def _content(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > FILE_BYTES:
            raise UsageError(f"{path} is too large: at most {FILE_BYTES >> 20} MiB are read")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"{path.parent} has no transforms.json, which holds its cameras; run it again with "
            "--resume export.transforms=on, or give --path FILE.json"
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("frames"), list):
        raise UsageError(f"{path} is not a list of cameras: it has no 'frames'")
    return content


def _frame(
    path: Path, number: int, content: dict[str, Any], row: Any
) -> tuple[int, npt.NDArray[np.float64], npt.NDArray[np.float64], tuple[int, int], str]:
    """Return frame number, pose, intrinsics, image size and file of one row."""
    said = {**content, **row} if isinstance(row, dict) else {}
    named = NUMBER.search(str(said.get("file_path", "")))
    T = rigid(said.get("transform_matrix"))
    try:
        fx, fy, cx, cy = (float(said[name]) for name in ("fl_x", "fl_y", "cx", "cy"))
        size = (int(said["w"]), int(said["h"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        fx = fy = cx = cy = 0.0
        size = (0, 0)
    whole = all(0 < value < 1e9 for value in (fx, fy)) and all(abs(c) < 1e9 for c in (cx, cy))
    whole = whole and all(0 < side <= WIDEST_PX for side in size)
    if named is None or T is None or not whole:
        what = "no frame number" if named is None else "no pose" if T is None else "no camera"
        raise UsageError(
            f"{path} is broken: row {number} of its frames has {what}; run it again with --resume"
        )
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    return int(named.group(1)[-12:]), T @ OPENCV_FROM_OPENGL, K, size, said["file_path"]


def _looked_at(path: Path, index: npt.NDArray[np.int64]) -> tuple[tuple[int, int], tuple[int, ...]]:
    """Return the first and last frame of the frame table, and the first frames of its shots."""
    first, last = int(index[0]), int(index[-1])
    if not path.is_file():
        return (first, last), ()
    try:
        table = pq.read_table(path, columns=["index", "shot"])
        number = np.asarray(table["index"].to_numpy(zero_copy_only=False), dtype=np.int64)
        shot = np.asarray(table["shot"].to_numpy(zero_copy_only=False), dtype=np.int64)
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if len(number) == 0:
        return (first, last), ()
    begins = number[1:][np.diff(shot) != 0]
    frames = (min(first, int(number.min())), max(last, int(number.max())))
    return frames, tuple(begins.tolist())
