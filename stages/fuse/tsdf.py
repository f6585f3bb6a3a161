"""Fuses depth maps into one surface: a truncated signed distance field over sparse voxel blocks.

Curless and Levoy 1996, with Open3D's `VoxelBlockGrid` (Dong et al. 2022). It runs in a separate
process, since Open3D's wheel bundles its own copies of many libraries.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.contract import Context, DepthMaps, Options, Points, Resources, Stage, Views
from pipeline.errors import PartNotMade, require
from stages._geometry.transforms import invert

BLOCK = 16
"""Voxels along the side of a block."""
BLOCK_BYTES = BLOCK**3 * (4 + 2 + 3 * 2)
"""Size of a block; a voxel holds distance (float32), weight and color (uint16)."""
MAX_BLOCKS = 10_000
"""Limit of 0.5 GB of voxels; Open3D doubles its table to grow, and the mesh is additional."""
TRUNCATION_VOXELS = 4.0


class Config(Options):
    """Options of `fuse/tsdf`."""

    voxel: float | None = Field(
        None, gt=0, description="voxel size in world units; unset: from the scene's scale"
    )
    pixels: float = Field(
        2.0, ge=0.25, le=32, description="voxel size in pixels at a typical depth"
    )
    max_depth: float = Field(
        4.0, ge=1, le=100, description="maximum depth, as a multiple of the median depth"
    )
    min_views: float = Field(3.0, ge=1, le=100, description="leave out surface seen in fewer views")
    min_component: int = Field(
        200, ge=0, description="leave out pieces of the mesh with fewer triangles"
    )


@dataclass(frozen=True, slots=True)
class _Grid:
    """An integrated volume and its voxel size."""

    volume: Any
    voxel: float


class Model(Stage[Config]):
    """Open3D's voxel block grid on the CPU."""

    isolated: ClassVar[bool] = True
    version: ClassVar[int] = 2

    @property
    def resources(self) -> Resources:
        """Resources of one worker."""
        return Resources(cpus=1, memory_bytes=3 * MAX_BLOCKS * BLOCK_BYTES)

    def open(self, context: Context) -> None:
        """Load Open3D."""
        super().open(context)
        self.o3d: ModuleType = require("open3d")

    def process(self, views: Views, depth: DepthMaps) -> Points:
        """Return the surface that the views agree on.

        Raises:
            PartNotMade: No depth is known, or no surface was seen in enough views.
        """
        known = depth.depth[:, ::4, ::4]
        rests = True if views.masks is None else ~views.masks[:, ::4, ::4]
        known = known[np.isfinite(known) & (known > 0) & rests]
        if known.size == 0:
            raise PartNotMade(
                f"fusion needs depth, but none is known in any of the {len(depth.depth)} views; "
                "more views with more parallax and texture are needed"
            )
        median = float(np.median(known))
        focal = float(np.median(views.intrinsics[:, 0, 0]))
        farthest = min(self.config.max_depth * median, float(known.max()))
        # The area of a pixel grows with the square of its depth: with the root mean square, a map
        # fills as many surface voxels as it has pixels, divided by `pixels` squared.
        typical = float(np.sqrt(np.mean(np.square(known[known <= farthest], dtype=np.float64))))
        voxel = self.config.voxel or self.config.pixels * typical / focal
        grid = self._integrate(views, depth, voxel, farthest)
        points = self._extract(grid, len(views.images))
        self.measure("points", len(points.xyz))
        self.measure("voxel_world_units", grid.voxel)
        return points

    def _integrate(self, views: Views, depth: DepthMaps, voxel: float, farthest: float) -> _Grid:
        """Integrate all maps; start again with larger voxels if there are too many blocks."""
        while True:
            volume = self._attempt(views, depth, voxel, farthest)
            if volume is not None:
                return _Grid(volume, voxel)
            self.warn(
                f"the scene does not fit into {MAX_BLOCKS} blocks with voxels of {voxel:.4g}; "
                f"using {voxel * 1.5:.4g}"
            )
            voxel *= 1.5

    def _attempt(self, views: Views, depth: DepthMaps, voxel: float, farthest: float) -> Any:
        core = self.o3d.core
        device = core.Device("CPU:0")
        volume = self.o3d.t.geometry.VoxelBlockGrid(
            attr_names=("tsdf", "weight", "color"),
            attr_dtypes=(core.float32, core.uint16, core.uint16),
            attr_channels=((1), (1), (3)),
            voxel_size=voxel,
            block_resolution=BLOCK,
            block_count=4000,
            device=device,
        )
        count = len(views.images)
        for i in range(count):
            z = np.nan_to_num(depth.depth[i], nan=0.0, posinf=0.0, neginf=0.0)
            z[z > farthest] = 0
            if views.masks is not None:
                # Moving objects must not become part of the surface, whatever made the depth.
                z[views.masks[i]] = 0
            if not z.any():
                continue
            image = self.o3d.t.geometry.Image(core.Tensor(z[..., None]))
            color = views.images[i].astype(np.float32) / 255
            # Integration reads the pixel that contains a voxel (it rounds down), so it expects
            # pixel centers at 0.5, unlike Open3D's cameras elsewhere. Measured on exact depth:
            # the surface error is 0.16 voxels (median), with cx - 0.5 it is 0.26.
            intrinsic = core.Tensor(views.intrinsics[i])
            extrinsic = core.Tensor(invert(views.T_world_camera[i]))
            blocks = volume.compute_unique_block_coordinates(
                image, intrinsic, extrinsic, 1.0, farthest, TRUNCATION_VOXELS
            )
            if volume.hashmap().size() + len(blocks) > MAX_BLOCKS:
                known = volume.hashmap().find(blocks)[1].numpy()
                if volume.hashmap().size() + np.count_nonzero(~known) > MAX_BLOCKS:
                    return None
            volume.integrate(
                blocks,
                image,
                self.o3d.t.geometry.Image(core.Tensor(color)),
                intrinsic,
                intrinsic,
                extrinsic,
                1.0,
                farthest,
                TRUNCATION_VOXELS,
            )
            self.progress(i + 1, count + 1)
        return volume

    def _extract(self, grid: _Grid, count: int) -> Points:
        least = min(self.config.min_views, float(count))
        mesh = grid.volume.extract_triangle_mesh(weight_threshold=least)
        vertices = _array(mesh.vertex.positions, np.float32)
        triangles = _array(mesh.triangle.indices, np.int32)
        chosen, triangles = keep_large_pieces(len(vertices), triangles, self.config.min_component)
        self.progress(count + 1, count + 1)
        if not chosen.any():
            raise PartNotMade(
                f"fusion found no surface of {self.config.min_component} triangles that {least:g} "
                "views agree on; lower fuse.min_views or give more views"
            )
        # The cloud is the vertices of the mesh: the same zero crossings as Open3D's own cloud,
        # without those that are not part of a surface.
        xyz = vertices[chosen]
        rgb = _bytes(mesh.vertex.colors)[chosen]
        normals = _unit(_array(mesh.vertex.normals, np.float32)[chosen])
        # Open3D's order of vertices and triangles depends on its threads.
        order, triangles = in_order(np.hstack([xyz, normals, rgb]), triangles)
        xyz, rgb, normals = xyz[order], rgb[order], normals[order]
        return Points(
            xyz=xyz,
            rgb=rgb,
            normals=normals,
            voxel_size=grid.voxel,
            vertices=xyz,
            vertices_rgb=rgb,
            vertices_normals=normals,
            triangles=triangles,
        )


