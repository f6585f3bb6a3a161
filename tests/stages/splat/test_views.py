"""What shows the splats of a run: the exports, the report's section, and the viewer."""

import json
from dataclasses import replace

import av
import cv2
import numpy as np
import pytest

from pipeline.contract import Splats, Views
from pipeline.errors import UsageError
from stages._gaussians.draw import draw
from stages._gaussians.ssim import ssim
from stages._rendering.splat_scene import read_splat_scene
from stages.view import open3d as view_open3d
from stages.view._open3d_process import splat_geometry
from tests.stages.report.test_report import HOSTILE, Page, manifest, report
from tests.stages.view.test_view import read_png, shower
from tests.support import results
from tests.support.splatted import psnr_db, room


@pytest.fixture(scope="module")
def parcel():
    _, views, splats = room()
    return views, splats


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, parcel):
    folder = tmp_path_factory.mktemp("run")
    for model, options in (
        ("held_out", {}),
        ("splat_video", {"seconds": 0.5, "fps": 8, "largest_px": 160}),
        ("transforms", {}),
        ("splats", {}),
    ):
        results.export(model, folder, [parcel], **options)
    return folder


def film(path):
    with av.open(str(path)) as container:
        return [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]


def test_the_video_is_short_and_shows_what_was_seen(run_folder, parcel):
    images = film(run_folder / "splats.mp4")
    assert len(images) == 4
    assert images[0].shape == (90, 160, 3)
    assert max((image.max(axis=-1) < 12).mean() for image in images) < 0.08


def test_the_video_along_the_cameras(parcel, tmp_path):
    views, _ = parcel
    heard = results.export(
        "splat_video", tmp_path, [parcel], path="train", seconds=1, fps=4, largest_px=160
    )
    assert heard.artifacts == {"splats.mp4": "splat video"}
    assert heard.warnings == []
    images = film(tmp_path / "splats.mp4")
    small = cv2.resize(views.images[0], (160, 90), interpolation=cv2.INTER_AREA)
    assert psnr_db(images[0], small) > 22
    assert psnr_db(images[2], small) < 20


@pytest.mark.parametrize("lacking", ["gaussians", "cameras"])
def test_without_gaussians_or_cameras_there_is_no_video(lacking, parcel, tmp_path):
    _, splats = parcel
    if lacking == "gaussians":
        names = ("means", "quats", "log_scales", "opacity_logits", "sh")
        splats = replace(splats, **{name: getattr(splats, name)[:0] for name in names})
    else:
        splats = replace(splats, T_world_camera=np.full_like(splats.T_world_camera, np.nan))
    heard = results.export("splat_video", tmp_path, [(splats,)])
    assert heard.artifacts == {}
    assert heard.warnings == [
        "splats.mp4 is left out: there is no Gaussian or no camera with a pose"
    ]


def test_a_camera_without_a_pose_is_left_out_of_the_path(parcel, tmp_path):
    _, splats = parcel
    T = splats.T_world_camera.copy()
    T[4] = np.nan
    heard = results.export(
        "splat_video",
        tmp_path,
        [(replace(splats, T_world_camera=T),)],
        seconds=0.5,
        fps=2,
        largest_px=64,
    )
    assert heard.warnings == []
    assert np.mean(film(tmp_path / "splats.mp4")[0]) > 60


def test_held_out_views_beside_their_photographs(run_folder, parcel):
    views, splats = parcel
    rows = json.loads((run_folder / "splats" / "held_out.json").read_text())
    assert [row["frame"] for row in rows] == [6, 18, 30, 42, 54]
    assert [row["file"] for row in rows][1] == "held_out_000018.jpg"
    for row, k in zip(rows, splats.held_out, strict=True):
        drawn = draw(splats, splats.intrinsics[k], splats.T_world_camera[k], splats.size)
        photograph = views.images[k]
        assert row["psnr_db"] == pytest.approx(psnr_db(drawn.bytes(), photograph), abs=0.02)
        assert row["ssim"] == pytest.approx(ssim(drawn.rgb, photograph / 255), abs=1e-6)
        strip = cv2.imread(str(run_folder / "splats" / row["file"]))[..., ::-1]
        assert strip.shape == (180, 960, 3)
        # JPEG; a picture in the wrong place or of another view has less than 20 dB.
        assert psnr_db(strip[:, :320], photograph) > 28
        assert psnr_db(strip[:, 320:640], drawn.bytes()) > 28
        strong = np.minimum(3 * np.abs(drawn.rgb - photograph / 255), 1)
        assert psnr_db(strip[:, 640:], strong * 255) > 22


