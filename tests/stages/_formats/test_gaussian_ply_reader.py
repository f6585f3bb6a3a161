"""Splats read from PLY files that other trainers wrote, and from files that are none."""

import struct
import warnings
from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import UsageError
from stages._formats.gaussian_ply_reader import read_splats
from tests.support import results
from tests.support.splat_scenes import PARTS, SIGNALING, header_names, same, scene


def write(path, ours, *, order="<", kinds=None, names=None, extra=(), before="", data=b""):
    """A PLY as other trainers write it: any order of properties, any type."""
    count = len(ours.means)
    columns = dict(zip(("x", "y", "z"), ours.means.T, strict=True))
    columns |= {f"f_dc_{c}": ours.sh[:, 0, c] for c in range(3)}
    rest = ours.sh[:, 1:].transpose(0, 2, 1).reshape(count, -1)
    columns |= {f"f_rest_{i}": column for i, column in enumerate(rest.T)}
    columns |= {"opacity": ours.opacity_logits}
    columns |= {f"scale_{i}": column for i, column in enumerate(ours.log_scales.T)}
    columns |= {f"rot_{i}": column for i, column in enumerate(ours.quats.T)}
    columns |= {name: np.arange(count) % 100 for name in extra}
    names = names or list(columns)
    types = {"float": "f4", "double": "f8", "uchar": "u1", "short": "i2"}
    kinds = {name: (kinds or {}).get(name, "float") for name in names}
    table = np.empty(
        count, [(n, ("<" if order == "a" else order) + types[kinds[n]]) for n in names]
    )
    for name in names:
        table[name] = columns[name]
    form = {"<": "binary_little_endian", ">": "binary_big_endian", "a": "ascii"}[order]
    header = f"ply\nformat {form} 1.0\n{before}element vertex {count}\n"
    header += "".join(f"property {kinds[name]} {name}\n" for name in names)
    if order == "a":
        rows = (" ".join(repr(value) for value in row) for row in table.tolist())
        body = ("\n".join(rows) + "\n").encode()
    else:
        body = table.tobytes()
    path.write_bytes(header.encode() + b"end_header\n" + data + body)
    return path


@pytest.mark.parametrize("order", ["<", ">", "a"])
def test_any_order_of_properties_and_bytes_is_read(tmp_path, order):
    ours = scene(30, degree=2)
    path = write(tmp_path / "a.ply", ours, order=order)
    names = header_names(path)
    np.random.default_rng(1).shuffle(names)
    # repr() of a float32 made double holds it exactly.
    path = write(path, ours, order=order, names=[*names[:9], "label", *names[9:]], extra=["label"])
    again = read_splats(path)
    assert same(again, ours)
    assert not again.antialiased


def test_other_types_are_read(tmp_path):
    whole = scene(30, degree=1)
    whole = replace(whole, log_scales=np.rint(whole.log_scales))
    kinds = {"x": "double", "rot_2": "double", "label": "uchar", "scale_1": "short"}
    assert same(read_splats(write(tmp_path / "a.ply", whole, kinds=kinds, extra=["label"])), whole)


@pytest.mark.parametrize("order", ["<", "a"])
def test_what_stands_around_the_gaussians_is_passed_over(tmp_path, order):
    ours = scene(3, degree=0)
    before = "comment a\nobj_info b\nelement camera 2\nproperty float f\nproperty short w\n"
    data = b"1.5 2\n3.5 4\n" if order == "a" else struct.pack("<fhfh", 1.5, 2, 3.5, 4)
    path = write(tmp_path / "a.ply", ours, order=order, before=before, data=data)
    text = path.read_bytes()
    after = b"element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    path.write_bytes(text.replace(b"end_header\n", after) + b"3 0 1 2\n")
    assert same(read_splats(path), ours)


