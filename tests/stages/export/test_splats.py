"""Splats as PLY, SPZ and .splat: to the byte, and as Open3D and gsplat read and write them."""

import gzip
import resource
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.errors import OutputError, PartNotMade, require
from stages._formats.gaussian_ply_reader import read_splats
from stages._gaussians.draw import draw
from stages.export import spz
from tests.support import dense_splats, results
from tests.support.splat_scenes import (
    PARTS,
    SIGNALING,
    SIZE,
    K,
    header_names,
    pictures,
    psnr,
    same,
    scene,
    splats,
)

FLIP = np.diag([1.0, -1, -1, 1])
"""Half a turn about x: between the axes of PLY (right-down-forward) and SPZ (right-up-back)."""


def of_open3d(path):
    """The scene as Open3D reads it; it takes SPZ's axes as they are."""
    point = require("open3d").t.io.read_point_cloud(str(path)).point
    got = {name: point[name].numpy() for name in point}
    rest = got.get("f_rest", np.empty((len(got["f_dc"]), 0, 3), np.float32))
    sh = np.concatenate([got["f_dc"][:, None], rest], axis=1)
    # A byte of 0 or 255 is an infinite logit.
    logits = got["opacity"][:, 0].clip(-20, 20)
    return splats(got["positions"], got["rot"], np.log(got["scale"]), logits, sh)


TWO = splats(
    means=[[1, 2, -3], [0.5, -0.25, 4]],
    quats=[[0.5, -0.5, 0.5, 0.5], [0, 0, 0, -1]],
    log_scales=[[-3, -4, -5], [0, -1, -2]],
    opacity_logits=[0, 10],
    sh=[
        [[0, 1, -1], [0.25, 0.5, 0.75], [-0.25, 0, 0], [0.125, 0, 0]],
        [[2, 0, 0], [0, 0, -0.5], [0, 0, 0.5], [0, 0, 1]],
    ],
    antialiased=True,
)


def test_the_ply_to_the_byte(tmp_path):
    heard = results.export("splats", tmp_path, [(TWO,)])
    assert heard.artifacts == {"splats.ply": "splats"}
    assert heard.warnings == []
    rest = "".join(f"property float f_rest_{i}\n" for i in range(9))
    header = (
        "ply\nformat binary_little_endian 1.0\ncomment Gaussian splats by reel3d\n"
        "comment antialiased 1\ncomment eps2d 0.3\nelement vertex 2\n"
        "property float x\nproperty float y\nproperty float z\n"
        "property float nx\nproperty float ny\nproperty float nz\n"
        "property float f_dc_0\nproperty float f_dc_1\nproperty float f_dc_2\n" + rest + ""
        "property float opacity\n"
        "property float scale_0\nproperty float scale_1\nproperty float scale_2\n"
        "property float rot_0\nproperty float rot_1\nproperty float rot_2\nproperty float rot_3\n"
        "end_header\n"
    )
    first = [1, 2, -3, 0, 0, 0, 0, 1, -1, 0.25, -0.25, 0.125, 0.5, 0, 0, 0.75, 0, 0]
    first += [0, -3, -4, -5, 0.5, -0.5, 0.5, 0.5]
    second = [0.5, -0.25, 4, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, -0.5, 0.5, 1]
    second += [10, 0, -1, -2, 0, 0, 0, -1]
    body = struct.pack("<52f", *first, *second)
    assert (tmp_path / "splats.ply").read_bytes() == header.encode() + body


def test_the_spz_to_the_byte(tmp_path):
    heard = results.export("spz", tmp_path, [(TWO,)])
    assert heard.artifacts == {"splats.spz": "splats"}
    assert heard.warnings == []
    data = (tmp_path / "splats.spz").read_bytes()
    assert data[:8] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00", "no name and no time: it repeats"
    expected = b"NGSP" + struct.pack("<IIBBBB", 3, 2, 1, 20, 1, 0)
    for number in (1, -2, 3, 0.5, 0.25, -4):
        expected += struct.pack("<i", int(number * 2**20))[:3]
    expected += bytes([128, 255])
    expected += bytes([128, 166, 89, 204, 128, 128])
    expected += bytes([112, 96, 80, 160, 144, 128])
    # x y z w = -.5 -.5 -.5 .5: x leads and is made positive; 361 = .5 / sqrt(.5) of 511.
    parts = (0, (0, 361), (0, 361), (1, 361))
    word = parts[0]
    for sign, size in parts[1:]:
        word = word << 10 | sign << 9 | size
    # 0 0 -1 0 after the turn is 0 0 1 0: z leads; the zeros of y, z carry no meaning in a sign.
    second = 2 << 30
    got = gzip.decompress(data)
    at = len(expected)
    assert got[:at] == expected
    words = struct.unpack("<II", got[at : at + 8])
    assert words[0] == word
    assert words[1] & ~(1 << 29 | 1 << 19 | 1 << 9) == second
    # Five bits: steps of 8. y and z of degree 1 change sign, x does not.
    assert got[at + 8 :] == bytes(
        [96, 64, 32, 160, 128, 128, 144, 128, 128, 128, 128, 192, 128, 128, 64, 128, 128, 255]
    )


