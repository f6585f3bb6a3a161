"""What every pixel of a camera sees, and where that is seen from another camera.

Shape suffixes: P solids, H rows, W columns.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from tests.support.scenes.geometry import ROOM, Solids, first_hit

TILE_PX = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Camera:
    """A pinhole camera at one moment; the principal point is the middle of the image.

    Attributes:
        T_world_camera: ``float64 [4, 4]``, OpenCV axes.
        focal_px: Focal length, the same for both axes.
        width: Columns.
        height: Rows.
    """

    T_world_camera: np.ndarray
    focal_px: float
    width: int
    height: int

    @property
    def K(self) -> np.ndarray:
        """Intrinsics ``float64 [3, 3]`` for pixel centers at 0.5."""
        f = self.focal_px
        return np.array([[f, 0.0, self.width / 2], [0.0, f, self.height / 2], [0.0, 0.0, 1.0]])


def trace(solids: Solids, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Return solid index ``int16 [H, W]`` and z-depth ``float64 [H, W]`` at the pixel centers."""
    M, o = solids.seen_from(camera.T_world_camera)
    seen = np.empty((camera.height, camera.width), np.int16)
    depth = np.empty((camera.height, camera.width))
    _trace(solids.kind, solids.half_m, M, o, camera.focal_px, seen, depth)
    return seen, depth


def correspond(
    solids_i: Solids, camera_i: Camera, solids_j: Solids, camera_j: Camera
) -> tuple[np.ndarray, np.ndarray]:
    """Follow what each pixel center of camera i sees into camera j.

    Returns:
        Displacement ``float64 [H, W, 2]`` px, NaN where the point lies behind camera j, and
        ``bool [H, W]``: the point is inside image j and nothing hides it there.
    """
    seen, depth = trace(solids_i, camera_i)
    Mi, oi = solids_i.seen_from(camera_i.T_world_camera)
    Mj, oj = solids_j.seen_from(camera_j.T_world_camera)
    flow = np.empty((*seen.shape, 2))
    visible = np.empty(seen.shape, np.bool_)
    _correspond(
        solids_i.kind,
        solids_i.half_m,
        seen,
        depth,
        Mi,
        oi,
        camera_i.focal_px,
        Mj,
        oj,
        camera_j.focal_px,
        camera_j.width,
        camera_j.height,
        flow,
        visible,
    )
    return flow, visible


@njit(cache=True, error_model="numpy", nogil=True)
def in_tile(kinds, halves, M, o, x0, y0, x1, y1, found):
    """Fill ``found`` with the solids whose bounding sphere meets the cone around a tile."""
    xm, ym = 0.5 * (x0 + x1), 0.5 * (y0 + y1)
    axis = np.sqrt(xm * xm + ym * ym + 1.0)
    widest = 0.0
    for x in (x0, x1):
        for y in (y0, y1):
            cosine = (x * xm + y * ym + 1.0) / (axis * np.sqrt(x * x + y * y + 1.0))
            widest = max(widest, np.arccos(min(cosine, 1.0)))
    count = 0
    for i in range(len(kinds)):
        cx = -(M[i, 0, 0] * o[i, 0] + M[i, 1, 0] * o[i, 1] + M[i, 2, 0] * o[i, 2])
        cy = -(M[i, 0, 1] * o[i, 0] + M[i, 1, 1] * o[i, 1] + M[i, 2, 1] * o[i, 2])
        cz = -(M[i, 0, 2] * o[i, 0] + M[i, 1, 2] * o[i, 1] + M[i, 2, 2] * o[i, 2])
        far = np.sqrt(cx * cx + cy * cy + cz * cz)
        reach = np.sqrt(halves[i, 0] ** 2 + halves[i, 1] ** 2 + halves[i, 2] ** 2)
        meets = kinds[i] == ROOM or far <= reach
        if not meets:
            away = np.arccos(max(min((cx * xm + cy * ym + cz) / (far * axis), 1.0), -1.0))
            meets = away <= widest + np.arcsin(reach / far) + 1e-6
        if meets:
            found[count] = i
            count += 1
    return count


@njit(cache=True, error_model="numpy", nogil=True)
def _trace(kinds, halves, M, o, f, seen, depth):
    rows, columns = seen.shape
    found = np.empty(len(kinds), np.int64)
    for top in range(0, rows, TILE_PX):
        bottom = min(top + TILE_PX, rows)
        for left in range(0, columns, TILE_PX):
            right = min(left + TILE_PX, columns)
            count = in_tile(
                kinds,
                halves,
                M,
                o,
                (left - 0.5 * columns) / f,
                (top - 0.5 * rows) / f,
                (right - 0.5 * columns) / f,
                (bottom - 0.5 * rows) / f,
                found,
            )
            for v in range(top, bottom):
                y = (v + 0.5 - 0.5 * rows) / f
                for u in range(left, right):
                    x = (u + 0.5 - 0.5 * columns) / f
                    i, t = first_hit(kinds, halves, M, o, found, count, x, y, 1.0)
                    seen[v, u] = i
                    depth[v, u] = t


@njit(cache=True, error_model="numpy", nogil=True)
def _correspond(kinds, halves, seen, depth, Mi, oi, fi, Mj, oj, fj, width, height, flow, visible):
    rows, columns = seen.shape
    everything = np.arange(len(kinds))
    for v in range(rows):
        for u in range(columns):
            s = seen[v, u]
            z = depth[v, u]
            x = (u + 0.5 - 0.5 * columns) / fi * z
            y = (v + 0.5 - 0.5 * rows) / fi * z
            # The point on the solid, carried along by it, less the center of camera j.
            px = Mi[s, 0, 0] * x + Mi[s, 0, 1] * y + Mi[s, 0, 2] * z + oi[s, 0] - oj[s, 0]
            py = Mi[s, 1, 0] * x + Mi[s, 1, 1] * y + Mi[s, 1, 2] * z + oi[s, 1] - oj[s, 1]
            pz = Mi[s, 2, 0] * x + Mi[s, 2, 1] * y + Mi[s, 2, 2] * z + oi[s, 2] - oj[s, 2]
            zj = Mj[s, 0, 2] * px + Mj[s, 1, 2] * py + Mj[s, 2, 2] * pz
            if zj <= 1e-6:
                flow[v, u, 0] = np.nan
                flow[v, u, 1] = np.nan
                visible[v, u] = False
                continue
            xj = (Mj[s, 0, 0] * px + Mj[s, 1, 0] * py + Mj[s, 2, 0] * pz) / zj
            yj = (Mj[s, 0, 1] * px + Mj[s, 1, 1] * py + Mj[s, 2, 1] * pz) / zj
            uj = xj * fj + 0.5 * width
            vj = yj * fj + 0.5 * height
            flow[v, u, 0] = uj - (u + 0.5)
            flow[v, u, 1] = vj - (v + 0.5)
            inside = 0.0 <= uj < width and 0.0 <= vj < height
            if inside:
                _, nearest = first_hit(kinds, halves, Mj, oj, everything, len(kinds), xj, yj, 1.0)
                inside = nearest >= zj * (1.0 - 1e-6)
            visible[v, u] = inside
