"""flow.mp4, depth.mp4, flow/*.flo, depth/*.png: colors, times and values."""

import json

import av
import cv2
import numpy as np
import pytest

from stages._rendering.colormaps import (
    UNKNOWN_RGB,
    color_wheel,
    depth_colors,
    flow_colors,
    flow_planes,
)
from tests.support import results


def middlebury(u: float, v: float) -> list[int]:
    """`computeColor` of Middlebury's colorcode.cpp, line by line."""
    wheel = [[int(255 * c + 0.5) for c in row] for row in color_wheel()]
    n = len(wheel)
    rad = min(np.hypot(u, v), 1.0)
    fk = (np.arctan2(-v, -u) / np.pi + 1) / 2 * (n - 1)
    k0 = int(fk)
    k1, f = (k0 + 1) % n, fk - k0
    color = []
    for b in range(3):
        col = (1 - f) * wheel[k0][b] / 255 + f * wheel[k1][b] / 255
        color.append(int(255 * (1 - rad * (1 - col))))
    return color


def test_flow_has_the_colors_of_middlebury():
    rng = np.random.default_rng(0)
    flow = rng.uniform(-1, 1, (40, 50, 2)).astype(np.float32)
    flow /= np.maximum(1, np.hypot(flow[..., 0], flow[..., 1]))[..., None]
    exact = np.array([[middlebury(float(u), float(v)) for u, v in row] for row in flow])
    assert np.abs(flow_colors(flow * 7, 7.0).astype(int) - exact).max() <= 5


def planes_of(rgb):
    """BT.709 in limited range (ITU-R BT.709, 3.2 to 3.4); chroma at every second pixel."""
    r, g, b = np.moveaxis(np.asarray(rgb, float) / 255, -1, 0)
    y = 0.2126 * r + 0.7152 * g + 0.0722 * b
    cb, cr = (b - y) / 1.8556, (r - y) / 1.5748
    return 16 + 219 * y, (128 + 224 * cb)[::2, ::2], (128 + 224 * cr)[::2, ::2]


@pytest.mark.parametrize("reach", [1.0, 2.5, 40.0], ids="far {}".format)
def test_flow_planes_have_the_colors_of_middlebury(reach):
    """Also where flow is beyond the scale: the direction stays."""
    rng = np.random.default_rng(0)
    flow = rng.uniform(-reach, reach, (40, 50, 2)).astype(np.float32)
    known = rng.uniform(size=(40, 50)) > 0.1
    flow[~known] = np.nan, np.inf
    length = np.maximum(1, np.hypot(flow[..., 0], flow[..., 1]))[..., None]
    with np.errstate(invalid="ignore"):
        units = flow / length
    exact = np.array(
        [
            [
                middlebury(*map(float, unit)) if sure else UNKNOWN_RGB
                for unit, sure in zip(*rows, strict=True)
            ]
            for rows in zip(units, known, strict=True)
        ]
    )
    for plane, wanted in zip(
        flow_planes(flow * 7, 7.0, (40, 50), known), planes_of(exact), strict=True
    ):
        assert plane.dtype == np.uint8
        # Middlebury's code rounds down, and an entry of the table is 1/256 of the scale wide.
        assert np.abs(plane - wanted).max() <= 4


def test_flow_planes_of_odd_sides_repeat_the_border():
    flow = np.random.default_rng(0).uniform(-1, 1, (5, 7, 2)).astype(np.float32)
    luma, cb, cr = flow_planes(flow, 1.0, (6, 8))
    assert luma.shape == (6, 8)
    assert cb.shape == cr.shape == (3, 4)
    assert np.array_equal(luma[5], luma[4])
    assert np.array_equal(luma[:, 7], luma[:, 6])


def test_the_wheel_has_its_published_steps():
    wheel = color_wheel()
    assert wheel.shape == (55, 3)
    # Source: the first color of each stretch of makecolorwheel().
    for at, rgb in {
        0: (1, 0, 0),
        15: (1, 1, 0),
        21: (0, 1, 0),
        25: (0, 1, 1),
        36: (0, 0, 1),
    }.items():
        assert tuple(wheel[at]) == rgb
    assert tuple(wheel[49]) == (1, 0, 1)


