"""Folders of images: order, formats, damage, and the poses that lie beside them."""

import json
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.errors import SourceError
from stages._geometry.transforms import OPENCV_FROM_OPENGL, quaternion_wxyz
from tests.support.media import Told, number_of, numbered, read

POSE = np.array([[0, 0, 1, 3.0], [-1, 0, 0, 2], [0, -1, 0, 1], [0, 0, 0, 1]])


def save(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)
    return path


def folder_of(path: Path, count: int = 3, name: str = "{}.png") -> Path:
    for i in range(count):
        save(path / name.format(i), numbered(i))
    return path


def test_natural_order_and_only_frames(tmp_path: Path) -> None:
    for i in (1, 2, 9, 10, 100):
        save(tmp_path / f"img{i}.png", numbered(i))
    save(tmp_path / "img1_depth.png", numbered(700))
    save(tmp_path / ".hidden.png", numbered(701))
    (tmp_path / "notes.txt").write_text("no image")
    reader = read(tmp_path, "images", fps=10)
    assert [number_of(p.rgb()) for p in reader.scan()] == [1, 2, 9, 10, 100]
    assert reader.timeline().pts_ns.tolist() == [i * 100_000_000 for i in range(5)]
    assert [p.index for p in reader.frames_at([1, 4])] == [1, 4]
    assert (reader.probe.kind, reader.probe.frames, reader.probe.fps) == ("images", 5, None)
    glob = read(str(tmp_path / "img1*[0-9].png"), "images")
    assert [number_of(p.rgb()) for p in glob.scan()] == [10, 100]
    still = read(tmp_path / "img9.png", "images")
    assert [number_of(p.rgb()) for p in still.scan()] == [9]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "bmp"])
def test_formats(suffix: str, tmp_path: Path) -> None:
    save(tmp_path / f"a.{suffix}", numbered(333))
    reader = read(tmp_path, "images")
    image = next(iter(reader.scan())).rgb()
    assert image.shape == (96, 160, 3)
    assert number_of(image) == 333


def test_gray_and_sixteen_bit_become_rgb(tmp_path: Path) -> None:
    gray = numbered(21)[..., 1]
    save(tmp_path / "a.png", gray)
    save(tmp_path / "b.png", gray.astype(np.uint16) * 257)
    a, b = (p.rgb() for p in read(tmp_path, "images").scan())
    assert np.array_equal(a, np.repeat(gray[..., None], 3, axis=2))
    assert np.abs(a.astype(int) - b).max() <= 1


def test_exif_orientation(tmp_path: Path) -> None:
    stored = np.ascontiguousarray(np.rot90(numbered(99)))
    path = save(tmp_path / "a.jpg", stored)
    # Orientation 6 (TIFF 6.0 tag 0x0112): turn by 90 degrees clockwise to view.
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    app1 = b"Exif\0\0" + tiff
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(app1) + 2) + app1 + data[2:])
    reader = read(tmp_path, "images")
    assert number_of(next(iter(reader.scan())).rgb()) == 99
    assert (reader.probe.width, reader.probe.height) == (160, 96)


