"""Rendering with Open3D in a separate process, which Open3D may abort.

`python -m stages.view._open3d_process window|picture cloud|splats FOLDER [PNG WIDTH HEIGHT]`
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import Reel3dError, require
from stages._geometry.transforms import invert
from stages._rendering.overview import FIELD_OF_VIEW, Overview, frusta, overview
from stages._rendering.point_renderer import FRUSTUM_RGB, PATH_RGB
from stages._rendering.scene import Scene, read_scene
from stages._rendering.splat_scene import SplatScene, read_splat_scene

BACKGROUND = (0.06, 0.065, 0.085, 1.0)
WINDOW = (1280, 720)
WINDOW_FIELD_OF_VIEW = np.radians(60.0)


TILES_PER_SPLAT = 4096
"""Maximum number of 16 px tiles per splat, above which Open3D truncates it, as for a near wall
(default: 256)."""


def splat_geometry(o3d: Any, scene: SplatScene) -> dict[str, Any]:
    """Return splats as `name`, `geometry` and `material`.

    Open3D stores opacities as logits and scales as lengths; quaternions are wxyz and harmonics
    [N, S, 3], as in reel3d (0.20; PSNR of 51 dB against reel3d's own rendering of a scene).
    """
    splats = scene.splats
    values = {
        "positions": splats.means,
        "rot": splats.quats,
        "scale": np.exp(splats.log_scales),
        "opacity": splats.opacity_logits[:, None],
        "f_dc": splats.sh[:, 0],
    }
    if splats.sh.shape[1] > 1:
        values["f_rest"] = splats.sh[:, 1:]
    cloud = o3d.t.geometry.PointCloud()
    for name, value in values.items():
        cloud.point[name] = o3d.core.Tensor(np.ascontiguousarray(value, dtype=np.float32))
    material = o3d.visualization.rendering.MaterialRecord()
    material.shader = "gaussianSplat"
    material.gaussian_splat_sh_degree = int(np.sqrt(splats.sh.shape[1])) - 1
    material.gaussian_splat_antialias = splats.antialiased
    material.gaussian_splat_max_tiles_per_splat = TILES_PER_SPLAT
    return {"name": "splats", "geometry": cloud, "material": material}


def geometries(o3d: Any, scene: Scene, view: Overview, *, linear: bool) -> list[dict[str, Any]]:
    """Return the objects to draw, as `name`, `geometry` and `material`.

    Args:
        o3d: The module `open3d`.
        scene: Scene to draw.
        view: Viewpoint; cameras are drawn in proportion to its radius.
        linear: Whether colors pass through tone mapping, which treats them as linear light and
            would wash them out.
    """
    drawn: list[dict[str, Any]] = []
    rendering = o3d.visualization.rendering

    def draw(name: str, geometry: Any, shader: str, *, points: float = 3, lines: float = 2) -> None:
        material = rendering.MaterialRecord()
        material.shader, material.point_size, material.line_width = shader, points, lines
        material.sRGB_color = linear
        drawn.append({"name": name, "geometry": geometry, "material": material})

    surface = scene.surface
    if surface is not None:
        vectors = o3d.utility.Vector3dVector
        xyz, rgb = vectors(surface.xyz), vectors(surface.rgb / 255)
        if surface.triangles is not None:
            mesh = o3d.geometry.TriangleMesh(xyz, o3d.utility.Vector3iVector(surface.triangles))
            mesh.vertex_colors = rgb
            mesh.compute_vertex_normals()
            draw("mesh", mesh, "defaultLit")
        else:
            cloud = o3d.geometry.PointCloud(xyz)
            cloud.colors = rgb
            draw("points", cloud, "defaultUnlit", points=3.5)
    if scene.cameras is not None:
        centers = scene.cameras.centers
        pairs = np.stack([centers[:-1], centers[1:]], axis=1)
        # Lines ignore `sRGB_color`.
        gamma = 2.2 if linear else 1.0
        blue, amber = ((np.array(rgb) / 255) ** gamma for rgb in (FRUSTUM_RGB, PATH_RGB))
        draw(
            "cameras",
            _lines(o3d, frusta(scene.cameras, 0.04 * view.radius), blue),
            "unlitLine",
        )
        if len(pairs):
            draw("path", _lines(o3d, pairs, amber), "unlitLine", lines=4)
    return drawn


def _lines(o3d: Any, segments: Any, rgb: Any) -> Any:
    lines = o3d.geometry.LineSet(
        o3d.utility.Vector3dVector(segments.reshape(-1, 3)),
        o3d.utility.Vector2iVector(np.arange(2 * len(segments)).reshape(-1, 2)),
    )
    lines.paint_uniform_color(rgb)
    return lines


def picture(o3d: Any, scene: Scene | SplatScene, path: str, size: tuple[int, int]) -> None:
    """Render off-screen and write a PNG."""
    renderer = o3d.visualization.rendering.OffscreenRenderer(*size)
    renderer.scene.set_background(BACKGROUND)
    # Tone mapping is for lit scenes; these colors are final.
    renderer.scene.view.set_post_processing(False)
    if isinstance(scene, SplatScene):
        # Open3D puts the center of pixel (0, 0) at 0.5 for splats, as reel3d; otherwise at 0.
        drawn, K, pose = [splat_geometry(o3d, scene)], scene.intrinsics(*size), scene.pose
    else:
        view = _overview_of(scene)
        drawn, pose = geometries(o3d, scene, view, linear=False), view.pose()
        K = view.intrinsics(*size) - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    for one in drawn:
        renderer.scene.add_geometry(one["name"], one["geometry"], one["material"])
    renderer.setup_camera(K, invert(pose), *size)
    if not o3d.io.write_image(path, renderer.render_to_image()):
        raise OSError(f"Open3D could not write {path}")


def _overview_of(scene: Scene) -> Overview:
    xyz = np.empty((0, 3), np.float32) if scene.surface is None else scene.surface.xyz
    return overview(xyz, scene.cameras)


def window(o3d: Any, scene: Scene | SplatScene, title: str) -> None:
    """Open a window and block until it is closed."""
    if isinstance(scene, SplatScene):
        drawn, center, eye, up = [splat_geometry(o3d, scene)], scene.focus, scene.eye, scene.up
    else:
        view = _overview_of(scene)
        drawn, center, up = geometries(o3d, scene, view, linear=True), view.center, view.up
        # `draw` ignores the given field of view and uses its own (measured with 0.20).
        closer = np.tan(FIELD_OF_VIEW / 2) / np.tan(WINDOW_FIELD_OF_VIEW / 2)
        eye = center + closer * (view.eye - center)
    o3d.visualization.draw(
        drawn,
        title=title,
        width=WINDOW[0],
        height=WINDOW[1],
        lookat=center.astype(np.float32),
        eye=eye.astype(np.float32),
        up=up.astype(np.float32),
        bg_color=BACKGROUND,
        show_skybox=False,
        show_ui=False,
        point_size=3,
    )


def main(how: str, what: str, folder: str, *rest: str) -> int:
    """Draw and return the exit code; errors are written to standard error."""
    try:
        o3d = require("open3d")
        # The parent process has already warned about splats that are left out.
        read = partial(read_splat_scene, warn=_silent) if what == "splats" else read_scene
        scene = read(Path(folder))
        if how == "window":
            window(o3d, scene, f"reel3d: {Path(folder).name}")
        else:
            path, width, height = rest
            picture(o3d, scene, path, (int(width), int(height)))
    except Reel3dError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def _silent(text: str) -> None:
    del text


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