def test_the_splat_to_the_byte(tmp_path):
    heard = results.export("splat", tmp_path, [(replace(TWO, antialiased=False),)])
    assert heard.artifacts == {"splats.splat": "splats"}
    assert heard.warnings == []
    data = (tmp_path / "splats.splat").read_bytes()
    exp = [float(np.exp(np.float32(s))) for s in (0, -1, -2, -3, -4, -5)]
    assert data == (
        struct.pack("<6f8B", 0.5, -0.25, 4, *exp[:3], 255, 128, 128, 255, 128, 128, 128, 0)
        + struct.pack("<6f8B", 1, 2, -3, *exp[3:], 128, 199, 56, 128, 192, 64, 192, 192)
    ), "the larger and more opaque comes first"


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_what_is_written_as_ply_is_read_to_the_bit(tmp_path, degree):
    ours = scene(degree=degree, antialiased=degree % 2 == 1)
    results.export("splats", tmp_path, [(ours,)])
    again = read_splats(tmp_path / "splats.ply")
    assert same(again, ours)
    assert again.antialiased == ours.antialiased
    assert again.intrinsics.shape == (0, 3, 3)
    assert again.T_world_camera.shape == (0, 4, 4)
    assert again.held_out.shape == (0,)
    assert again.size == (0, 0)


def test_blocks_join(tmp_path, monkeypatch):
    """More Gaussians than are packed at a time give the same files."""
    ours = scene(100)
    for model in ("splats", "spz"):
        results.export(model, tmp_path, [(ours,)])
    before = [(tmp_path / name).read_bytes() for name in ("splats.ply", "splats.spz")]
    for module in (
        "stages._formats.gaussian_ply_writer",
        "stages.export.spz",
        "stages._formats.gaussian_ply_reader",
    ):
        monkeypatch.setattr(f"{module}.BLOCK", 33)
    for model in ("splats", "spz"):
        results.export(model, tmp_path, [(ours,)])
    assert before == [(tmp_path / name).read_bytes() for name in ("splats.ply", "splats.spz")]
    assert same(read_splats(tmp_path / "splats.ply"), ours)


def test_open3d_reads_the_same_picture_from_ply(tmp_path):
    ours = scene()
    results.export("splats", tmp_path, [(ours,)])
    theirs = of_open3d(tmp_path / "splats.ply")
    assert np.array_equal(theirs.sh, ours.sh)
    assert np.abs(pictures(theirs) - pictures(ours)).max() < 1e-6


@pytest.mark.parametrize(
    ("options", "bound_db"), [({}, 36), ({"sh1_bits": 8, "sh_rest_bits": 8}, 47)]
)
def test_open3d_reads_nearly_the_same_picture_from_spz(tmp_path, options, bound_db):
    ours = scene()
    results.export("spz", tmp_path, [(ours,)], **options)
    theirs = of_open3d(tmp_path / "splats.spz")
    assert psnr(pictures(theirs, FLIP), pictures(ours)) > bound_db


def test_the_flip_of_every_harmonic():
    """Turned by half about x, a harmonic is itself or its negative: held to the plain twin's."""
    directions = torch.nn.functional.normalize(torch.randn(50, 3, dtype=torch.float64), dim=1)
    here = dense_splats.harmonics(directions)[:, 1:]
    turned = dense_splats.harmonics(directions * torch.tensor([1.0, -1, -1]))[:, 1:]
    assert torch.allclose(turned, here * torch.tensor(spz.FLIP_SH), atol=1e-12)


def test_open3d_reads_nearly_the_same_picture_from_splat(tmp_path):
    """Its colors are those of degree 0."""
    ours = scene()
    results.export("splat", tmp_path, [(ours,)])
    theirs = of_open3d(tmp_path / "splats.splat")
    plain = replace(ours, sh=ours.sh[:, :1])
    assert psnr(pictures(theirs), pictures(plain)) > 48


