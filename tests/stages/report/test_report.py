"""report.html: complete, self-contained, and deaf to hostile names."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.contract import RunSummary
from stages.report import _images
from stages.report._facts import EventRow
from stages.report._formatting import amount, clock, megabytes, metric, span
from stages.report._markup import embedded_json, tag
from stages.report._scene import octahedral
from stages.report._thinning import thinned
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


def long_run(folder: Path, events: int, shots: int) -> Path:
    """The tables of a film of an hour, made as messages; `events` of camera and objects each."""
    folder.mkdir()
    hour_s = 3600.0
    moves = ("pan-left", "static", "dolly-in", "truck-right")
    rows = [(hour_s * n / shots, hour_s * (n + 1) / shots, "shot", "shot") for n in range(shots)]
    for kind in ("camera", "object"):
        step_s = hour_s / events
        rows += [
            (
                n * step_s,
                (n + 1.5) * step_s,
                moves[n * 7 % 4] if kind == "camera" else "moves",
                kind,
            )
            for n in range(events)
        ]
    results.export("events", folder, [(results.actions(*sorted(rows)),)])
    return folder


def test_a_long_film_has_a_report_of_the_same_size(tmp_path):
    short = long_run(tmp_path / "short", 250, 100)
    long = long_run(tmp_path / "long", 5000, 1200)
    sizes = [len(report(folder, manifest())) for folder in (short, long)]
    assert sizes[1] < 1.3 * sizes[0], "5,000 events a kind and 1,200 shots"
    longer = long_run(tmp_path / "longer", 20_000, 4800)
    assert abs(len(report(longer, manifest())) - sizes[1]) < 0.1 * sizes[1]

    page = Page((long / "report.html").read_text(encoding="utf-8"))
    blocks = [a for a in page.all("span") if a.get("class", "").startswith("block")]
    assert len(blocks) <= 3 * 160
    lefts = [float(re.findall(r"left:([\d.]+)%", a["style"])[0]) for a in blocks]
    assert min(lefts) == 0
    assert max(lefts) > 99, "the end of the film is there too"
    assert "1\u202f200 shots, 5\u202f000 camera events, 5\u202f000 object events" in page.text
    assert "The 300 longest of 10\u202f000 events as a table" in page.text
    assert page.text.count("All of them are in events.jsonl") == 1
    assert {a["href"] for a in page.all("a")} >= {"events.jsonl"}
    assert len(page.all("tr")) < 400
    tiles = re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", (long / "report.html").read_text())
    assert dict(tiles)["Shots"] == "1\u202f200"
    assert dict(tiles)["Camera moves"] == "5\u202f000"


def test_a_thinned_row_shows_what_takes_most_of_each_slot():
    fast = [EventRow(n / 10, (n + 1) / 10, f"a{n % 2}", "camera", 0.5, "m") for n in range(3200)]
    fast += [EventRow(320, 640, "static", "camera", 0.5, "m")]
    blocks = thinned(fast, 640.0, numbered=False)
    assert all(re.search(r" \([\d\u202f]+ events?\)$", title) for _, title in blocks[:-1])
    last, title = blocks[-1]
    assert (last.label, last.start_s, last.end_s) == ("static", 320, 640)
    assert title == "mostly static, 5:20.0 to 10:40.0 (1 event)"
    shots = [EventRow(n, n + 1, "shot", "shot", 1.0, "m") for n in range(320)]
    named = [event.label for event, _ in thinned(shots, 320.0, numbered=True)]
    assert named[:2] == ["shots 1–2", "shots 3–4"]
    assert len(named) == 160


def test_events_below_too_many_others_are_counted(tmp_path):
    rows = [(0.1, 0.9, f"thing {n}", "object") for n in range(20)]
    results.export("events", tmp_path, [(results.actions(*rows),)])
    assert "Not drawn, below others: 12 object events." in Page(report(tmp_path, manifest())).text


def test_pictures_of_a_long_preview_are_sought(tmp_path):
    """They are the ones that decoding everything finds."""
    clips = results.clips(flow=lambda t: np.array([4 * np.cos(t), 4 * np.sin(t)], np.float32))
    for frames, _ in clips:
        object.__setattr__(frames, "pts_ns", frames.pts_ns * 200)
    results.export("flow_video", tmp_path, clips, scale_px=4)
    with av.open(str(tmp_path / "flow.mp4")) as file:
        every = [(f.time, f.to_ndarray(format="rgb24")) for f in file.decode(video=0)]
    assert every[-1][0] > 5 * _images.SEEK_AFTER_S
    times = [every[-1][0] * share for share in (0.0, 0.3, 0.31, 0.62, 0.9, 1.2)]
    found = _images.video_frames(tmp_path / "flow.mp4", times, every[0][1].shape[1])
    assert [t for t, _ in found] == times
    for time_s, picture in found:
        begun = [image for start_s, image in every if start_s <= time_s + 1e-3]
        assert np.array_equal(picture, begun[-1] if begun else every[0][1])


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