def test_broken_and_odd_ones_are_lost_by_name(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder_of(tmp_path, 6, "{}.jpg")
    whole = (tmp_path / "1.jpg").read_bytes()
    (tmp_path / "1.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "2.jpg").write_bytes(b"not an image")
    (tmp_path / "3.jpg").write_bytes(b"")
    save(tmp_path / "4.jpg", numbered(4, 96, 160))
    told = Told()
    reader = read(tmp_path, "images", told)
    assert [p.index for p in reader.scan()] == [0, 5]
    assert told.losses == [
        ("image 1.jpg", "it is cut off"),
        ("image 2.jpg", "it is no image of a known format"),
        ("image 3.jpg", "it is empty (0 bytes)"),
        (
            "image 4.jpg",
            "it is 96x160, which has another shape than the first image; images of one source "
            "must have one shape",
        ),
    ]
    assert capfd.readouterr() == ("", "")


def test_larger_ones_are_brought_to_the_first_size(tmp_path: Path) -> None:
    save(tmp_path / "0.png", numbered(1))
    save(tmp_path / "1.png", numbered(2, 320, 192))
    assert [number_of(p.rgb()) for p in read(tmp_path, "images").scan()] == [1, 2]
    assert {p.rgb().shape for p in read(tmp_path, "images").scan()} == {(96, 160, 3)}


def test_refusals(tmp_path: Path) -> None:
    def refusal(path: Path, **options: object) -> str:
        with pytest.raises(SourceError) as error:
            read(path, "images", **options)
        return str(error.value)

    empty = tmp_path / "empty"
    empty.mkdir()
    assert refusal(empty) == (
        "empty holds no images; a folder must hold files that end in .jpg, .jpeg, .png, .tif, "
        ".tiff, .webp, .bmp"
    )
    assert refusal(tmp_path / "none") == (
        "cannot read none: there is no such file or folder; give a folder of images, a glob such "
        "as 'frames/*.png', or a video file"
    )
    assert refusal(tmp_path / "*.png") == "cannot read *.png: no image has a name like that"
    (tmp_path / "a.mp4").write_bytes(b"x")
    assert "a video is read with decode.model=pyav" in refusal(tmp_path / "a.mp4")
    two = tmp_path / "two"
    folder_of(two / "north", 1)
    folder_of(two / "south", 1)
    assert refusal(two) == "two has several folders of images (north, south); name one of them"
    bomb = tmp_path / "bomb"
    bomb.mkdir()
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 60000, 60000)
    (bomb / "a.png").write_bytes(header + bytes(50) + b"IEND")
    assert refusal(bomb) == (
        "bomb: the image cannot be used (a.png: it is 60000x60000; at most 35389440 pixels are "
        "allowed (decode.max_pixels))"
    )


# Poses


def transforms(folder: Path, names: list[str], **camera: float) -> None:
    frames = [
        {"file_path": name, "transform_matrix": (POSE @ OPENCV_FROM_OPENGL).tolist()}
        for name in names
    ]
    tree = {"w": 160, "h": 96, "fl_x": 150.0, "fl_y": 140.0, "cx": 82.0, "cy": 47.0, **camera}
    (folder / "transforms.json").write_text(json.dumps({**tree, "frames": frames}))


def test_nerfstudio(tmp_path: Path) -> None:
    folder_of(tmp_path / "images", 3)
    transforms(tmp_path, ["images/0.png", "./images/2", "images/7.png", "images/8.png"])
    told = Told()
    reader = read(tmp_path, "images", told, max_side=80)
    a, b, c = reader.scan()
    assert np.allclose(a.T_world_camera, POSE)
    assert np.allclose(c.T_world_camera, POSE)
    assert b.T_world_camera is None
    # Half the size: every number of K is halved.
    assert np.allclose(a.intrinsics, [[75, 0, 41], [0, 70, 23.5], [0, 0, 1]])
    assert (reader.probe.poses, reader.metric) == ("transforms.json", False)
    assert told.warnings == [
        "transforms.json lists 4 frames; 2 of their files are missing and the other 2 are used",
        "1 of 3 images have no pose in transforms.json",
    ]


def test_distortion_is_taken_out(tmp_path: Path) -> None:
    K = np.array([[500.0, 0, 330], [0, 500, 230], [0, 0, 1]])
    distortion = (0.12, -0.08, 0.002, -0.001)
    rays = np.array([[x, y, 1.0] for x in (-0.4, -0.1, 0.3) for y in (-0.3, 0.05, 0.25)])
    # OpenCV counts pixel centers from 0, as does cv2.circle.
    offset = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    spots, _ = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), K - offset, np.array(distortion))
    image = np.zeros((480, 640, 3), np.uint8)
    for u, v in spots[:, 0]:
        center = (round(u * 256), round(v * 256))
        cv2.circle(image, center, 6 * 256, (255, 255, 255), -1, cv2.LINE_AA, shift=8)
    save(tmp_path / "0.png", image)
    k1, k2, p1, p2 = distortion
    transforms(
        tmp_path, ["0.png"], w=640, h=480, fl_x=500, fl_y=500, cx=330, cy=230,
        k1=k1, k2=k2, p1=p1, p2=p2,
    )  # fmt: skip
    picture = next(iter(read(tmp_path, "images").scan()))
    seen = (picture.rgb()[..., 0] > 127).astype(np.uint8)
    _, _, _, centers = cv2.connectedComponentsWithStats(seen)
    expected = (rays @ picture.intrinsics.T)[:, :2]
    for spot in expected:
        # Centroids count from 0, intrinsics from the corner.
        assert np.abs(centers[1:] + 0.5 - spot).sum(1).min() < 0.6


