"""Colors come out as they went in: matrix, range and depth, checked against the standards."""

from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace

from tests.support.media import Told, read, write_video

# Kr and Kb of ITU-R BT.601, BT.709 and BT.2020, and their numbers in ITU-T H.273.
MATRICES = {"bt601": (0.299, 0.114, 6), "bt709": (0.2126, 0.0722, 1), "bt2020": (0.2627, 0.0593, 9)}
PATCHES = np.array(
    [
        [235, 40, 30], [30, 200, 60], [40, 60, 220], [250, 250, 250],
        [8, 8, 8], [128, 128, 128], [220, 200, 40], [60, 180, 200],
    ]
)  # fmt: skip


def frame_of(rgb: np.ndarray, matrix: str, full: bool, bits: int) -> av.VideoFrame:
    """Code eight vertical patches as YUV 4:4:4 by the formulae of the standards."""
    kr, kb, _ = MATRICES[matrix]
    r, g, b = rgb.T / 255
    y = kr * r + (1 - kr - kb) * g + kb * b
    cb, cr = (b - y) / (2 - 2 * kb), (r - y) / (2 - 2 * kr)
    top = 2**bits - 1
    step = 2 ** (bits - 8)
    if full:
        planes = [y * top, cb * top + 128 * step, cr * top + 128 * step]
    else:
        planes = [(219 * y + 16) * step, (224 * cb + 128) * step, (224 * cr + 128) * step]
    kind = np.uint8 if bits == 8 else np.uint16
    frame = av.VideoFrame(128, 32, "yuv444p" if bits == 8 else f"yuv444p{bits}le")
    for plane, values in zip(frame.planes, planes, strict=True):
        row = np.repeat(np.clip(np.round(values), 0, top).astype(kind), 16)
        width = plane.line_size // kind().itemsize
        plane.update(np.pad(np.tile(row, (32, 1)), ((0, 0), (0, width - 128))).tobytes())
    frame.colorspace = MATRICES[matrix][2]
    frame.color_range = ColorRange.JPEG if full else ColorRange.MPEG
    return frame


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", MATRICES)
def test_matrix_range_and_depth(tmp_path: Path, matrix: str, full: bool, bits: int) -> None:
    frame = frame_of(PATCHES, matrix, full, bits)
    path = write_video(
        tmp_path / "color.mkv",
        [frame],
        codec="ffv1",
        pix_fmt=frame.format.name,
        tags={
            "colorspace": MATRICES[matrix][2],
            "color_range": int(frame.color_range),
        },
    )
    reader = read(path)
    image = next(iter(reader.scan())).rgb()
    reader.close()
    # Rounding to eight bits of limited range costs up to two gray levels.
    assert np.abs(image[16, 8::16].astype(int) - PATCHES).max() <= 3


def test_an_unnamed_matrix_is_that_of_ffmpeg(tmp_path: Path) -> None:
    frame = frame_of(PATCHES, "bt601", False, 8)
    frame.colorspace = Colorspace.ITU601
    path = write_video(tmp_path / "plain.mkv", [frame], codec="ffv1", pix_fmt="yuv444p")
    reader = read(path)
    image = next(iter(reader.scan())).rgb()
    reader.close()
    assert np.abs(image[16, 8::16].astype(int) - PATCHES).max() <= 3


def test_hdr_is_mapped_and_told(tmp_path: Path) -> None:
    # PQ (SMPTE ST 2084): 100 cd/m2, the white of an ordinary screen, is coded as 0.508.
    white = np.full((8, 3), 0.508 * 255)
    frame = frame_of(white, "bt2020", False, 10)
    path = write_video(
        tmp_path / "hdr.mkv",
        [frame],
        codec="ffv1",
        pix_fmt="yuv444p10le",
        tags={"colorspace": 9, "color_range": 1, "color_trc": 16, "color_primaries": 9},
    )
    told = Told()
    reader = read(path, told=told)
    image = next(iter(reader.scan())).rgb()
    reader.close()
    assert told.warnings == ["it is HDR (PQ); its tones were mapped to an ordinary screen (BT.709)"]
    assert np.ptp(image) <= 2
    # Brighter than the code value itself (130), which is what no mapping would show.
    assert image.mean() > 150