def test_open3d_writes_the_same_splat_and_numbers_of_spz(tmp_path):
    ours = scene()
    for model in ("splats", "spz", "splat"):
        results.export(model, tmp_path, [(ours,)])
    io = require("open3d").t.io
    cloud = io.read_point_cloud(str(tmp_path / "splats.ply"))
    for kind in ("splat", "spz"):
        assert io.write_point_cloud(str(tmp_path / f"theirs.{kind}"), cloud)
    row = np.dtype([("position", "<f4", 3), ("scale", "<f4", 3), ("rest", "u1", 8)])
    a, b = (np.fromfile(tmp_path / f"{n}.splat", row) for n in ("splats", "theirs"))
    assert np.array_equal(a["position"], b["position"]), "the same order"
    assert np.array_equal(a["rest"], b["rest"])
    assert a["scale"] == pytest.approx(b["scale"], rel=1e-6)
    # Open3D writes SPZ without turning the axes: what no axis touches must be equal.
    a, b = of_open3d(tmp_path / "splats.spz"), of_open3d(tmp_path / "theirs.spz")
    assert np.array_equal(a.opacity_logits, b.opacity_logits)
    assert np.array_equal(a.log_scales, b.log_scales)
    assert np.array_equal(a.sh[:, 0], b.sh[:, 0])
    assert np.abs(a.means * [1, -1, -1] - b.means).max() < 2**-12
    dots = (a.quats * [1, 1, -1, -1] * b.quats).sum(axis=1)
    assert np.abs(dots).min() > 1 - 1e-6


def gsplat_bytes(ours, kind):
    from gsplat.exporter import export_splats

    tensors = [torch.tensor(getattr(ours, p)) for p in ("means", "log_scales", "quats")]
    sh = torch.tensor(ours.sh)
    return export_splats(*tensors, torch.tensor(ours.opacity_logits), sh[:, :1], sh[:, 1:], kind)


@pytest.mark.parametrize("degree", [0, 3])
def test_gsplat_writes_the_same_ply(tmp_path, degree):
    ours = scene(degree=degree)
    (tmp_path / "gsplat.ply").write_bytes(gsplat_bytes(ours, "ply"))
    results.export("splats", tmp_path, [(ours,)])
    theirs, again = read_splats(tmp_path / "gsplat.ply"), read_splats(tmp_path / "splats.ply")
    assert same(theirs, ours)
    assert same(again, theirs)
    names = [header_names(tmp_path / f"{name}.ply") for name in ("gsplat", "splats")]
    assert set(names[1]) - set(names[0]) == {"nx", "ny", "nz"}
    assert set(names[0]) <= set(names[1])


def test_gsplat_writes_the_same_splat_in_another_order(tmp_path):
    ours = scene()
    results.export("splat", tmp_path, [(ours,)])
    row = np.dtype([("numbers", "<f4", 6), ("bytes", "u1", 8)])
    a = np.fromfile(tmp_path / "splats.splat", row)
    b = np.frombuffer(gsplat_bytes(ours, "splat"), row)
    a, b = (rows[np.argsort(rows["numbers"][:, 0])] for rows in (a, b))
    assert np.array_equal(a["numbers"][:, :3], b["numbers"][:, :3])
    assert a["numbers"] == pytest.approx(b["numbers"], rel=1e-6)
    # gsplat cuts where we round.
    less = a["bytes"].astype(int) - b["bytes"]
    assert less.min() >= 0
    assert less.max() <= 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, SIGNALING])
@pytest.mark.parametrize("part", PARTS)
def test_what_is_not_finite_never_reaches_a_file(tmp_path, part, bad):
    good = scene(20)
    array = getattr(good, part).copy()
    array.reshape(20, -1)[[3, 7], -1] = bad
    broken = replace(good, **{part: array})
    rows = np.delete(np.arange(20), [3, 7])
    for model, name in (("splats", "splats.ply"), ("spz", "splats.spz"), ("splat", "splats.splat")):
        heard = results.export(model, tmp_path, [(broken,)])
        assert heard.warnings == [
            f"{name} leaves out 2 Gaussians that are not finite or have no rotation"
        ]
        read = read_splats if model == "splats" else of_open3d
        again = read(tmp_path / name)
        assert len(again.means) == 18
        assert all(np.isfinite(getattr(again, p)).all() for p in PARTS)
    again = read_splats(tmp_path / "splats.ply")
    assert all(np.array_equal(getattr(again, p), getattr(good, p)[rows]) for p in PARTS)


def test_no_rotation_is_left_out(tmp_path):
    ours = scene(5)
    quats = ours.quats.copy()
    quats[2] = 0
    heard = results.export("splats", tmp_path, [(replace(ours, quats=quats),)])
    assert "1 Gaussians" in heard.warnings[0]
    assert len(read_splats(tmp_path / "splats.ply").means) == 4