def keep_large_pieces(
    vertices: int, triangles: npt.NDArray[np.int32], least: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int32]]:
    """Drop connected pieces of a mesh with fewer than `least` triangles.

    Returns:
        Which of the vertices are kept, bool [V], and the kept triangles [F, 3], renumbered.
    """
    # Imported here, since describing the stage must not load them.
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    if len(triangles) == 0:
        return np.zeros(vertices, np.bool_), triangles
    ones = np.ones(2 * len(triangles), np.bool_)
    ends = (np.repeat(triangles[:, 0], 2), triangles[:, 1:].ravel())
    _, piece = connected_components(coo_matrix((ones, ends), shape=(vertices, vertices)), False)
    sizes = np.bincount(piece[triangles[:, 0]], minlength=piece.max() + 1)
    chosen = sizes[piece] >= max(least, 1)
    number = np.cumsum(chosen, dtype=np.int32) - 1
    return chosen, number[triangles[chosen[triangles[:, 0]]]]


def in_order(
    vertices: npt.NDArray[np.float32], triangles: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int32]]:
    """Sort the rows of a mesh into an order that depends only on their values.

    Args:
        vertices: [V, D], position first.
        triangles: [F, 3] rows of `vertices`.

    Returns:
        The new order of the vertices [V], and the triangles renumbered and sorted; each begins
        with its lowest index and keeps its orientation.
    """
    order = np.lexsort(vertices.T[::-1])
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    renumbered = rank[triangles]
    first = np.argmin(renumbered, axis=1)[:, None]
    turned = np.take_along_axis(renumbered, (first + np.arange(3)) % 3, axis=1)
    return order, turned[np.lexsort(turned.T[::-1])]


def _unit(normals: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), np.float32(1e-12))


def _array(tensor: Any, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    return np.ascontiguousarray(tensor.numpy(), dtype=dtype)


def _bytes(tensor: Any) -> npt.NDArray[np.uint8]:
    color = tensor.numpy()
    return np.rint(np.clip(color, 0, 1) * 255).astype(np.uint8)
