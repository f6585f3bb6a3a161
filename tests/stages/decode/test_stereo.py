"""Stereo pairs: cut from packed frames without a seam, or read from folders, with their frames."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.contract import Context, Frames, Keyframes, Source
from pipeline.contract.stage import find, options_of
from pipeline.errors import SourceError
from pipeline.worker import ClipMetadata
from pipeline.worker.clip_source import ClipSource
from tests.stages.decode.test_images import save, transforms
from tests.support.media import HEIGHT, WIDTH, Told, number_of, numbered, read, sample, write_video
from tests.support.motions import opened
from tests.support.stereo_scenes import BASELINE_M, kitti, stereo_film

COUNT = 4
BT709 = {"colorspace": 1, "color_primaries": 1, "color_trc": 1, "color_range": 1}


def left(i: int) -> np.ndarray:
    return numbered(i)


def right(i: int) -> np.ndarray:
    return numbered(500 + i)[::-1, ::-1].copy()


def packed(i: int, layout: str) -> np.ndarray:
    return np.concatenate([left(i), right(i)], axis=1 if layout == "side_by_side" else 0)


def video(
    path: Path, image_of: Callable[[int], np.ndarray], pix_fmt: str = "bgr0", **more: Any
) -> Path:
    """Frames without any loss."""
    images = (image_of(i) for i in range(COUNT))
    return write_video(path, images, codec="ffv1", pix_fmt=pix_fmt, **more)


def colored(images: list[np.ndarray], axis: int, pix_fmt: str) -> av.VideoFrame:
    """Put views together after their colors are thinned out: an encoder mixes them at the seam."""
    if pix_fmt != "yuv420p":
        return av.VideoFrame.from_ndarray(np.concatenate(images, axis), format="rgb24")
    planes: list[list[np.ndarray]] = [[], [], []]
    for image in images:
        height, width = image.shape[:2]
        frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pix_fmt)
        y, u, v = np.split(frame.to_ndarray().ravel(), [height * width, height * width * 5 // 4])
        half = (height // 2, width // 2)
        for plane, part in zip(
            planes, (y.reshape(height, width), u.reshape(half), v.reshape(half)), strict=True
        ):
            plane.append(part)
    whole = [np.concatenate(parts, axis) for parts in planes]
    flat = np.concatenate([plane.ravel() for plane in whole]).reshape(-1, whole[0].shape[1])
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(flat), format=pix_fmt)


def folders(path: Path, names: tuple[str, str] = ("left", "right"), count: int = COUNT) -> Path:
    for i in range(count):
        save(path / names[0] / f"{i:06d}.png", left(i))
        save(path / names[1] / f"{i:06d}.png", right(i))
    return path


def clip_of(source: Path, model: str = "pyav", **options: Any) -> Frames:
    (clip,) = sample(read(source, model, **options), "dense")
    return clip


@pytest.fixture(scope="module", params=["side_by_side", "top_bottom"])
def layout(request: pytest.FixtureRequest) -> str:
    return request.param


def test_a_video_gives_both_views(layout: str, tmp_path: Path) -> None:
    path = video(tmp_path / "a.mkv", lambda i: packed(i, layout))
    reader = read(path, stereo=layout)
    assert (reader.probe.width, reader.probe.height) == (WIDTH, HEIGHT)
    assert reader.probe.stereo == layout
    clip = clip_of(path, stereo=layout)
    assert np.array_equal(clip.images, [left(i) for i in range(COUNT)])
    assert np.array_equal(clip.right, [right(i) for i in range(COUNT)])
    assert clip.baseline_m is None
    whole = clip_of(path)
    assert whole.right is None
    assert whole.images.shape[1:3] == packed(0, layout).shape[:2]


@pytest.mark.parametrize(
    ("pix_fmt", "tags"), [("bgr0", {}), ("yuv444p", BT709), ("yuv420p", BT709), ("yuv420p", {})]
)
@pytest.mark.parametrize("max_side", [960, 100])
def test_a_view_is_as_if_it_were_alone(
    layout: str, pix_fmt: str, tags: dict[str, int], max_side: int, tmp_path: Path
) -> None:
    """Nothing bleeds over the seam, colors are read alike, and previews are of the left view."""
    axis = 1 if layout == "side_by_side" else 0
    both, *_ = (
        video(
            tmp_path / f"{name}.mkv",
            lambda i, views=views: colored([view(i) for view in views], axis, pix_fmt),
            pix_fmt,
            tags=tags,
        )
        for name, views in (("a", (left, right)), ("left", (left,)), ("right", (right,)))
    )
    pairs = read(both, stereo=layout, max_side=max_side).scan()
    alone = [read(tmp_path / f"{n}.mkv", max_side=max_side).scan() for n in ("left", "right")]
    for pair, one, other in zip(pairs, *alone, strict=True):
        assert np.array_equal(pair.rgb(), one.rgb())
        assert np.array_equal(pair.right(), other.rgb())
        assert np.array_equal(pair.luma(80), one.luma(80))


def test_images_give_both_views(layout: str, tmp_path: Path) -> None:
    for i in range(COUNT):
        save(tmp_path / f"{i}.png", packed(i, layout))
    for max_side in (960, 100):
        told = Told()
        reader = read(tmp_path, "images", told, stereo=layout, max_side=max_side)
        assert reader.probe.stereo == layout
        found = clip_of(tmp_path, "images", stereo=layout, max_side=max_side)
        wanted = clip_of(folders(tmp_path / "pairs"), "images", max_side=max_side)
        assert np.array_equal(found.images, wanted.images)
        assert np.array_equal(found.right, wanted.right)
        assert told.warnings == []


@pytest.mark.parametrize(
    "names",
    [
        ("left", "right"),
        ("image_2", "image_3"),
        ("image_0", "image_1"),
        ("image_l", "image_r"),
        ("image_02/data", "image_03/data"),
        ("image_00/data", "image_01/data"),
    ],
)
def test_folders_of_pairs_are_the_frames_of_a_packed_video(
    names: tuple[str, str], tmp_path: Path
) -> None:
    folders(tmp_path / "set", names)
    path = video(tmp_path / "a.mkv", lambda i: packed(i, "side_by_side"))
    wanted = clip_of(path, stereo="side_by_side")
    for source in (tmp_path / "set", tmp_path / "set" / names[0]):
        reader = read(source, "images")
        assert reader.probe.stereo == f"{names[1]}/"
        clip = clip_of(source, "images")
        assert np.array_equal(clip.images, wanted.images)
        assert np.array_equal(clip.right, wanted.right)
    assert clip_of(tmp_path / "set", "images", stereo="none").right is None
    assert clip_of(tmp_path / "set" / names[1], "images").right is None


def test_names_may_end_otherwise(tmp_path: Path) -> None:
    save(tmp_path / "left" / "a.png", left(1))
    save(tmp_path / "right" / "a.bmp", right(1))
    (picture,) = read(tmp_path, "images").scan()
    assert np.array_equal(picture.right(), right(1))


def test_damage_and_gaps_cost_their_own_frame_only(tmp_path: Path) -> None:
    folders(tmp_path, count=5)
    one, two, three = (tmp_path / "right" / f"{i:06d}.png" for i in (1, 2, 3))
    one.unlink()
    two.write_bytes(two.read_bytes()[:500])
    save(three, right(3)[:64])
    told = Told()
    pictures = list(read(tmp_path, "images", told).scan())
    views = [p.right() for p in pictures]
    assert [number_of(p.rgb()) for p in pictures] == list(range(5))
    assert [bool(view.any()) for view in views] == [True, False, False, False, True]
    assert all(view.shape == (HEIGHT, WIDTH, 3) for view in views)
    assert told.warnings == ["1 of 5 images have no right one in right/"]
    assert told.losses == [
        ("right image right/000002.png", "it is cut off"),
        (
            "right image right/000003.png",
            "it is 160x64 and the left one 160x96: the images of a rectified pair have one size",
        ),
    ]


def test_a_right_folder_of_other_names_is_told(tmp_path: Path) -> None:
    save(tmp_path / "left" / "a.png", left(0))
    save(tmp_path / "right" / "b.png", right(0))
    told = Told()
    reader = read(tmp_path / "left", "images", told)
    assert next(iter(reader.scan())).right() is None
    assert told.warnings == ["no image of right/ has the name of a left one: not used"]


def test_kittis_calibration_says_the_baseline(tmp_path: Path) -> None:
    film = stereo_film(range(0, 60, 30))
    folder = kitti(tmp_path / "drive", film)
    clip = clip_of(folder, "images")
    assert clip.baseline_m == pytest.approx(BASELINE_M, rel=1e-6)
    assert np.allclose(clip.intrinsics, film.K[::2])
    assert np.allclose(clip.T_world_camera, film.T_world_camera[::2])
    assert clip_of(folder / "image_3", "images").baseline_m is None
    # The excerpt of two lines, whose folders are called left and right.
    lines = (folder / "calib.txt").read_text().splitlines()
    (folder / "calib.txt").write_text("\n".join(lines[:2]) + "\n")
    for name, other in (("image_2", "image_l"), ("image_3", "image_r")):
        (folder / name).rename(folder / other)
    assert clip_of(folder, "images").baseline_m == pytest.approx(0.54)
    assert clip_of(folders(tmp_path / "bare"), "images").baseline_m is None


def test_the_pair_is_straightened_as_one_camera(tmp_path: Path) -> None:
    for side in ("left", "right"):
        save(tmp_path / side / "0.png", left(0))
    transforms(
        tmp_path, ["left/0.png"], w=WIDTH, h=HEIGHT, fl_x=120, fl_y=120, cx=80, cy=48, k1=0.2
    )
    (picture,) = read(tmp_path, "images").scan()
    assert not np.array_equal(picture.rgb(), left(0))
    assert np.array_equal(picture.right(), picture.rgb())


@pytest.mark.parametrize("model", ["every", "parallax"])
def test_right_views_go_with_the_keyframes(model: str, tmp_path: Path) -> None:
    folder = kitti(tmp_path, stereo_film())
    keyframe = find("keyframe", model)(options_of("keyframe", model)())
    keyframe.open(Context())
    flow = opened("flow", "dis")
    for clip in sample(read(folder, "images"), "dense"):
        more = (flow.process(clip),) if model == "parallax" else ()
        keyframe.process(clip, *more)
    made: Keyframes = keyframe.finish()
    assert len(made.index) >= 2
    assert made.baseline_m == pytest.approx(BASELINE_M)
    for row, index in enumerate(made.index):
        image = cv2.imread(str(folder / "image_3" / f"{index:06d}.png"))[..., ::-1]
        assert np.array_equal(made.right[row], image)
    state = keyframe.snapshot()
    again = find("keyframe", model)(options_of("keyframe", model)())
    again.open(Context())
    again.restore(state)
    assert np.array_equal(again.finish().right, made.right)
    views = opened("pose", "given").process(made)
    assert np.array_equal(views.right, made.right)
    assert views.baseline_m == made.baseline_m


def test_a_clip_that_is_decoded_again_has_its_right_views(tmp_path: Path) -> None:
    folder = kitti(tmp_path / "drive", stereo_film())
    path = video(tmp_path / "a.mkv", lambda i: packed(i, "top_bottom"))
    for source, model, options in (
        (folder, "images", {}),
        (path, "pyav", {"stereo": "top_bottom"}),
        (path, "pyav", {}),
    ):
        first = clip_of(source, model, **options)
        named = Source(uri=str(source), shown=source.name, name="clip")
        head = ClipSource(opened("decode", model, **options), opened("sample", "dense"), named)
        again = head.redecode(ClipMetadata.of(first))
        assert again.baseline_m == first.baseline_m
        assert (again.right is None) == (not options and model == "pyav")
        if first.right is not None:
            assert np.array_equal(again.right, first.right)
        head.close()


def test_what_holds_no_two_views_is_refused(tmp_path: Path) -> None:
    odd = video(tmp_path / "odd.mkv", lambda i: left(i)[:, :-1])
    with pytest.raises(SourceError) as refused:
        read(odd, stereo="side_by_side")
    assert str(refused.value) == (
        "odd.mkv cannot be used: it is 159x96, which does not hold two views of one size: "
        "decode.stereo=side_by_side needs an even width"
    )
    save(tmp_path / "odd" / "0.png", left(0)[:-1])
    with pytest.raises(SourceError, match=r"decode\.stereo=top_bottom needs an even height"):
        read(tmp_path / "odd", "images", stereo="top_bottom")
    turned = write_video(tmp_path / "turned.mp4", [left(0)] * 3, rotation_deg=90)
    with pytest.raises(SourceError, match="is to be shown turned or mirrored, which"):
        read(turned, stereo="side_by_side")
    with pytest.raises(ValidationError, match=r"use decode\.model=pyav for stereo"):
        options_of("decode", "decord")(stereo="side_by_side")
