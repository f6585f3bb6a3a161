"""Depth images beside the frames: layouts, units, damage, and that they stay with their frames."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.contract import Context, Frames, Keyframes, Source
from pipeline.contract.stage import find, options_of
from pipeline.errors import SourceError
from pipeline.worker import ClipMetadata
from pipeline.worker.clip_source import ClipSource
from stages.pose._views import _undistorted
from tests.stages.decode.test_images import save, transforms
from tests.support.media import HEIGHT, WIDTH, Told, number_of, numbered, read, sample
from tests.support.motions import opened


def units(i: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Depth in units that tell the frame and the place; one pixel of each kind of nothing."""
    v, u = np.mgrid[:height, :width]
    depth = (1000 + 1000 * i + 10 * u + v).astype(np.uint16)
    depth[0, 0], depth[0, 1] = 0, 65535
    return depth


def meters(i: int, per_m: float = 1000) -> np.ndarray:
    depth = units(i).astype(np.float32) / np.float32(per_m)
    depth[0, :2] = np.nan
    return depth


def same(found: np.ndarray | None, wanted: np.ndarray) -> bool:
    assert found is not None
    assert found.dtype == np.float32
    return np.array_equal(found, wanted, equal_nan=True)


def kitchen(folder: Path, count: int = 3) -> Path:
    for i in range(count):
        save(folder / f"frame-{i:06d}.color.png", numbered(i))
        save(folder / f"frame-{i:06d}.depth.png", units(i))
    return folder


def test_beside_the_frames(tmp_path: Path) -> None:
    reader = read(kitchen(tmp_path), "images")
    pictures = list(reader.scan())
    assert [number_of(p.rgb()) for p in pictures] == [0, 1, 2]
    assert all(same(p.depth(), meters(i)) for i, p in enumerate(pictures))
    assert reader.probe.depth == "*.depth.png"


def test_in_a_folder_with_the_same_names(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / "color" / f"{i}.jpg", numbered(i))
        save(tmp_path / "depth" / f"{i}.png", units(i))
    for source in (tmp_path, tmp_path / "color"):
        told = Told()
        pictures = list(read(source, "images", told).scan())
        assert all(same(p.depth(), meters(i)) for i, p in enumerate(pictures))
        assert told.warnings == []


def test_tum_lists_pair_by_time(tmp_path: Path) -> None:
    stamps = ["1305031102.175304", "1305031102.211214", "1305031102.243211"]
    late = ["1305031102.160407", "1305031102.226738", "1305031102.362886"]
    for i, (color, depth) in enumerate(zip(stamps, late, strict=True)):
        save(tmp_path / "rgb" / f"{color}.png", numbered(i))
        save(tmp_path / "depth" / f"{depth}.png", units(i))
    head = "# color images\n# file: 'x.bag'\n# timestamp filename\n"
    (tmp_path / "rgb.txt").write_text(head + "".join(f"{s} rgb/{s}.png\n" for s in stamps))
    (tmp_path / "depth.txt").write_text(head + "".join(f"{s} depth/{s}.png\n" for s in late))
    told = Told()
    reader = read(tmp_path, "images", told)
    a, b, c = (p.depth() for p in reader.scan())
    # 14.9 and 15.5 ms apart; the third is 16.5 ms from the second depth image, which is nearer.
    assert same(a, meters(0, 5000))
    assert same(b, meters(1, 5000))
    assert same(c, meters(1, 5000))
    assert reader.probe.depth == "depth.txt"
    (tmp_path / "depth.txt").write_text(head + f"{late[0]} depth/{late[0]}.png\n")
    told = Told()
    a, b, c = (p.depth() for p in read(tmp_path, "images", told).scan())
    assert same(a, meters(0, 5000))
    assert np.isnan(b).all()
    assert told.warnings == ["2 of 3 images have no depth in depth.txt"]
    (tmp_path / "depth.txt").write_text(head)
    with pytest.raises(SourceError, match=r"depth\.txt lists no depth images"):
        read(tmp_path, "images")


