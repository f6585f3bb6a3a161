"""Looking at a run: the software renderer, hostile folders, and who draws when."""

import numpy as np
import pytest

from pipeline.contract import Context
from pipeline.contract.stage import options_of
from pipeline.contract.viewer import VIEW, find_viewer
from pipeline.errors import UsageError
from stages._formats.ply_reader import read_ply
from stages._rendering.overview import frusta, overview, upright
from stages._rendering.point_renderer import eye_dome, render, splat
from stages._rendering.scene import Cameras, Surface, read_cameras, read_scene
from stages.view import open3d as view_open3d
from tests.support import results


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    parcel = (results.views(), results.points())
    for model in ("points", "mesh", "trajectory", "transforms"):
        results.export(model, folder, [parcel])
    return folder


def plain_splat(uv, z, radius, depth, index):
    """`splat` as one reads it."""
    for y, x in np.ndindex(depth.shape):
        for n in range(len(z)):
            near = (x + 0.5 - uv[n, 0]) ** 2 + (y + 0.5 - uv[n, 1]) ** 2 <= radius[n] ** 2
            under = (x, y) == (np.floor(uv[n, 0]), np.floor(uv[n, 1]))
            if z[n] > 0 and (near or under) and z[n] < depth[y, x]:
                depth[y, x], index[y, x] = z[n], n


def test_splats_as_its_plain_twin():
    rng = np.random.default_rng(0)
    uv = rng.uniform(-6, 30, (60, 2)).astype(np.float32)
    z = rng.uniform(-0.5, 3, 60).astype(np.float32)
    radius = rng.uniform(0.1, 4, 60).astype(np.float32)
    made = []
    for draw in (splat, plain_splat):
        depth, index = np.full((20, 24), np.inf, np.float32), np.full((20, 24), -1, np.int32)
        draw(uv, z, radius, depth, index)
        made.append((depth, index))
    assert (made[0][1] >= 0).sum() > 200
    assert np.array_equal(made[0][0], made[1][0])
    assert np.array_equal(made[0][1], made[1][1])


def test_eye_dome_darkens_what_lies_behind_an_edge():
    depth = np.full((20, 20), 2.0, np.float32)
    depth[:, 10:] = 4.0
    depth[:3] = np.inf
    light = eye_dome(depth, 14.0, 1)
    assert light[12, 4] == light[12, 15] == light[12, 9] == 1
    assert light[12, 10] < 0.5
    assert light[3, 4] == 1, "the background darkens nothing"


def test_eye_dome_as_its_plain_twin():
    rng = np.random.default_rng(1)
    depth = rng.uniform(1, 3, (15, 17)).astype(np.float32)
    depth[rng.random(depth.shape) < 0.2] = np.inf
    padded = np.pad(np.log2(depth), 2, mode="edge")
    response = np.zeros(depth.shape)
    with np.errstate(invalid="ignore"):
        for y, x in np.ndindex(5, 5):
            if y % 2 == 0 and x % 2 == 0:
                ahead = np.log2(depth) - padded[y : y + 15, x : x + 17]
                response += np.clip(ahead, 0, 0.25)
    lit = np.isfinite(depth)
    light = eye_dome(depth, 14.0, 2)
    assert light[lit] == pytest.approx(np.exp(-14.0 / 8 * response)[lit], abs=1e-5)
    assert (light[~lit] == 1).all()


def draw_points(xyz, rgb, normals=None):
    K = np.array([[40.0, 0, 32], [0, 40, 24], [0, 0, 1]])
    return render(
        np.array(xyz, np.float32),
        np.array(rgb, np.uint8),
        None if normals is None else np.array(normals, np.float32),
        K=K,
        T_world_camera=np.eye(4),
        size=(64, 48),
        point_size=0.2,
    )


def test_a_point_is_drawn_where_it_projects_and_the_nearest_wins():
    image = draw_points([[0.5, -0.25, 2], [1.0, -0.5, 4]], [[250, 0, 0], [0, 250, 0]])
    bright = np.argwhere(image.max(axis=-1) > 150)
    assert bright.mean(axis=0) == pytest.approx([24 - 5 - 0.5, 32 + 10 - 0.5], abs=0.3)
    assert image[..., 0].max() > 200
    assert image[..., 1].max() < 60


def test_what_faces_away_is_left_out():
    away = draw_points([[0, 0, 2]], [[250, 0, 0]], [[0, 0, 1]])
    towards = draw_points([[0, 0, 2]], [[250, 0, 0]], [[0, 0, -1]])
    assert away.max() < 60 < towards.max()