def test_nothing_held_out_is_no_folder(parcel, tmp_path):
    views, splats = parcel
    nothing = replace(splats, held_out=np.empty(0, np.int32))
    heard = results.export("held_out", tmp_path, [(views, nothing)])
    assert heard.artifacts == {}
    assert list(tmp_path.iterdir()) == []


def test_a_perfect_picture_has_a_figure(tmp_path):
    """Infinity is no JSON."""
    gray = np.full((1, 24, 32, 3), 0, np.uint8)
    K, T = np.array([[[30.0, 0, 16], [0, 30, 12], [0, 0, 1]]]), np.eye(4)[None]
    views = results.views(1)
    views = Views(
        **{
            **{name: getattr(views, name) for name in Views.SPEC},
            "images": gray,
            "intrinsics": K,
            "T_world_camera": T,
            "candidates": 1,
        }
    )
    behind = Splats(
        means=np.array([[0, 0, -5]], np.float32),
        quats=np.array([[1, 0, 0, 0]], np.float32),
        log_scales=np.zeros((1, 3), np.float32),
        opacity_logits=np.zeros(1, np.float32),
        sh=np.zeros((1, 1, 3), np.float32),
        intrinsics=K,
        T_world_camera=T,
        held_out=np.zeros(1, np.int32),
        size=(32, 24),
    )
    results.export("held_out", tmp_path, [(views, behind)])
    (row,) = json.loads((tmp_path / "splats" / "held_out.json").read_text())
    assert row["psnr_db"] == 100
    assert row["ssim"] == pytest.approx(1)


def splat_manifest():
    said = manifest()
    said["stages"].append(
        {"step": "splat", "model": "cpu", "state": "made", "device": "cpu", "weights": "none",
         "items": 1, "seconds": 118.0, "warnings": [], "losses": [],
         "metrics": {"gaussians": 71616.0, "held_out_psnr_db": 22.271, "held_out_ssim": 0.5499,
                     "train_psnr_db": 23.13, "seconds": 118.0, "steps": 2400.0}}
    )  # fmt: skip
    return said


def test_the_report_shows_the_splats(run_folder):
    page = Page(report(run_folder, splat_manifest()))
    assert page.headings.index("The place as splats") < page.headings.index("Where the time went")
    for text in (
        "71\u202f616 Gaussians · 22.3 dB and SSIM 0.550 on views that training never saw · "
        "23.1 dB on the others",
        "Held-out PSNR22.3 dB",
        "Held-out SSIM0.55",
        "Frame 18: 23.4 dB, SSIM 0.557",
        "three times as strong; 4 of 5 are shown",
    ):
        assert text in page.text, text
    assert "A flight round the place" in {v["aria-label"] for v in page.all("video")}
    strips = [i for i in page.all("img") if i.get("alt", "").startswith("Photograph, splats")]
    assert len(strips) == 4
    assert (strips[0]["width"], strips[0]["height"]) == ("960", "180")
    assert all(i["src"].startswith("data:image/jpeg;base64,") for i in strips)


def test_the_number_of_views_is_an_option(run_folder):
    page = Page(report(run_folder, splat_manifest(), held_out=20, video_mb=0))
    assert len([i for i in page.all("img") if "difference" in i.get("alt", "")]) == 5
    assert "are shown" not in page.text
    assert "splats.mp4" in [a["href"] for a in page.all("a")], "a large video is linked"


GOOD_ROW = {"frame": 6, "file": "held_out_000006.jpg", "psnr_db": 20.0, "ssim": 0.5}


@pytest.mark.parametrize(
    ("rows", "shown"),
    [
        ("nonsense", 0),
        ("[" * 100_000, 0),
        ({"frame": 6}, 0),
        ([None, 3, {}], 0),
        ([GOOD_ROW], 1),
        ([{**GOOD_ROW, "frame": 7}], 0),
        ([{**GOOD_ROW, "frame": "../../secret"}], 0),
        ([{**GOOD_ROW, "frame": -1}], 0),
        ([{**GOOD_ROW, "psnr_db": float("nan")}], 0),
        ([{**GOOD_ROW, "ssim": "x"}], 0),
        ([{**GOOD_ROW, "file": HOSTILE}], 1),
    ],
)
def test_an_odd_list_of_views_still_gives_a_page(rows, shown, run_folder, tmp_path):
    (tmp_path / "splats").mkdir()
    text = rows if isinstance(rows, str) else json.dumps(rows)
    (tmp_path / "splats" / "held_out.json").write_text(text)
    picture = (run_folder / "splats" / "held_out_000006.jpg").read_bytes()
    (tmp_path / "splats" / "held_out_000006.jpg").write_bytes(picture)
    (tmp_path / "splats" / "held_out_000007.jpg").write_bytes(b"no picture")
    page = Page(report(tmp_path, splat_manifest()))
    assert len([i for i in page.all("img") if "difference" in i.get("alt", "")]) == shown
    assert ("The place as splats" in page.headings) == (shown > 0)


