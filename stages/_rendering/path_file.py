"""Camera paths from JSON files: a list of `{"T_world_camera": [[..] x 4], "fov_deg" | "K"}`.

`T_world_camera` maps camera to world coordinates, OpenCV axes (x right, y down, z forward), in
the world of `splats.ply`. `fov_deg` is the vertical field of view; `K` are intrinsics [3, 3] in px
of the rendered image. Without either, the run's intrinsics are used.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import UsageError, did_you_mean
from stages._rendering.run_cameras import rigid

__all__ = ["read_path_file"]

Array = npt.NDArray[np.float64]

FILE_BYTES = 64 << 20
KEYS = ("T_world_camera", "fov_deg", "K")


def read_path_file(path: Path, size: tuple[int, int], K: Array) -> tuple[Array, Array]:
    """Return poses [N, 4, 4] and intrinsics [N, 3, 3] for images of `size`.

    Args:
        path: The file.
        size: (width, height) px of the images.
        K: [3, 3], default intrinsics of the images.

    Raises:
        UsageError: It is missing, malformed, or holds an unusable number.
    """
    try:
        if path.stat().st_size > FILE_BYTES:
            raise UsageError(f"{path} is too large: at most {FILE_BYTES >> 20} MiB are read")
        # Python's reader accepts NaN and Infinity, which JSON lacks; `rigid` rejects them.
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except RecursionError:
        raise UsageError(f"{path} is not JSON: it is nested too deeply") from None
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, list) or not content:
        got = "an empty list" if content == [] else f"a {type(content).__name__}"
        raise UsageError(
            f"{path} is {got}; a camera path is a list of "
            '{"T_world_camera": 4 rows of 4 numbers, "fov_deg": degrees}'
        )
    rows = [_keyframe(path, n, row, size, K) for n, row in enumerate(content)]
    return np.array([row[0] for row in rows]), np.array([row[1] for row in rows])


def _keyframe(
    path: Path, number: int, row: Any, size: tuple[int, int], K: Array
) -> tuple[Array, Array]:
    def bad(what: str) -> UsageError:
        return UsageError(f"{path}: camera {number} {what}")

    if not isinstance(row, dict):
        raise bad(f"is a {type(row).__name__}; allowed is an object with {', '.join(KEYS)}")
    for key in row:
        if key not in KEYS:
            hint = did_you_mean(str(key), KEYS)
            raise bad(f"has '{str(key)[:40]}'; allowed are {', '.join(KEYS)}{hint}")
    T = rigid(row.get("T_world_camera"))
    if T is None:
        raise bad(
            "has no usable T_world_camera: it must be 4 rows of 4 finite numbers, a rotation and "
            "a position, the last row 0 0 0 1"
        )
    if "K" in row and "fov_deg" in row:
        raise bad("has both fov_deg and K; give one")
    if "K" in row:
        return T, _intrinsics(row["K"], bad)
    if "fov_deg" in row:
        fov = row["fov_deg"]
        if not isinstance(fov, int | float) or isinstance(fov, bool) or not 1 <= fov <= 170:
            raise bad(f"has fov_deg {str(fov)[:40]}; allowed are 1 to 170")
        focal = size[1] / 2 / np.tan(np.radians(fov) / 2)
        return T, np.array([[focal, 0, size[0] / 2], [0, focal, size[1] / 2], [0, 0, 1]])
    return T, K


def _intrinsics(rows: Any, bad: Any) -> Array:
    try:
        K = np.array(rows, dtype=np.float64)
    except (ValueError, TypeError):
        K = np.zeros(0)
    usable = K.shape == (3, 3) and bool(np.all(np.abs(K) < 1e9))
    usable = usable and bool(min(K[0, 0], K[1, 1]) > 0 and np.array_equal(K[2], [0, 0, 1]))
    if not usable or K[0, 1] != 0 or K[1, 0] != 0:
        raise bad("has no usable K: it must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in px")
    return K
