"""`reel3d render`: pictures against the photographs that they repeat, and every slip."""

import json

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.spatial.transform import Rotation

from pipeline.cli.main import main
from stages._rendering.colormaps import depth_colors, inverse_depth_range
from stages._rendering.run_cameras import RunCameras, rigid
from tests.support import results
from tests.support.splatted import psnr_db, room


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """What `reel3d run` leaves of a room: splats and cameras, a view every 6 frames up to 54."""
    folder = tmp_path_factory.mktemp("run")
    _, views, splats = room()
    for model in ("transforms", "splats"):
        results.export(model, folder, [(views, splats)])
    table = {"index": pa.array(range(2, 60)), "shot": pa.array([0] * 58)}
    pq.write_table(pa.table(table), folder / "frames.parquet")
    return folder


def png(path):
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def pictures(path):
    with av.open(str(path)) as film:
        frames = list(film.decode(video=0))
    return [f.to_ndarray(format="rgb24") for f in frames], [f.time for f in frames]


def test_a_keyframe_is_drawn_as_it_was_photographed(run_folder, tmp_path, capsys):
    _, views, _ = room()
    out = tmp_path / "a.png"
    assert main(["render", str(run_folder), "--at", "18", str(out)]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(out)
    assert said.err == ""
    # Measured: 23.4 dB at its own pose, 19.7 and 18.8 dB at its neighbors', 6 dB with the axes of
    # OpenGL, 13 dB upside down.
    assert psnr_db(png(out), views.images[3]) > 22.5
    for other in (2, 4):
        assert psnr_db(png(out), views.images[other]) < 20.5


def test_a_frame_between_keyframes_has_a_pose_between(run_folder, tmp_path, capsys):
    truth, _, _ = room()
    out = tmp_path / "a.png"
    assert main(["render", str(run_folder), "--at", "21", str(out)]) == 0
    assert "frame 21 is not a keyframe: pose interpolated from 18 and 24" in capsys.readouterr().err
    assert psnr_db(png(out), truth.images[21]) > 21


K_ROUND = np.array([[300.0, 0, 160], [0, 300, 90], [0, 0, 1]])


def test_frames_before_and_after_the_poses_and_at_cuts():
    keyframes = RunCameras(
        index=np.array([10, 20, 40]),
        T_world_camera=results.poses(3),
        intrinsics=np.tile(K_ROUND, (3, 1, 1)),
        size=(320, 180),
        files=("images/000010.jpg", "images/000020.jpg", "images/000040.jpg"),
        frames=(4, 60),
        shots=(24,),
    )
    for frame, row, said in (
        (10, 0, ""),
        (5, 0, "frame 5 has no pose (poses begin after it): using that of frame 10"),
        (60, 2, "frame 60 has no pose (poses end before it): using that of frame 40"),
        (22, 1, "frame 22 has no pose (a cut is near): using that of frame 20"),
        (35, 2, "frame 35 has no pose (a cut is near): using that of frame 40"),
    ):
        T, _, heard = keyframes.at(frame)
        assert heard == said
        assert np.array_equal(T, keyframes.T_world_camera[row])
    between = keyframes.at(15)[0][:3, 3]
    assert between == pytest.approx(keyframes.T_world_camera[:2, :3, 3].mean(axis=0))


def test_depth_has_the_colors_of_depth_mp4(run_folder, tmp_path):
    truth, _, _ = room()
    out = tmp_path / "d.png"
    assert main(["render", str(run_folder), "--at", "0", "--depth", str(out)]) == 0
    depth = truth.depth(0)
    wanted = depth_colors(depth, inverse_depth_range(depth))
    assert np.median(np.abs(png(out).astype(int) - wanted).max(axis=-1)) < 16


def test_another_size_is_a_crop(run_folder, tmp_path):
    _, views, _ = room()
    out = tmp_path / "a.png"
    assert main(["render", str(run_folder), "--at", "18", "--size", "320x90", str(out)]) == 0
    assert psnr_db(png(out), views.images[3][45:135]) > 22


def test_an_orbit_shows_what_was_seen(run_folder, tmp_path):
    out = tmp_path / "a.mp4"
    words = ["--size", "161x91", "--fps", "10", "--seconds", "1.5"]
    assert main(["render", str(run_folder), *words, str(out)]) == 0
    images, times = pictures(out)
    assert times == pytest.approx(np.arange(15) / 10, abs=1e-4)
    assert images[0].shape == (92, 162, 3), "4:2:0 wants even sides"
    unseen = [(image.max(axis=-1) < 12).mean() for image in images]
    assert max(unseen) < 0.08
    # The last is next to the first.
    steps = [psnr_db(a, b) for a, b in zip(images, [*images[1:], images[0]], strict=True)]
    assert min(steps) > 15


def test_a_path_through_the_training_cameras(run_folder, tmp_path):
    _, views, _ = room()
    out = tmp_path / "a.mp4"
    words = ["--path", "train", "--fps", "10", "--seconds", "1"]
    assert main(["render", str(run_folder), *words, str(out)]) == 0
    images, _ = pictures(out)
    assert len(images) == 10
    assert psnr_db(images[0], views.images[0]) > 22
    assert psnr_db(images[-1], views.images[-1]) > 17.5


def test_cameras_of_a_file(run_folder, tmp_path, capsys):
    _, views, _ = room()
    T, K = views.T_world_camera, views.intrinsics[0]
    fov_deg = float(np.degrees(2 * np.arctan(90 / K[1, 1])))
    one = tmp_path / "one.json"
    assert main(["render", str(run_folder), "--at", "18", str(tmp_path / "at.png")]) == 0
    for lens in ({}, {"K": K.tolist()}, {"fov_deg": fov_deg}):
        one.write_text(json.dumps([{"T_world_camera": T[3].tolist(), **lens}]))
        words = ["render", str(run_folder), "--path", str(one), "--size", "320x180"]
        assert main([*words, str(tmp_path / "a.png")]) == 0
        assert psnr_db(png(tmp_path / "a.png"), png(tmp_path / "at.png")) > 50
    zoom = K.copy()
    zoom[:2, :2] *= 2
    cameras = [
        {"T_world_camera": T[3].tolist(), "K": K.tolist()},
        {"T_world_camera": T[3].tolist(), "K": zoom.tolist()},
    ]
    one.write_text(json.dumps(cameras))
    words = ["render", str(run_folder), "--path", str(one), "--fps", "4", "--seconds", "1"]
    assert main([*words, str(tmp_path / "a.mp4")]) == 0
    images, _ = pictures(tmp_path / "a.mp4")
    close = cv2.resize(images[0][45:135, 80:240], (320, 180), interpolation=cv2.INTER_CUBIC)
    assert psnr_db(images[0], png(tmp_path / "at.png")) > 30
    assert psnr_db(images[-1], close) > 24
    capsys.readouterr()
    assert main([*words[:4], str(tmp_path / "b.png")]) == 2
    assert "holds 2 cameras, which make a video: name it .mp4" in capsys.readouterr().err


def test_a_ply_alone_is_turned_about(run_folder, tmp_path, capsys):
    out = tmp_path / "a.mp4"
    words = ["--size", "160x90", "--fps", "4", "--seconds", "1"]
    assert main(["render", str(run_folder / "splats.ply"), *words, str(out)]) == 0
    images, _ = pictures(out)
    assert len(images) == 4
    assert all((image.max(axis=-1) > 40).mean() > 0.1 for image in images)
    assert psnr_db(images[0], images[2]) < 20, "the other side"
    for where, why in (
        (["--at", "3", "a.png"], "a .ply file has no frames; --at needs a run folder"),
        (["--path", "train", "a.mp4"],
         "a .ply file has no training cameras; --path train needs a run"),
    ):  # fmt: skip
        capsys.readouterr()
        assert main(["render", str(run_folder / "splats.ply"), *where]) == 2
        assert capsys.readouterr().err.strip() == f"reel3d: {why}"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--at", "61", "a.png"],
         "there is no frame 61 in this run: it has 0 to 59, and poses of 0 to 54"),
        (["--at", "-1", "a.png"], "'-1' is not a frame number; allowed are 0, 1, 2, ..."),
        (["--at", "3", "a.mp4"], "--at renders a single image: name it .png"),
        (["a.gif"], "'a.gif' is neither an image nor a video; name it .png (one camera) or .mp4 "
                    "(a camera path)"),
        (["--path", "train", "a.png"],
         "--path train makes a video: name it .mp4, or give --at FRAME"),
        (["--path", "orbits", "a.mp4"], "there is no camera path 'orbits'; allowed are orbit, "
                                        "train and FILE.json; did you mean 'orbit'?"),
        (["--path", "none.json", "a.mp4"],
         "none.json cannot be read: No such file or directory"),
        (["--at", "3", "--path", "orbit", "a.mp4"], "not allowed with argument --at"),
        (["--size", "640", "a.png"], "'640' is not a size; allowed is WIDTHxHEIGHT in px, each 16 "
                                     "to 8192, such as 640x360"),
        (["--size", "9000x100", "a.png"], "'9000x100' is not a size;"),
        (["--size", "8000x8000", "a.png"], "8000x8000 has 64 megapixels; at most 36 are drawn"),
        (["/dev/null/a.png"], "/dev/null/a.png cannot be written: its folder is a file"),
        (["--fps", "0", "a.mp4"], "'0' is not allowed; give 1 to 240"),
        (["--seconds", "nan", "a.mp4"], "'nan' is not allowed; give 0.1 to 600"),
    ],
)  # fmt: skip
def test_a_slip_is_one_line(words, why, run_folder, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["render", str(run_folder), *words]) == 2
    said = capsys.readouterr().err.strip()
    assert why in said
    assert "\n" not in said
    assert list(tmp_path.iterdir()) == []