def test_windows_line_ends_are_read(tmp_path):
    ours = scene(3, degree=0)
    head, _, body = write(tmp_path / "a.ply", ours).read_bytes().partition(b"end_header\n")
    (tmp_path / "a.ply").write_bytes((head + b"end_header\n").replace(b"\n", b"\r\n") + body)
    assert same(read_splats(tmp_path / "a.ply"), ours)


def test_rotations_become_unit_length(tmp_path):
    ours = scene(10)
    longer = replace(ours, quats=ours.quats * np.linspace(0.1, 40, 10, dtype=np.float32)[:, None])
    again = read_splats(write(tmp_path / "a.ply", longer))
    assert np.abs(np.linalg.norm(again.quats, axis=1) - 1).max() < 1e-6
    assert again.quats == pytest.approx(ours.quats, abs=1e-6)


@pytest.mark.parametrize("order", ["<", ">", "a"])
def test_broken_rows_are_left_out_and_counted(tmp_path, order):
    ours = scene(10, degree=1)
    means, quats, sh = ours.means.copy(), ours.quats.copy(), ours.sh.copy()
    means[1, 0], sh[4, 2, 1], quats[9] = np.nan, np.inf, 0
    broken = replace(ours, means=means, quats=quats, sh=sh)
    told = []
    path = write(tmp_path / "a.ply", broken, order=order, kinds={"x": "double"})
    again = read_splats(path, told.append)
    rows = np.delete(np.arange(10), [1, 4, 9])
    assert all(np.array_equal(getattr(again, p), getattr(ours, p)[rows]) for p in PARTS)
    assert told == [f"{path} has 3 Gaussians that are not finite or have no rotation"]


def test_numbers_beyond_float32_are_left_out(tmp_path):
    path = write(tmp_path / "a.ply", scene(3, degree=0), kinds={"x": "double"})
    data = bytearray(path.read_bytes())
    start = data.index(b"end_header\n") + 11
    data[start : start + 8] = struct.pack("<d", 1e300)
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_splats(path, lambda text: None).means) == 2


def test_a_signaling_nan_is_a_nan(tmp_path):
    ours = scene(3, degree=0)
    path = write(tmp_path / "a.ply", ours)
    path.write_bytes(path.read_bytes()[:-4] + SIGNALING.tobytes())
    assert len(read_splats(path, lambda text: None).means) == 2


def test_the_log_hears_of_broken_rows(tmp_path, caplog):
    ours = scene(2)
    path = write(tmp_path / "a.ply", replace(ours, means=ours.means * np.float32(np.nan)))
    assert len(read_splats(path).means) == 0
    assert "has 2 Gaussians" in caplog.text


WANTED = (
    "; a PLY file in the layout of 3DGS is wanted, with x y z, f_dc_0..2, opacity, scale_0..2 "
    "and rot_0..3"
)