def test_the_overview_sees_everything_the_right_way_up():
    T = results.poses()
    cameras = Cameras(np.arange(6.0), T, (0.5, 0.4))
    xyz = results.points().xyz
    view = overview(xyz, cameras)
    pose, K = view.pose(), view.intrinsics(1600, 900)
    assert np.linalg.det(pose[:3, :3]) == pytest.approx(1)
    both = np.concatenate([xyz, cameras.centers])
    local = (both - pose[:3, 3]) @ pose[:3, :3]
    pixels = (local @ K.T)[:, :2] / local[:, 2:]
    assert (local[:, 2] > 0).all()
    inside = (pixels > 0).all(axis=1) & (pixels < [1600, 900]).all(axis=1)
    assert inside.mean() > 0.97
    assert np.ptp(pixels, axis=0).max() > 600, "and fills the frame"
    assert -pose[:3, 1] @ upright(cameras) > 0.8


@pytest.mark.parametrize("count", [0, 1, 2])
def test_an_overview_of_nearly_nothing(count):
    cameras = Cameras(np.arange(1.0), np.eye(4)[None], (0.5, 0.4))
    view = overview(np.ones((count, 3), np.float32), cameras)
    assert np.isfinite(view.pose()).all()


def test_frusta_are_pyramids_of_the_given_size():
    cameras = Cameras(np.arange(1.0), np.eye(4)[None], (0.5, 0.25))
    lines = frusta(cameras, 2.0)
    assert lines.shape == (8, 2, 3)
    assert lines[:4, 0].tolist() == [[0, 0, 0]] * 4
    assert lines[0, 1].tolist() == [-1.0, -0.5, 2.0]


def test_a_scene_is_read_back(run_folder):
    scene = read_scene(run_folder)
    assert np.array_equal(scene.surface.xyz, results.points().xyz)
    assert scene.surface.triangles is None, "the cloud comes before the mesh"
    assert scene.cameras.field == pytest.approx((65 / 60 / 2, 48 / 61 / 2))
    (run_folder / "points.ply").unlink()
    assert len(read_scene(run_folder).surface.triangles) > 0


GOOD = (
    "ply\nformat binary_little_endian 1.0\nelement vertex 2\n"
    "property float x\nproperty float y\nproperty float z\nend_header\n"
)

PLY_ADVICE = "; binary little-endian files with x, y and z are allowed"


@pytest.mark.parametrize(
    ("header", "body", "why"),
    [
        ("", b"\xff" * 100, "its header is not one"),
        ("ply\nformat ascii 1.0\nend_header\n", b"", "its header is not one"),
        (GOOD, b"\0" * 20, "it is too short for the 2 vertices of its header"),
        (GOOD.replace("vertex 2", "vertex 99999999999999"), b"\0" * 24,
         "it is too short for the 99999999999999 vertices of its header"),
        (GOOD.replace("property float x\n", ""), b"\0" * 24, "its vertices have no x, y and z"),
        (GOOD.replace("float y", "list uchar int y"), b"",
         "'property list uchar int y' is no property of a vertex"),
        (GOOD.replace("float y", "float x"), b"", "'property float x' is no property of a vertex"),
        (GOOD.replace("vertex 2", "edge 2"), b"\0" * 24,
         "it holds other things than vertices and faces"),
        (GOOD.replace("end_h", "element face 1\nproperty list uchar int vertex_indices\nend_h"),
         b"\0" * 24 + b"\x03" + b"\x09\0\0\0" * 3, "its faces are no triangles of its vertices"),
        (GOOD.replace("end_h", "element face 5\nproperty list uchar int vertex_indices\nend_h"),
         b"\0" * 30, "it is too short for the 5 faces of its header"),
    ],
)  # fmt: skip
def test_a_broken_ply_is_one_line(header, body, why, tmp_path):
    path = tmp_path / "points.ply"
    path.write_bytes(header.encode() + body)
    with pytest.raises(UsageError) as caught:
        read_ply(path)
    assert str(caught.value) == f"{path} is not a PLY file that reel3d can show: {why}{PLY_ADVICE}"


def test_a_ply_of_others_is_read(tmp_path):
    header = GOOD.replace("float x", "double x").replace("end_h", "property uchar alpha\nend_h")
    row = np.dtype([("x", "<f8"), ("y", "<f4"), ("z", "<f4"), ("alpha", "u1")])
    table = np.array([(1, 2, 3, 4), (np.nan, 0, 0, 0)], row)
    (tmp_path / "a.ply").write_bytes(header.encode() + table.tobytes())
    surface = read_ply(tmp_path / "a.ply")
    assert surface.xyz.tolist() == [[1, 2, 3]]
    assert surface.rgb.tolist() == [[170, 170, 170]]
    assert surface.normals is None