def matrix(**changes):
    T = np.eye(4).tolist()
    for place, value in changes.items():
        T[int(place[1])][int(place[2])] = value
    return T


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", " is not JSON: Expecting property name"),
        ("[" * 100_000, " is not JSON: it is nested too deeply"),
        ("{}", " is a dict; a camera path is a list of"),
        ("[]", " is an empty list; a camera path is a list of"),
        ("[3]", ": camera 0 is a int; allowed is an object with T_world_camera, fov_deg, K"),
        ([{"T_world_camera": matrix(), "fov": 3}],
         ": camera 0 has 'fov'; allowed are T_world_camera, fov_deg, K; did you mean 'fov_deg'?"),
        ([{"T_world_camera": matrix()}, {}], ": camera 1 has no usable T_world_camera"),
        ([{"T_world_camera": matrix(_03=float("nan"))}], ": camera 0 has no usable T_world"),
        ([{"T_world_camera": matrix(_00=1.1)}], ": camera 0 has no usable T_world_camera"),
        ([{"T_world_camera": matrix(_00=-1)}], ": camera 0 has no usable T_world_camera"),
        ([{"T_world_camera": matrix()[:3]}], ": camera 0 has no usable T_world_camera"),
        ([{"T_world_camera": "x"}], ": camera 0 has no usable T_world_camera"),
        ([{"T_world_camera": matrix(), "fov_deg": 180}],
         ": camera 0 has fov_deg 180; allowed are 1 to 170"),
        ([{"T_world_camera": matrix(), "fov_deg": float("nan")}], ": camera 0 has fov_deg nan;"),
        ([{"T_world_camera": matrix(), "K": [[1, 0, 0], [0, -1, 0], [0, 0, 1]]}],
         ": camera 0 has no usable K: it must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in px"),
        ([{"T_world_camera": matrix(), "K": np.eye(3).tolist(), "fov_deg": 40}],
         ": camera 0 has both fov_deg and K; give one"),
    ],
)  # fmt: skip
def test_a_bad_file_of_cameras_is_one_line(text, why, run_folder, tmp_path, capsys):
    path = tmp_path / "path.json"
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    assert main(["render", str(run_folder), "--path", str(path), str(tmp_path / "a.mp4")]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"reel3d: {path}{why}")
    assert "\n" not in said
    assert [p.name for p in tmp_path.iterdir()] == ["path.json"]