def test_the_viewer_shows_the_splats_as_the_cameras_saw_them(run_folder, tmp_path):
    stage, heard = shower(width=320, height=180)
    stage.show(run_folder, tmp_path / "a.png")
    image = read_png(tmp_path / "a.png")[..., ::-1]
    scene = read_splat_scene(run_folder, pytest.fail)
    drawn = draw(scene.splats, scene.intrinsics(320, 180), scene.pose, (320, 180))
    assert np.array_equal(image, drawn.bytes())
    assert (image.max(axis=-1) < 12).mean() < 0.08, "it looks at what was seen"
    assert heard.warnings == []
    _, views, _ = room()
    near = np.linalg.norm(views.T_world_camera[:, :3, 3] - scene.eye, axis=1).min()
    assert near < 0.3, "from where a camera stood"


def test_the_viewer_shows_the_cloud_if_told_so(run_folder, tmp_path):
    stage, _ = shower(renderer="software", width=64, height=36, cloud=True)
    with pytest.raises(UsageError, match="has nothing to show in 3D"):
        stage.show(run_folder, tmp_path / "a.png")


def test_open3d_draws_the_same_splats(run_folder, tmp_path):
    """Open3D leaves tiles of 16 px black on software drivers; all else must be equal."""
    trouble = view_open3d._draw(
        "picture", "splats", run_folder, str(tmp_path / "a.png"), "320", "180", timeout_s=60
    )
    if trouble:
        assert "its process ended with status" in trouble, "there is no driver here"
        return
    image = read_png(tmp_path / "a.png")[..., ::-1].astype(float)
    scene = read_splat_scene(run_folder, pytest.fail)
    drawn = draw(
        scene.splats,
        scene.intrinsics(320, 180),
        scene.pose,
        (320, 180),
        background=(0.06, 0.06, 0.08),
    )
    # Measured: 0.99 of the pixels, a black tile included; half a pixel aside 0.73.
    assert (np.abs(image - drawn.bytes()).max(axis=-1) <= 4).mean() > 0.93


def test_what_open3d_gets_is_what_it_reads_itself(run_folder, tmp_path, parcel):
    """Its own reader of the 3DGS layout is the reference for names, shapes and units."""
    o3d = pytest.importorskip("open3d")
    rng = np.random.default_rng(0)
    _, splats = parcel
    few = {name: getattr(splats, name)[:50] for name in ("means", "quats", "opacity_logits")}
    quats = rng.normal(size=(50, 4))
    few["quats"] = (quats / np.linalg.norm(quats, axis=1, keepdims=True)).astype(np.float32)
    scales = rng.normal(-3, 1, (50, 3)).astype(np.float32)
    sh = rng.normal(size=(50, 16, 3)).astype(np.float32)
    few_splats = replace(splats, **few, log_scales=scales, sh=sh)
    (tmp_path / "run").mkdir()
    results.export("splats", tmp_path / "run", [(few_splats,)])
    theirs = o3d.t.io.read_point_cloud(str(tmp_path / "run" / "splats.ply"))
    scene = read_splat_scene(tmp_path / "run", pytest.fail)
    ours = splat_geometry(o3d, scene)
    for name in ("positions", "rot", "scale", "opacity", "f_dc", "f_rest"):
        wanted = theirs.point[name].numpy()
        got = ours["geometry"].point[name].numpy()
        assert got.shape == wanted.shape, name
        assert got == pytest.approx(wanted, rel=1e-5, abs=1e-6), name
    assert ours["material"].shader == "gaussianSplat"
    assert ours["material"].gaussian_splat_sh_degree == 3


def test_broken_splats_are_one_line(run_folder, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "splats.ply").write_bytes(b"ply\nnothing")
    with pytest.raises(UsageError, match=r"splats\.ply cannot be read as Gaussian splats"):
        shower()[0].show(folder, tmp_path / "a.png")
    empty = replace(
        room()[2],
        **{
            name: getattr(room()[2], name)[:0]
            for name in ("means", "quats", "log_scales", "opacity_logits", "sh")
        },
    )
    results.export("splats", folder, [(empty,)])
    with pytest.raises(UsageError, match=r"splats\.ply holds no Gaussians"):
        shower()[0].show(folder, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
