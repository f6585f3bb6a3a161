"""COLMAP, nerfstudio, TUM and PLY: read back by the programs that define them."""

import json

import cv2
import numpy as np
import pytest

from pipeline.errors import require
from stages._formats.ply_reader import read_ply
from stages._geometry.transforms import OPENCV_FROM_OPENGL
from stages._rendering.scene import read_trajectory
from tests.support import results


def reconstruction(folder):
    return require("pycolmap").Reconstruction(str(folder / "sparse" / "0"))


def test_colmap_reads_the_same_cameras_and_tracks(tmp_path):
    views = results.views()
    heard = results.export("colmap", tmp_path, [(views,)])
    assert heard.artifacts == {"images": "images", "sparse/0": "COLMAP model"}
    model = reconstruction(tmp_path)
    assert model.num_reg_images() == 6
    assert model.num_cameras() == 1, "views that share intrinsics share a camera"
    camera = model.cameras[1]
    assert camera.model_name == "PINHOLE"
    assert camera.params.tolist() == [60.0, 61.0, 32.3, 24.1]
    assert (camera.width, camera.height) == (65, 48)
    for k in range(6):
        image = model.images[k + 1]
        assert image.name == f"{7 * k:06d}.jpg"
        assert (tmp_path / "images" / image.name).is_file()
        T_world_camera = image.cam_from_world().inverse().matrix()
        assert np.abs(T_world_camera - views.T_world_camera[k, :3]).max() < 1e-9
    seen = np.bincount(views.observed_point, minlength=80)
    assert sorted(model.points3D) == (np.flatnonzero(seen >= 2) + 1).tolist()
    observations = 0
    for number, point in model.points3D.items():
        assert point.xyz == pytest.approx(views.points[number - 1])
        assert point.color.tolist() == views.points_rgb[number - 1].tolist()
        assert point.error == 0.25
        assert point.track.length() == seen[number - 1]
        for element in point.track.elements:
            image = model.images[element.image_id]
            spot = image.points2D[element.point2D_idx]
            assert spot.point3D_id == number
            assert image.project_point(point.xyz) == pytest.approx(spot.xy, abs=1e-3)
            observations += 1
    assert observations == sum(i.num_points3D for i in model.images.values())
    assert model.compute_mean_reprojection_error() == pytest.approx(0.25)


def test_a_png_dataset_is_exact(tmp_path):
    results.export("colmap", tmp_path, [(results.views(),)], image_format="png")
    image = cv2.imread(str(tmp_path / "images" / "000014.png"))[..., ::-1]
    assert np.array_equal(image, results.picture(2))
    assert reconstruction(tmp_path).images[3].name == "000014.png"


def test_views_with_other_lenses_have_other_cameras(tmp_path):
    K = np.tile(results.K, (6, 1, 1))
    K[3:, 0, 0] += 5
    results.export("colmap", tmp_path, [(results.views(intrinsics=K),)])
    model = reconstruction(tmp_path)
    assert model.num_cameras() == 2
    focal = [model.cameras[model.images[k + 1].camera_id].params[0] for k in range(6)]
    assert focal == [60, 60, 60, 65, 65, 65]


def test_broken_rows_are_left_out(tmp_path):
    views = results.views()
    T, xyz = views.T_world_camera.copy(), views.points.copy()
    T[2] = np.nan
    xyz[5] = np.inf
    broken = results.views(T_world_camera=T, points=xyz)
    heard = results.export("colmap", tmp_path, [(broken,)])
    assert heard.warnings == ["sparse/0 leaves out 1 views without a pose"]
    model = reconstruction(tmp_path)
    assert sorted(model.images) == [1, 2, 4, 5, 6]
    assert 6 not in model.points3D
    for point in model.points3D.values():
        assert point.track.length() >= 2
        assert {e.image_id for e in point.track.elements} <= set(model.images)
    heard = results.export("transforms", tmp_path, [(broken,)])
    assert heard.warnings == ["transforms.json leaves out 1 views without a pose"]
    assert len(json.loads((tmp_path / "transforms.json").read_text())["frames"]) == 5


def without_sparse_points():
    nothing = {
        "points": np.empty((0, 3), np.float32),
        "points_rgb": np.empty((0, 3), np.uint8),
        "points_error_px": np.empty(0, np.float32),
        "observed_point": np.empty(0, np.int32),
        "observed_view": np.empty(0, np.int32),
        "observed_xy": np.empty((0, 2), np.float32),
    }
    return results.views(**nothing)


def test_given_poses_take_the_surface_for_sparse_points(tmp_path):
    results.export("colmap", tmp_path, [(without_sparse_points(), results.points())])
    model = reconstruction(tmp_path)
    assert model.num_points3D() == results.HEIGHT * results.WIDTH
    assert model.points3D[1].xyz == pytest.approx(results.points().xyz[0])
    assert model.points3D[1].track.length() == 0


def test_no_points_at_all_is_a_valid_model(tmp_path):
    results.export("colmap", tmp_path, [(without_sparse_points(),)])
    assert reconstruction(tmp_path).num_points3D() == 0