def test_rotations_of_few_digits_are_made_exact():
    R = Rotation.from_rotvec([0.3, -0.7, 0.2]).as_matrix()
    T = np.eye(4)
    T[:3, :3] = np.round(R, 4)
    made = rigid(T.tolist())
    assert np.abs(made[:3, :3] @ made[:3, :3].T - np.eye(3)).max() < 1e-12
    assert np.abs(made[:3, :3] - R).max() < 2e-4


def copy_of(run_folder, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("splats.ply", "transforms.json"):
        (folder / name).write_bytes((run_folder / name).read_bytes())
    return folder


def edited(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (lambda c: c.update(frames=[]), "has no cameras; see report.html beside it for the reason"),
        (lambda c: c.pop("frames"), "is not a list of cameras: it has no 'frames'"),
        (lambda c: c.pop("fl_x"), "is broken: row 0 of its frames has no camera"),
        (lambda c: c.update(w=0), "is broken: row 0 of its frames has no camera"),
        (lambda c: c["frames"][2].update(transform_matrix=[[float("inf")] * 4] * 4),
         "is broken: row 2 of its frames has no pose; run it again with --resume"),
        (lambda c: c["frames"][1].update(file_path="images/a.jpg"),
         "is broken: row 1 of its frames has no frame number"),
        (lambda c: c["frames"][1].update(file_path=c["frames"][0]["file_path"]),
         "lists a frame twice; each frame must have one pose"),
        (lambda c: c["frames"][1].update(w=20), "has images of several sizes"),
    ],
)  # fmt: skip
def test_broken_cameras_of_a_run_are_one_line(edit, why, run_folder, tmp_path, capsys):
    folder = copy_of(run_folder, tmp_path)
    edited(folder / "transforms.json", edit)
    assert main(["render", str(folder), str(tmp_path / "a.mp4")]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"reel3d: {folder / 'transforms.json'} {why}")
    assert "\n" not in said