def test_no_gaussians(tmp_path):
    nothing = scene(0)
    results.export("splats", tmp_path, [(nothing,)])
    again = read_splats(tmp_path / "splats.ply")
    assert again.sh.shape == (0, 16, 3)
    assert not draw(again, K, np.eye(4), SIZE).alpha.any()
    results.export("spz", tmp_path, [(nothing,)])
    header = gzip.decompress((tmp_path / "splats.spz").read_bytes())
    assert header == b"NGSP" + struct.pack("<IIBBBB", 3, 0, 3, 20, 0, 0)
    with pytest.raises(PartNotMade) as caught:
        results.export("splat", tmp_path, [(nothing,)])
    assert str(caught.value) == (
        "splats.splat has no header and cannot say that there are no Gaussians to see; "
        "export splats.ply"
    )
    assert not (tmp_path / "splats.splat").exists()


def test_what_is_not_seen_does_not_become_half_opaque(tmp_path):
    """Open3D reads an opacity of 0 of 255 as one half."""
    ours = scene(4, opacity_logits=np.array([-9, 0, -7, 1], np.float32))
    results.export("splat", tmp_path, [(ours,)])
    theirs = of_open3d(tmp_path / "splats.splat")
    assert len(theirs.means) == 2
    assert theirs.opacity_logits.min() > -0.1


def test_splat_says_that_it_cannot_say_antialiased(tmp_path):
    heard = results.export("splat", tmp_path, [(scene(4, antialiased=True),)])
    assert heard.warnings == [
        "splats.splat cannot say that its Gaussians are antialiased: viewers will draw the small "
        "ones too strong; splats.ply and splats.spz say it"
    ]


def test_sizes_beyond_all_measure_stay_finite_in_splat(tmp_path):
    ours = scene(4, log_scales=np.full((4, 3), 200, np.float32))
    results.export("splat", tmp_path, [(ours,)])
    assert np.isfinite(np.fromfile(tmp_path / "splats.splat", "<f4").reshape(4, 8)[:, :6]).all()


@pytest.mark.parametrize("model", ["splats", "spz", "splat"])
@pytest.mark.parametrize("most_bytes", [40, 5000])
def test_a_full_disk_is_one_clear_line(tmp_path, model, most_bytes):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A limit on the size of a file fails as a full disk does.
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        with pytest.raises(OutputError, match="no space is left there"):
            results.export(model, tmp_path, [(scene(),)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("far", [3.0, 7.9, 8.1, 1000.0, 8e4])
def test_spz_places_are_as_fine_as_the_scene_allows(tmp_path, far):
    ours = scene(50)
    means = ours.means.copy()
    means[0] = [far, -far, far / 2]
    results.export("spz", tmp_path, [(replace(ours, means=means),)])
    bits = gzip.decompress((tmp_path / "splats.spz").read_bytes())[13]
    assert bits == min(20, int(np.floor(np.log2((2**23 - 1) / far))))
    places = of_open3d(tmp_path / "splats.spz").means * [1, -1, -1]
    assert np.abs(places - means).max() <= 2.0 ** -(bits + 1)


def test_spz_refuses_what_it_cannot_hold(tmp_path, monkeypatch):
    ours = scene(200)
    means = ours.means.copy()
    means[0, 0] = 3e6
    with pytest.raises(PartNotMade) as caught:
        results.export("spz", tmp_path, [(replace(ours, means=means),)])
    assert str(caught.value) == (
        "splats.spz cannot hold this scene: the farthest Gaussian lies 3e+06 world units from "
        "the origin, so that places would be 0.5 apart, and half of the Gaussians are smaller "
        "than 0.0974; use splats.ply"
    )
    means[0, 0] = 1e30
    with pytest.raises(PartNotMade, match=r"1e\+30 world units"):
        results.export("spz", tmp_path, [(replace(ours, means=means),)])
    tiny = replace(ours, means=ours.means * 1e-5, log_scales=ours.log_scales - 10)
    with pytest.raises(PartNotMade) as caught:
        results.export("spz", tmp_path, [(tiny,)])
    assert str(caught.value) == (
        "splats.spz cannot hold this scene: it knows Gaussians of 4.5e-05 to 3.8e+02 world "
        "units, and 200 of 200 are smaller or larger; use splats.ply"
    )
    monkeypatch.setattr(spz, "MOST", 100)
    with pytest.raises(PartNotMade) as caught:
        results.export("spz", tmp_path, [(ours,)])
    assert str(caught.value) == (
        "splats.spz holds 100 Gaussians at most, the scene has 200; use splats.ply, or train "
        "with fewer"
    )
    assert not (tmp_path / "splats.spz").exists()


def test_spz_warns_of_the_few_it_changes(tmp_path):
    ours = scene(200)
    scales = ours.log_scales.copy()
    scales[0] = 7
    scales[1:50, 2] = -14  # flat: only the longest axis counts
    heard = results.export("spz", tmp_path, [(replace(ours, log_scales=scales),)])
    assert heard.warnings == [
        "splats.spz changes the size of 1 Gaussians: it knows 4.5e-05 to 3.8e+02 world units "
        "alone; splats.ply has them all"
    ]