def test_a_list_that_leads_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    save(tmp_path / "set" / "rgb" / "1.0.png", numbered(0))
    save(tmp_path / "set" / "rgb" / "2.0.png", numbered(1))
    save(tmp_path / "set" / "depth" / "2.0.png", units(1))
    save(tmp_path / "secret.png", units(0))
    (tmp_path / "set" / "depth.txt").write_text("1.0 ../secret.png\n2.0 depth/2.0.png\n")
    a, b = (p.depth() for p in read(tmp_path / "set", "images").scan())
    assert np.isnan(a).all()
    assert same(b, meters(1, 5000))


def test_units_may_be_said_and_depth_left_alone(tmp_path: Path) -> None:
    kitchen(tmp_path)
    first = next(iter(read(tmp_path, "images", depth_per_m=256).scan()))
    assert same(first.depth(), meters(0, 256))
    reader = read(tmp_path, "images", depth=False)
    assert next(iter(reader.scan())).depth() is None
    assert reader.probe.depth == ""


def test_depth_of_another_camera_is_enlarged(tmp_path: Path) -> None:
    """7-Scenes: what its depth camera (585 px) sees, its color camera (525 px) sees smaller."""
    kitchen(tmp_path)
    (tmp_path / "camera-intrinsics.txt").write_text("585 0 320\n0 585 240\n0 0 1\n")
    told = Told()
    first = next(iter(read(tmp_path, "images", told).scan()))
    found = first.depth()
    # The center stays; 30 px right of it in color is 33.4 px in depth.
    assert found[HEIGHT // 2, WIDTH // 2] == meters(0)[HEIGHT // 2, WIDTH // 2]
    assert found[48, 110] == meters(0)[48, 80 + int(30.5 * 585 / 525)]
    assert np.isnan(found[:, 0]).all()
    assert "are not registered to its color images" in told.warnings[0]


def test_depth_of_another_size_is_brought_to_the_frames(tmp_path: Path) -> None:
    save(tmp_path / "color" / "0.png", numbered(0, 2 * WIDTH, 2 * HEIGHT))
    save(tmp_path / "depth" / "0.png", units(0))
    large = next(iter(read(tmp_path, "images").scan())).depth()
    assert same(large, meters(0).repeat(2, axis=0).repeat(2, axis=1))
    small = next(iter(read(tmp_path, "images", max_side=WIDTH // 2).scan())).depth()
    assert small.shape == (HEIGHT // 2, WIDTH // 2)
    # Each is the depth of one pixel, and of one that it covers.
    v, u = np.mgrid[: HEIGHT // 2, : WIDTH // 2]
    off = small - (1 + 0.01 * 2 * u + 0.001 * 2 * v)
    assert np.nanmin(off) > -1e-4
    assert np.nanmax(off) < 0.012


def test_damaged_depth_is_lost_and_its_frame_is_not(tmp_path: Path) -> None:
    kitchen(tmp_path, 7)

    def path(i: int) -> Path:
        return tmp_path / f"frame-{i:06d}.depth.png"

    whole = path(1).read_bytes()
    path(1).write_bytes(whole[: len(whole) // 2])
    path(2).write_bytes(b"")
    save(path(3), numbered(3))
    save(path(4), units(4, WIDTH, HEIGHT))
    save(path(5), (units(5) // 256).astype(np.uint8))
    path(6).unlink()
    told = Told()
    pictures = list(read(tmp_path, "images", told).scan())
    depth = [p.depth() for p in pictures]
    assert [number_of(p.rgb()) for p in pictures] == list(range(7))
    assert same(depth[0], meters(0))
    assert all(np.isnan(d).all() for d in depth[1:])
    assert told.warnings == ["1 of 7 images have no depth in *.depth.png"]
    assert told.losses == [
        ("depth image frame-000001.depth.png", "it is cut off"),
        ("depth image frame-000002.depth.png", "it is no image of a known format"),
        (
            "depth image frame-000003.depth.png",
            "it holds uint8 [96, 160, 3]; depth images hold 16 bits, gray",
        ),
        (
            "depth image frame-000004.depth.png",
            "it is 96x160 and the frame 160x96, which is another shape: depth must be registered "
            "to the frames",
        ),
        (
            "depth image frame-000005.depth.png",
            "it holds uint8 [96, 160]; depth images hold 16 bits, gray",
        ),
    ]


def ramp(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A gray picture and the same as depth: in color as in depth, a pixel tells its column."""
    gray = np.repeat(np.linspace(20, 230, width)[None], height, axis=0)
    return np.repeat(gray[..., None], 3, axis=2).round().astype(np.uint8), gray.astype(np.float32)


def test_depth_is_straightened_with_its_image(tmp_path: Path) -> None:
    image, gray = ramp(480, 640)
    save(tmp_path / "color" / "0.png", image)
    save(tmp_path / "depth" / "0.png", (gray * 100).astype(np.uint16))
    transforms(
        tmp_path, ["color/0.png"], w=640, h=480, fl_x=500, fl_y=500, cx=330, cy=230,
        k1=0.12, k2=-0.08, p1=0.002, p2=-0.001,
    )  # fmt: skip
    (picture,) = read(tmp_path, "images", depth_per_m=100).scan()
    assert np.abs(picture.rgb()[..., 0] - gray).max() > 2, "nothing is bent: nothing is shown"
    off = picture.depth() - picture.rgb()[..., 0]
    assert np.nanmax(np.abs(off)) < 1.5
    assert abs(np.nanmean(off)) < 0.05


def test_depth_is_straightened_by_the_pose_step() -> None:
    pycolmap = pytest.importorskip("pycolmap")
    camera = pycolmap.Camera(
        model="SIMPLE_RADIAL", width=640, height=480, params=[500, 320, 240, 0.1], camera_id=1
    )
    image, gray = ramp(480, 640)
    depth = _undistorted(gray, camera, measured=True)
    straight = _undistorted(image, camera)[..., 0]
    assert np.abs(straight - gray).max() > 3
    assert np.nanmax(np.abs(depth - straight)) < 1.5
    assert abs(np.nanmean(depth - straight)) < 0.05
    # Nothing is made up outside of what was measured.
    inward = pycolmap.Camera(
        model="SIMPLE_RADIAL", width=640, height=480, params=[500, 320, 240, -0.1], camera_id=1
    )
    outside = _undistorted(gray, inward, measured=True)
    assert np.isfinite(outside[200:280, 280:360]).all()
    outward = np.isnan(_undistorted(gray, camera, measured=True)).sum() + np.isnan(outside).sum()
    assert outward > 0


@pytest.mark.parametrize("model", ["every", "parallax"])
def test_depth_goes_with_the_keyframes(model: str, tmp_path: Path) -> None:
    kitchen(tmp_path, 6)
    clips = sample(read(tmp_path, "images"), "dense")
    assert all(isinstance(clip, Frames) for clip in clips)
    keyframe = find("keyframe", model)(options_of("keyframe", model)())
    keyframe.open(Context())
    flow = find("flow", "dis")(options_of("flow", "dis")())
    flow.open(Context())
    for clip in clips:
        more = (flow.process(clip),) if model == "parallax" else ()
        keyframe.process(clip, *more)
    made: Keyframes = keyframe.finish()
    assert len(made.index) >= 2
    for row, index in enumerate(made.index):
        assert same(made.depth[row], meters(int(index)))


def test_a_clip_that_is_decoded_again_has_its_depth(tmp_path: Path, short_film: Path) -> None:
    (clip,) = sample(read(kitchen(tmp_path, 3), "images"), "dense")
    assert same(clip.depth, np.stack([meters(i) for i in range(3)]))
    for model, source in (("images", tmp_path), ("pyav", short_film)):
        decode = opened("decode", model)
        named = Source(uri=str(source), shown=source.name, name="clip")
        head = ClipSource(decode, opened("sample", "dense"), named)
        first = sample(read(source, model), "dense")[0]
        again = head.redecode(ClipMetadata.of(first))
        assert np.array_equal(again.images, first.images)
        if model == "images":
            assert same(again.depth, clip.depth)
        else:
            assert again.depth is None
        head.close()


def test_videos_have_no_depth(short_film: Path) -> None:
    reader = read(short_film, "pyav")
    assert next(iter(reader.scan())).depth() is None
    reader.close()