def test_nerfstudio_has_opengl_axes(tmp_path):
    views, points = results.views(), results.points()
    results.export("points", tmp_path, [(points,)])
    results.export("transforms", tmp_path, [(views, points)])
    said = json.loads((tmp_path / "transforms.json").read_text())
    assert said["ply_file_path"] == "points.ply"
    numbers = {name: said[name] for name in ("fl_x", "fl_y", "cx", "cy", "w", "h")}
    assert numbers == {"fl_x": 60, "fl_y": 61, "cx": 32.3, "cy": 24.1, "w": 65, "h": 48}
    assert said["camera_model"] == "OPENCV"
    for k, frame in enumerate(said["frames"]):
        assert frame["file_path"] == f"images/{7 * k:06d}.jpg"
        assert (tmp_path / frame["file_path"]).is_file()
        T = np.array(frame["transform_matrix"])
        assert np.abs(T @ OPENCV_FROM_OPENGL - views.T_world_camera[k]).max() < 1e-12
        looking = views.T_world_camera[k, :3, 2]
        assert -T[:3, 2] == pytest.approx(looking), "an OpenGL camera looks along -z"


def test_nerfstudio_takes_the_pictures_that_are_there(tmp_path):
    results.export("colmap", tmp_path, [(results.views(),)], image_format="png")
    heard = results.export("transforms", tmp_path, [(results.views(),)])
    assert "images" not in heard.artifacts
    said = json.loads((tmp_path / "transforms.json").read_text())
    assert said["frames"][1]["file_path"] == "images/000007.png"
    assert "ply_file_path" not in said


def test_lenses_that_differ_stand_in_every_frame(tmp_path):
    K = np.tile(results.K, (6, 1, 1))
    K[:, 1, 1] += np.arange(6)
    results.export("transforms", tmp_path, [(results.views(intrinsics=K),)])
    said = json.loads((tmp_path / "transforms.json").read_text())
    assert "fl_y" not in said
    assert [frame["fl_y"] for frame in said["frames"]] == [61, 62, 63, 64, 65, 66]


def test_the_trajectory_comes_back(tmp_path):
    views = results.views()
    results.export("trajectory", tmp_path, [(views,)])
    lines = (tmp_path / "trajectory.tum").read_text().splitlines()
    assert lines[0] == "# camera in the world: time_s tx ty tz qx qy qz qw; unit meter"
    assert lines[1].startswith("0.200000000 ")
    time_s, T = read_trajectory(tmp_path / "trajectory.tum")
    assert time_s == pytest.approx(views.pts_ns / 1e9)
    assert np.abs(T - views.T_world_camera).max() < 1e-12


def test_open3d_reads_cloud_and_mesh(tmp_path):
    o3d = require("open3d")
    points = results.points()
    results.export("points", tmp_path, [(points,)])
    results.export("mesh", tmp_path, [(points,)])
    cloud = o3d.io.read_point_cloud(str(tmp_path / "points.ply"))
    mesh = o3d.io.read_triangle_mesh(str(tmp_path / "mesh.ply"))
    assert np.array_equal(np.asarray(mesh.triangles), points.triangles)
    for xyz, normals, colors in (
        (cloud.points, cloud.normals, cloud.colors),
        (mesh.vertices, mesh.vertex_normals, mesh.vertex_colors),
    ):
        assert np.array_equal(np.asarray(xyz, np.float32), points.xyz)
        assert np.asarray(normals) == pytest.approx(points.normals)
        assert np.array_equal(np.rint(np.asarray(colors) * 255), points.rgb)


def test_the_header_word_for_word(tmp_path):
    results.export("mesh", tmp_path, [(results.points(),)])
    head = (tmp_path / "mesh.ply").read_bytes().split(b"end_header\n")[0].decode()
    assert head == (
        "ply\nformat binary_little_endian 1.0\nelement vertex 3120\n"
        "property float x\nproperty float y\nproperty float z\n"
        "property float nx\nproperty float ny\nproperty float nz\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\n"
        "element face 3008\nproperty list uchar int vertex_indices\n"
    )


def test_what_is_not_finite_never_reaches_a_ply(tmp_path):
    good = results.points()
    xyz, normals = good.xyz.copy(), good.normals.copy()
    xyz[[0, 70]] = np.nan
    normals[1, 2] = np.inf
    broken = results.points(xyz=xyz, normals=normals, vertices=xyz, vertices_normals=normals)
    heard = results.export("points", tmp_path, [(broken,)])
    assert heard.warnings == ["points.ply leaves out 2 points whose coordinates are not finite"]
    results.export("mesh", tmp_path, [(broken,)])
    cloud, mesh = read_ply(tmp_path / "points.ply"), read_ply(tmp_path / "mesh.ply")
    assert len(cloud.xyz) == len(mesh.xyz) == len(xyz) - 2
    assert np.isfinite(cloud.xyz).all()
    assert cloud.normals[0].tolist() == [0, 0, 0]
    # Each remaining face still joins the same three places.
    kept = good.triangles[~np.isin(good.triangles, [0, 70]).any(axis=1)]
    assert np.array_equal(mesh.xyz[mesh.triangles], good.xyz[kept])


def test_no_points_give_an_empty_cloud_and_no_mesh(tmp_path):
    nothing = results.points(
        mesh=False,
        xyz=np.empty((0, 3), np.float32),
        rgb=np.empty((0, 3), np.uint8),
        normals=np.empty((0, 3), np.float32),
    )
    results.export("points", tmp_path, [(nothing,)])
    assert len(read_ply(tmp_path / "points.ply").xyz) == 0
    assert results.export("mesh", tmp_path, [(nothing,)]).artifacts == {}
    assert not (tmp_path / "mesh.ply").exists()
