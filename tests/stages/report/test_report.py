"""report.html: complete, self-contained, and deaf to hostile names."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from pipeline.contract.messages import RunSummary
from stages.report._formatting import amount, clock, megabytes, metric, span
from stages.report._markup import embedded_json, tag
from stages.report._scene import octahedral
from tests.support import results

EXPORTS = (
    *("frames", "events", "storyboard", "flow_video", "depth_video", "colmap", "transforms"),
    *("trajectory", "points", "mesh"),
)

HOSTILE = """<script>alert(1)</script>"'&\n</title><img src=x onerror=alert(2)>.mp4"""


def manifest(**changes):
    stages = [
        {"step": "flow", "model": "dis", "state": "made", "device": "cpu", "weights": "none",
         "items": 3, "seconds": 2.5, "warnings": [], "losses": [], "metrics": {}},
        {"step": "pose", "model": "colmap", "state": "made", "device": "cpu", "weights": "none",
         "items": 1, "seconds": 75.0, "warnings": ["focal length guessed: 60 px"], "losses": [],
         "metrics": {"registered_share": 0.875, "reprojection_error_px": 0.431}},
    ]  # fmt: skip
    said = {
        "product": {"name": "reel3d", "version": "0.1.0"},
        "versions": {"numpy": "2.4.6"},
        "source": {"shown": "clips/walk.mp4", "width": 65, "height": 48, "fps": 29.97,
                   "codec": "h264", "fingerprint": "ab12"},
        "config": {"flow": {"model": "dis"}},
        "stages": stages,
        "started": "2026-11-20T14:02:11+00:00",
        "seconds": 80.25,
        "peak_memory_bytes": 1_420_000_000,
        "artifacts": [{"path": "points.ply", "kind": "point cloud", "bytes": 84_240,
                       "sha256": "cd" * 32}],
    }  # fmt: skip
    return {**said, **changes}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run folder with everything that the exporters write."""
    folder = tmp_path_factory.mktemp("run")
    views = results.views()
    what = results.actions(
        (0.2, 0.6, "shot 1", "shot"),
        (0.2, 0.4, "pan-left", "camera"),
        (0.3, 0.6, "moving", "object"),
    )
    last = (results.keyframes(), views, results.depth_maps(), results.points())
    for model in EXPORTS:
        results.export(model, folder, [*results.clips(), (what,), last])
    return folder


def report(folder: Path, said: dict, **options) -> str:
    stage, heard = results.opened("report", "html", folder, **options)
    stage.process(RunSummary(manifest=said))
    stage.close()
    assert heard.artifacts == {"report.html": "report"}
    return (folder / "report.html").read_text(encoding="utf-8")


class Page(HTMLParser):
    """What a browser sees: elements, addresses, text, and whether elements close in order."""

    VOID = ("img", "meta", "br")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.headings: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] not in ("script", "style"):
            self.text += data
        if self._open and self._open[-1] in ("h1", "h2"):
            self.headings.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def test_the_page_tells_the_whole_run(run_folder):
    html = report(run_folder, manifest())
    page = Page(html)
    assert page.headings == [
        *("walk.mp4", "The place", "What happened", "Motion and depth", "The path"),
        *("How good it is", "Where the time went", "Where it came from"),
    ]
    for text in (
        "65 × 48 · 0.6 s · 29.97 fps · h264 · 2026-11-20 14:02",
        "Reprojection error0.431 px",
        "Registered87.5 %",
        "focal length guessed: 60 px",
        "1 min 15 s",
        "1.42 GB of memory at most",
        "pan left",
        "numpy 2.4.6",
        "Complete",
    ):
        assert text in page.text, text
    assert {v["aria-label"] for v in page.all("video")} == {"Optical flow", "Depth"}
    assert "Video at 0:00.0" in [i.get("alt") for i in page.all("img")]
    assert all(i.get("alt") for i in page.all("img")), "every picture has words"
    assert len(html) < 5_000_000


def test_the_page_needs_nothing_else(run_folder):
    page = Page(report(run_folder, manifest()))
    for name, attributes in page.elements:
        for key in ("src", "poster", "href", "srcset", "action", "data"):
            address = attributes.get(key)
            if address and name != "a":
                assert address.startswith("data:"), f"{name} {key} asks for {address[:60]}"
    assert [a["href"] for a in page.all("a")] == ["points.ply"]
    assert "@import" not in (run_folder / "report.html").read_text()
    policy = next(m["content"] for m in page.all("meta") if "http-equiv" in m)
    assert policy.startswith("default-src 'none';")
    assert "unsafe-eval" not in policy


def test_the_viewer_holds_the_cloud(run_folder):
    html = report(run_folder, manifest(), points=1000)
    scene = json.loads(re.search(r'id="scene">(.*?)</script>', html).group(1))
    assert scene["count"] == 1000
    raw = __import__("base64").b64decode(scene["xyz"])
    xyz = np.frombuffer(raw, "<u2").reshape(-1, 3) / 65535 * scene["extent"] + scene["low"]
    cloud = results.points().xyz
    nearest = [np.linalg.norm(cloud - p, axis=1).min() for p in xyz[::50]]
    assert max(nearest) < max(scene["extent"]) / 65535 * 2
    assert len(scene["path"]) == 3 * 6
    assert len(scene["frusta"]) == 6 * 8 * 2 * 3


@pytest.mark.parametrize(
    "place", ["source", "label", "loss", "warning", "model", "version", "artifact", "config"]
)
def test_a_hostile_name_stays_a_name(place, run_folder, tmp_path):
    # The whole page once; what else stands on it does not matter to the other places.
    folder = run_folder if place == "source" else tmp_path
    said = manifest()
    if place == "source":
        said["source"]["shown"] = HOSTILE
    elif place == "label":
        hostile = results.actions((0, 1, HOSTILE, "camera"), (0, 1, HOSTILE, HOSTILE))
        results.export("events", folder, [(hostile,)])
    elif place == "loss":
        said["stages"][0]["losses"] = [{"what": HOSTILE, "why": HOSTILE}]
    elif place == "warning":
        said["stages"][0]["warnings"] = [HOSTILE]
    elif place == "model":
        said["stages"][0] |= dict.fromkeys(("model", "device", "weights", "state"), HOSTILE)
        said["stages"][0]["metrics"] = {HOSTILE: 1.0}
    elif place == "version":
        said["versions"] = {HOSTILE: HOSTILE}
        said["product"] = {"name": HOSTILE, "version": HOSTILE}
        said["started"] = HOSTILE
    elif place == "artifact":
        said["artifacts"] = [
            {"path": path, "kind": HOSTILE, "bytes": 1, "sha256": HOSTILE}
            for path in (HOSTILE, "javascript:alert(3)", "../../etc/passwd", "/etc/passwd")
        ]
    else:
        said["config"] = {HOSTILE: HOSTILE}
    html = report(folder, said)
    page = Page(html)
    ours = [s.get("type") for s in page.all("script")]
    assert ours in ([None], ["application/json", None]), "only the page's own script"
    assert not any(key.startswith("on") for _, found in page.elements for key in found)
    assert all(i["src"].startswith("data:") for i in page.all("img"))
    assert "alert(" in page.text, "the name is shown, not swallowed"
    addresses = [a["href"] for a in page.all("a")]
    assert not any(re.match(r"javascript:|/|\.\.", a, re.I) for a in addresses)


def test_failures_come_first(tmp_path):
    results.export("events", tmp_path, [(results.actions((0, 4, "pan-left", "camera")),)])
    said = manifest()
    said["stages"][1]["losses"] = [{"what": "camera poses", "why": "no parallax: walk sideways"}]
    page = Page(report(tmp_path, said))
    assert page.headings[:3] == ["walk.mp4", "What could not be made", "What happened"]
    assert "The place" not in page.headings
    assert "camera poses — no parallax: walk sideways" in page.text
    assert "Parts missing" in page.text


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"stages": None, "source": 3, "versions": [], "artifacts": {}, "config": None},
        {"stages": [None, {}, {"metrics": {"x": "y"}, "losses": [1], "seconds": float("nan")}]},
        {"source": {"width": None, "fps": "?"}, "seconds": float("inf"), "artifacts": [None, {}]},
    ],
)
def test_an_odd_manifest_still_gives_a_page(said, tmp_path):
    page = Page(report(tmp_path, said))
    assert page.headings[0] == "unknown source"


def test_broken_files_count_as_absent(tmp_path):
    for name in ("events.jsonl", "frames.parquet", "points.ply", "flow.mp4", "depth.mp4"):
        (tmp_path / name).write_bytes(b"\xff\x00 not what it says {")
    (tmp_path / "storyboard.jpg").write_bytes(b"nothing")
    (tmp_path / "storyboard.vtt").write_text("WEBVTT")
    (tmp_path / "trajectory.tum").write_text("1 2 3\n")
    page = Page(report(tmp_path, manifest()))
    assert page.headings == [
        "walk.mp4",
        "How good it is",
        "Where the time went",
        "Where it came from",
    ]


def test_large_videos_are_linked(run_folder):
    page = Page(report(run_folder, manifest(), video_mb=0))
    assert page.all("video") == []
    assert {a["href"] for a in page.all("a")} == {"flow.mp4", "depth.mp4", "points.ply"}


def test_markup_escapes_by_construction():
    made = tag(
        "p", "<b>", tag("b", "a & b"), None, [1, "'"], class_='x"y', data_z=None, hidden=True
    )
    assert made == '<p class="x&quot;y" hidden>&lt;b&gt;<b>a &amp; b</b>1&#x27;</p>'
    assert embedded_json("d", "</script>") == (
        '<script type="application/json" id="d">"\\u003c/script>"</script>'
    )


@pytest.mark.parametrize(
    ("got", "wanted"),
    [
        (amount(403211), "403\u202f211"),
        (amount(0.4312), "0.431"),
        (amount(1234.6), "1\u202f235"),
        (amount(float("nan")), "unknown"),
        (clock(7.44), "0:07.4"),
        (clock(59.97), "1:00.0"),
        (clock(3723.0), "1:02:03.0"),
        (span(0.123), "0.12 s"),
        (span(12.34), "12.3 s"),
        (span(119.7), "2 min 0 s"),
        (span(7384), "2 h 3 min"),
        (megabytes(1_420_000_000), "1.42 GB"),
        (megabytes(512), "512 bytes"),
        (metric("reprojection_error_px", 0.431), ("Reprojection error", "0.431 px")),
        (metric("registered_share", 0.975), ("Registered", "97.5 %")),
        (metric("points", 12.0), ("Points", "12")),
    ],
)
def test_numbers_read_well(got, wanted):
    assert got == wanted


def test_normals_survive_two_bytes():
    rng = np.random.default_rng(0)
    normals = rng.normal(size=(500, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    x, y = (octahedral(normals) / 127).T
    z = 1 - np.abs(x) - np.abs(y)
    # The shader's way back.
    fold = z < 0
    x, y = (
        np.where(fold, (1 - np.abs(y)) * np.where(x >= 0, 1, -1), x),
        np.where(fold, (1 - np.abs(x)) * np.where(y >= 0, 1, -1), y),
    )
    back = np.stack([x, y, z], axis=1)
    back /= np.linalg.norm(back, axis=1, keepdims=True)
    assert np.degrees(np.arccos(np.clip((back * normals).sum(axis=1), -1, 1))).max() < 1.2