@pytest.mark.parametrize(
    "line", ["1 2 3", "a b c d e f g h", "0 0 0 0 0 0 0 0", "0 nan 0 0 0 0 0 1"]
)
def test_a_broken_trajectory_is_one_line(line, tmp_path):
    path = tmp_path / "trajectory.tum"
    path.write_text(f"# fine\n0 0 0 0 0 0 0 1\n{line}\n")
    with pytest.raises(UsageError) as caught:
        read_cameras(tmp_path)
    assert str(caught.value) == (
        f"{path} line 3 is not a pose: '{line}'; expected 8 numbers: time_s tx ty tz qx qy qz qw"
    )


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"frames": []}', '{"w": 1, "h": 1, "fl_x": 0, "fl_y": "x"}']
)
def test_a_broken_lens_is_a_usual_one(text, tmp_path):
    (tmp_path / "trajectory.tum").write_text("0 0 0 0 0 0 0 1\n")
    (tmp_path / "transforms.json").write_text(text)
    assert read_cameras(tmp_path).field == (2 / 3, 1 / 2)


def shower(**options):
    heard = results.Heard()
    config = options_of(VIEW, "open3d")(**options)
    return find_viewer("open3d")(config, Context(report=heard.events.append)), heard


def test_a_folder_with_nothing_to_see(tmp_path):
    with pytest.raises(UsageError) as caught:
        shower()[0].show(tmp_path, None)
    assert str(caught.value) == (
        f"{tmp_path} has nothing to show in 3D: no non-empty points.ply, mesh.ply or "
        "trajectory.tum; see report.html there for the reason"
    )
    with pytest.raises(UsageError, match="is not a run folder: there is no such folder"):
        shower()[0].show(tmp_path / "none", None)


def test_without_a_display_the_report_is_the_way(run_folder, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(view_open3d.sys, "platform", "linux")
    with pytest.raises(UsageError) as caught:
        shower()[0].show(run_folder, None)
    assert str(caught.value) == (
        f"there is no display to open a window on: open {run_folder / 'report.html'} in a "
        "browser, or add --screenshot FILE.png"
    )


def read_png(path):
    import cv2

    return cv2.imread(str(path))


def test_the_software_picture(run_folder, tmp_path):
    stage, heard = shower(renderer="software", width=320, height=180)
    stage.show(run_folder, tmp_path / "a.png")
    image = read_png(tmp_path / "a.png")
    assert image.shape == (180, 320, 3)
    assert (image.max(axis=-1) > 100).mean() > 0.05
    assert heard.warnings == []


def test_when_open3d_dies_the_picture_is_still_drawn(run_folder, tmp_path, monkeypatch):
    died = "its process ended with status -6: no Vulkan instance"
    monkeypatch.setattr(view_open3d, "_draw", lambda *args, **kwargs: died)
    stage, heard = shower(width=160, height=90)
    stage.show(run_folder, tmp_path / "a.png")
    assert read_png(tmp_path / "a.png").max() > 100
    assert heard.warnings == [
        f"Open3D cannot draw without a window here ({died}); the image was drawn in software "
        "instead. To use Open3D, install libvulkan1 mesa-vulkan-drivers"
    ]
    stage, _ = shower(renderer="open3d")
    with pytest.raises(UsageError) as caught:
        stage.show(run_folder, tmp_path / "b.png")
    assert str(caught.value) == (
        f"Open3D cannot draw without a window here ({died}): install libvulkan1 "
        "mesa-vulkan-drivers, or set renderer to software"
    )
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["a.png"]


def test_a_process_that_dies_or_hangs_is_words(run_folder, monkeypatch):
    # A driver that cannot exist: Open3D then ends its process.
    for name in ("VK_ICD_FILENAMES", "VK_DRIVER_FILES"):
        monkeypatch.setenv(name, "/nowhere.json")
    trouble = view_open3d._draw(
        "picture", "cloud", run_folder, "/dev/null/a.png", "32", "32", timeout_s=60
    )
    assert trouble
    assert "\n" not in trouble
    assert "within 0.01 s" in view_open3d._draw("picture", "cloud", run_folder, timeout_s=0.01)


def test_open3d_draws_or_says_why(run_folder, tmp_path):
    stage, heard = shower(width=160, height=90)
    stage.show(run_folder, tmp_path / "a.png")
    image = read_png(tmp_path / "a.png")
    assert image.shape == (90, 160, 3)
    assert image.max() > 100
    assert len(heard.warnings) <= 1


def test_a_screenshot_is_a_png(run_folder, tmp_path):
    with pytest.raises(UsageError, match=r"a screenshot is a \.png file, got 'a\.jpg'"):
        shower()[0].show(run_folder, tmp_path / "a.jpg")


def test_a_surface_needs_no_normals_to_be_drawn():
    surface = Surface(np.ones((9, 3), np.float32), np.zeros((9, 3), np.uint8), None, None)
    assert surface.normals is None