def test_unknown_is_gray_and_no_motion_is_white():
    flow = np.zeros((2, 2, 2), np.float32)
    flow[0, 0, 1] = np.nan
    flow[0, 1] = np.inf
    colors = flow_colors(flow, 1.0)
    assert tuple(colors[0, 0]) == tuple(colors[0, 1]) == UNKNOWN_RGB
    assert tuple(colors[1, 1]) == (255, 255, 255)
    depth = np.array([[np.nan, np.inf, -1, 0, 2.0]], np.float32)
    colors = depth_colors(depth, (0.0, 1.0))
    assert [tuple(c) == UNKNOWN_RGB for c in colors[0]] == [True, True, True, True, False]


def read_video(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        pictures = [(f.time, f.to_ndarray(format="rgb24")) for f in container.decode(stream)]
        return pictures, float(stream.duration * stream.time_base)


@pytest.mark.parametrize("beside", [False, True])
def test_the_flow_video_keeps_times_and_colors(beside, tmp_path):
    def flow(t):
        return np.array([4.0, 0.0] if t < 6 else [0.0, 4.0], np.float32)

    heard = results.export(
        "flow_video", tmp_path, results.clips(flow=flow), scale_px=4, quality=5, beside=beside
    )
    assert heard.artifacts == {"flow.mp4": "flow video"}
    pictures, duration_s = read_video(tmp_path / "flow.mp4")
    pts_s = results.pts_of() / 1e9
    assert [t for t, _ in pictures] == pytest.approx(pts_s[:-1], abs=1e-4)
    assert duration_s == pytest.approx(pts_s[-1] - pts_s[0], abs=1e-4)
    width = 2 * results.WIDTH if beside else results.WIDTH
    assert pictures[0][1].shape == (48, width + width % 2, 3)
    for number, (u, v) in ((0, (1.0, 0.0)), (8, (0.0, 1.0))):
        image = pictures[number][1][:, :width]
        error = np.abs(image[:, -results.WIDTH + 1 :].astype(int) - middlebury(u, v)).mean()
        assert error < 4
        if beside:
            left = image[4:-4, 4 : results.WIDTH - 4].astype(int)
            assert np.abs(left - results.picture(number)[4:-4, 4:-4]).mean() < 6


def test_the_scale_fits_the_motion_and_grows(tmp_path):
    stage, _ = results.opened("export", "flow_video", tmp_path)
    scales = []
    for frames, motion in results.clips(flow=lambda t: np.array([2.0 if t < 4 else 9, 0])):
        stage.process(frames, motion)
        scales.append(stage._scale_px)
    stage.close()
    assert scales == pytest.approx([2, 9, 9])


def test_the_scale_of_a_still_film_is_one_pixel(tmp_path):
    stage, _ = results.opened("export", "flow_video", tmp_path)
    stage.process(*results.clips(flow=lambda t: np.array([0.01, 0]))[0])
    assert stage._scale_px == 1
    stage.close()


def test_sparse_flow_is_drawn_on_the_picture(tmp_path):
    def flow(t):
        field = np.full((results.HEIGHT, results.WIDTH, 2), np.nan, np.float32)
        field[24, 20] = (8, 0)
        return field

    results.export("flow_video", tmp_path, results.clips(5, flow=flow), scale_px=8, quality=5)
    image = read_video(tmp_path / "flow.mp4")[0][0][1].astype(int)
    assert np.abs(image[24, 20] - middlebury(1.0, 0.0)).mean() < 60, "4:2:0 smears a stroke's color"
    dark = (results.picture(0) * 0.35)[5:15, 40:60]
    assert np.abs(image[5:15, 40:60] - dark).mean() < 8


def test_the_flow_video_is_what_was_drawn(tmp_path):
    """By default: smooth flow comes back within 3 gray levels of the exact colors."""
    steps = np.linspace(-1, 1, results.WIDTH, dtype=np.float32)
    field = np.stack(np.meshgrid(steps, steps[: results.HEIGHT]), axis=-1) / np.sqrt(2)
    results.export("flow_video", tmp_path, results.clips(flow=lambda t: field * 4), scale_px=4)
    exact = flow_colors(field, 1.0).astype(int)
    for _, image in read_video(tmp_path / "flow.mp4")[0]:
        assert np.abs(image[:, : results.WIDTH] - exact).mean() < 3


def test_the_flow_video_begins_with_its_index(tmp_path):
    results.export("flow_video", tmp_path, results.clips())
    data = (tmp_path / "flow.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_a_single_frame_has_no_flow_video(tmp_path):
    heard = results.export("flow_video", tmp_path, results.clips(1))
    assert heard.artifacts == {}
    assert list(tmp_path.iterdir()) == []


def test_the_depth_video_goes_from_red_to_blue(tmp_path):
    views, depth = results.views(), results.depth_maps()
    heard = results.export("depth_video", tmp_path, [(views, depth)], quality=5)
    assert heard.artifacts == {"depth.mp4": "depth video"}
    pictures, duration_s = read_video(tmp_path / "depth.mp4")
    pts_s = views.pts_ns / 1e9
    assert [t for t, _ in pictures] == pytest.approx(pts_s, abs=1e-4)
    usual = np.median(np.diff(pts_s))
    assert duration_s == pytest.approx(pts_s[-1] - pts_s[0] + usual, abs=1e-4)
    first, second = pictures[0][1].astype(int), pictures[1][1].astype(int)
    assert np.abs(first[:, :10] - UNKNOWN_RGB).mean() < 6
    red, _, blue = second[24, 2]
    assert red > 2 * blue, "near is red"
    red, _, blue = second[24, 60]
    assert blue > red, "far is blue"


def test_the_depth_video_can_run_at_one_rate(tmp_path):
    results.export("depth_video", tmp_path, [(results.views(), results.depth_maps())], fps=4)
    times = [t for t, _ in read_video(tmp_path / "depth.mp4")[0]]
    assert times == pytest.approx(np.arange(6) / 4, abs=1e-4)


def test_flow_fields_are_middleburys_bytes(tmp_path):
    def flow(t):
        field = np.full((results.HEIGHT, results.WIDTH, 2), t + 0.5, np.float32)
        field[0, 1] = (np.nan, 2)
        field[0, 2] = (np.inf, 2)
        return field

    results.export("flo", tmp_path, results.clips(6, flow=flow))
    names = sorted(p.name for p in (tmp_path / "flow").iterdir())
    assert names == [f"{3 * i:06d}.flo" for i in range(5)]
    data = (tmp_path / "flow" / "000009.flo").read_bytes()
    assert data[:4] == b"PIEH"
    assert np.frombuffer(data, "<i4", 2, 4).tolist() == [results.WIDTH, results.HEIGHT]
    assert len(data) == 12 + 8 * results.WIDTH * results.HEIGHT
    # OpenCV's reader is the peer.
    field = cv2.readOpticalFlow(str(tmp_path / "flow" / "000009.flo"))
    assert field[5, 5].tolist() == [3.5, 3.5]
    assert (field[0, 1:3] > 1e9).all()
    assert np.isfinite(field).all()


@pytest.mark.parametrize(("scale", "unit"), [("metric", "meter"), ("arbitrary", "arbitrary")])
def test_depth_maps_come_back(scale, unit, tmp_path):
    depth = results.depth_maps()
    results.export("depth_png", tmp_path, [(results.views(scale=scale), depth)])
    said = json.loads((tmp_path / "depth" / "scale.json").read_text())
    assert said["unit"] == unit
    assert said["unknown"] == 0
    assert said["files"] == [f"{7 * k:06d}.png" for k in range(6)]
    if scale == "metric":
        assert said["unit_per_step"] == 0.001
    for name, exact in zip(said["files"], depth.depth, strict=True):
        steps = cv2.imread(str(tmp_path / "depth" / name), cv2.IMREAD_UNCHANGED)
        assert steps.dtype == np.uint16
        assert np.array_equal(steps == 0, np.isnan(exact))
        known = steps > 0
        off = np.abs(steps[known] * said["unit_per_step"] - exact[known])
        assert off.max() <= said["unit_per_step"] * 0.51


def test_depth_that_is_all_unknown_is_zero(tmp_path):
    nothing = type(results.depth_maps())(depth=np.full((6, 48, 65), np.nan, np.float32))
    results.export("depth_png", tmp_path, [(results.views(), nothing)])
    results.export("depth_video", tmp_path, [(results.views(), nothing)])
    assert not cv2.imread(str(tmp_path / "depth" / "000000.png"), cv2.IMREAD_UNCHANGED).any()
    assert np.abs(read_video(tmp_path / "depth.mp4")[0][0][1].astype(int) - UNKNOWN_RGB).max() < 8