@pytest.mark.parametrize("end", [".bin", ".txt"])
def test_colmap_model_as_pycolmap_writes_it(end: str, tmp_path: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    folder_of(tmp_path / "images", 3)
    model = pycolmap.Reconstruction()
    camera = pycolmap.Camera(
        model="SIMPLE_RADIAL", width=160, height=96, params=[150, 80, 48, 0.0], camera_id=1
    )
    model.add_camera_with_trivial_rig(camera)
    for i in (0, 2):
        image = pycolmap.Image(name=f"{i}.png", camera_id=1, image_id=i + 1)
        inverse = np.linalg.inv(POSE)[:3]
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(inverse))
    sparse = tmp_path / "sparse" / "0"
    sparse.mkdir(parents=True)
    (model.write_binary if end == ".bin" else model.write_text)(str(sparse))
    reader = read(tmp_path / "images", "images")
    a, b, c = reader.scan()
    assert np.allclose(a.T_world_camera, POSE)
    assert np.allclose(c.T_world_camera, POSE)
    assert b.T_world_camera is None
    assert np.allclose(b.intrinsics, [[150, 0, 80], [0, 150, 48], [0, 0, 1]])
    assert reader.probe.poses == "sparse/0"


def test_kitti(tmp_path: Path) -> None:
    folder_of(tmp_path / "image_2", 3, "{:06d}.png")
    K = "700 0 80 {} 0 700 48 0 0 0 1 0"
    lines = [f"P{i}: " + K.format(b) for i, b in enumerate((0, -70, 14, -56))]
    (tmp_path / "calib.txt").write_text("\n".join(lines))
    rows = [f"1 0 0 0 0 1 0 0 0 0 1 {i}" for i in range(5)]
    (tmp_path / "poses.txt").write_text("\n".join(rows))
    (tmp_path / "times.txt").write_text("0.0\n0.11\n0.2\n")
    reader = read(tmp_path, "images")
    pictures = list(reader.scan())
    assert np.allclose(pictures[0].intrinsics, [[700, 0, 80.5], [0, 700, 48.5], [0, 0, 1]])
    # P2's last column is 14 px: that camera stands 14/700 m to the left of camera 0.
    assert np.allclose(pictures[2].T_world_camera[:3, 3], [-0.02, 0, 2])
    assert [p.pts_ns for p in pictures] == [0, 110_000_000, 200_000_000]
    assert reader.metric


def test_seven_scenes(tmp_path: Path) -> None:
    for i in (5, 6):
        save(tmp_path / f"frame-{i:06d}.color.jpg", numbered(i))
        save(tmp_path / f"frame-{i:06d}.depth.png", np.zeros((96, 160), np.uint16))
        np.savetxt(tmp_path / f"frame-{i:06d}.pose.txt", POSE)
    (tmp_path / "camera-intrinsics.txt").write_text("585 0 320\n0 585 240\n0 0 1\n")
    reader = read(tmp_path, "images")
    a, b = reader.scan()
    assert [number_of(a.rgb()), number_of(b.rgb())] == [5, 6]
    assert np.allclose(b.T_world_camera, POSE)
    # The file's focal length is the depth camera's.
    assert b.intrinsics is None
    assert reader.metric


@pytest.mark.data
def test_real_sets(data: Path) -> None:
    told = Told()
    fox = read(data / "sfm-fox", "images", told)
    assert fox.probe.frames == 25
    assert told.warnings == [
        "transforms.json lists 67 frames; 42 of their files are missing and the other 25 are used"
    ]
    kitti = read(data / "kitti-seq1", "images", max_side=2048)
    first, *_, last = kitti.scan()
    assert first.intrinsics[0, 0] == pytest.approx(707.0912)
    assert last.T_world_camera[2, 3] == pytest.approx(22.7, abs=0.1)
    kitchen = read(data / "rgbd-redkitchen-a", "images")
    assert kitchen.probe.frames == 100
    assert next(iter(kitchen.scan())).intrinsics is None
    assert quaternion_wxyz(next(iter(kitchen.scan())).T_world_camera[:3, :3])[0] > 0.9