def refused(path, data=None):
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UsageError) as caught:
        read_splats(path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{path} ")
    return text.removeprefix(f"{path} cannot be read as Gaussian splats: ").removesuffix(WANTED)


def test_what_is_no_ply_is_refused(tmp_path):
    path = tmp_path / "a.ply"
    assert refused(path) == f"{path} is no file; give a PLY of Gaussian splats"
    assert refused(tmp_path) == f"{tmp_path} is no file; give a PLY of Gaussian splats"
    no_header = "it does not begin with the header of a PLY file"
    for data in (
        b"",
        b"ply",
        b"\xff" * 500,
        b"ply\n" + b"comment x\n" * 10_000,
        b"plyx\nend_header\n",
    ):
        assert refused(path, data) == no_header
    results.export("splat", tmp_path, [(scene(3),)])
    assert refused(tmp_path / "splats.splat") == no_header
    results.export("points", tmp_path, [(results.points(),)])
    assert refused(tmp_path / "points.ply") == (
        "its vertices have no f_dc_0, f_dc_1, f_dc_2, opacity, scale_0, scale_1, scale_2, rot_0, "
        "rot_1, rot_2, rot_3"
    )


def test_missing_properties_are_named(tmp_path):
    ours = scene(3)
    path = write(tmp_path / "a.ply", ours)
    names = header_names(path)
    without = [name for name in names if name not in ("opacity", "rot_3")]
    assert refused(write(path, ours, names=without)) == "its vertices have no opacity, rot_3"


@pytest.mark.parametrize(
    "lacking", [["f_rest_44"], ["f_rest_0"], [f"f_rest_{i}" for i in range(9)]]
)
def test_harmonics_of_no_degree_are_refused(tmp_path, lacking):
    ours = scene(3)
    names = header_names(write(tmp_path / "a.ply", ours))
    path = write(tmp_path / "a.ply", ours, names=[n for n in names if n not in lacking])
    assert refused(path) == (
        f"its {45 - len(lacking)} f_rest are no degree of spherical harmonics: there are 0, 9, 24 "
        "or 45, counted from f_rest_0"
    )


def test_harmonics_that_skip_a_number_are_refused(tmp_path):
    path = write(tmp_path / "a.ply", scene(3, degree=1))
    data = path.read_bytes().replace(b"f_rest_8\n", b"f_rest_9\n")
    assert refused(path, data).startswith("its 9 f_rest are no degree")


@pytest.mark.parametrize("order", ["<", ">", "a"])
@pytest.mark.parametrize("share", [0, 0.5, 0.98])
def test_a_file_that_is_cut_off_is_refused(tmp_path, order, share):
    path = write(tmp_path / "a.ply", scene(30), order=order)
    data = path.read_bytes()
    start = data.index(b"end_header\n") + 11
    said = refused(path, data[: start + int(share * (len(data) - start))])
    assert "its header says 30 Gaussians" in said or "1770 numbers should follow" in said


@pytest.mark.parametrize("order", ["<", "a"])
@pytest.mark.parametrize("count", [10**12, 10**18 - 1])
def test_a_header_that_promises_the_moon_takes_no_memory(tmp_path, order, count):
    path = write(tmp_path / "a.ply", scene(3), order=order)
    data = path.read_bytes().replace(b"vertex 3\n", f"vertex {count}\n".encode())
    assert refused(path, data).startswith(
        f"it is cut off: its header says {count} Gaussians, which take at least "
    )


BAD_LINES = {
    "element vertex 1" + "0" * 30: "its header has the line",
    "element vertex 9" * 3: "its header has the line",
    "element vertex 5": "its header names no format, or not one table of vertices",
    "property list uchar int x_list": "its rows are of different lengths",
    "property float x": "is unknown or there twice",
    "property half q": "is unknown or there twice",
    "property float": "is unknown or there twice",
    "property": "is unknown or there twice",
    "format binary_middle_endian 1.0": "its header has the line",
    "nonsense \xff": "its header has the line",
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_headers_that_make_no_sense_are_refused(tmp_path, line):
    path = write(tmp_path / "a.ply", scene(3))
    wrong = path.read_bytes().replace(b"end_header\n", line.encode("latin1") + b"\nend_header\n")
    assert BAD_LINES[line] in refused(path, wrong)


def test_a_header_without_vertices_or_format_is_refused(tmp_path):
    said = "its header names no format, or not one table of vertices"
    assert refused(tmp_path / "a.ply", b"ply\nend_header\n") == said
    path = write(tmp_path / "a.ply", scene(3))
    no_format = path.read_bytes().replace(b"format binary_little_endian 1.0\n", b"")
    assert refused(path, no_format) == said


def test_text_that_is_no_number_is_refused(tmp_path):
    path = write(tmp_path / "a.ply", scene(3, degree=0), order="a")
    head, _, body = path.read_bytes().partition(b"end_header\n")
    numbers = body.split()
    numbers[20] = b"twenty"
    wrong = head + b"end_header\n" + b" ".join(numbers) + b" " * 200
    assert refused(path, wrong) == "what follows its header is not all numbers"