def test_a_folder_is_no_picture(run_folder, tmp_path, capsys):
    (tmp_path / "a.png").mkdir()
    assert main(["render", str(run_folder), "--at", "0", str(tmp_path / "a.png")]) == 2
    why = f"{tmp_path / 'a.png'} is a folder; name a file"
    assert capsys.readouterr().err.strip() == f"reel3d: {why}"


def test_a_run_without_splats_or_cameras(run_folder, tmp_path, capsys):
    folder = copy_of(run_folder, tmp_path)
    (folder / "transforms.json").unlink()
    assert main(["render", str(folder), str(tmp_path / "a.mp4")]) == 2
    assert capsys.readouterr().err.strip() == (
        f"reel3d: {folder} has no transforms.json, which holds its cameras; run it again with "
        "--resume export.transforms=on, or give --path FILE.json"
    )
    (folder / "splats.ply").unlink()
    assert main(["render", str(folder), str(tmp_path / "a.mp4")]) == 2
    assert capsys.readouterr().err.startswith(f"reel3d: {folder} has no splats")
    assert main(["render", str(tmp_path / "none"), str(tmp_path / "a.mp4")]) == 2
    why = f"there is no run folder or .ply file {tmp_path / 'none'}"
    assert capsys.readouterr().err.strip() == f"reel3d: {why}"
