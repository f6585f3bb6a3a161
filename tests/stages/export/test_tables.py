"""frames.parquet, events.jsonl, actions.vtt, storyboard: what stands in them, row by row."""

import json
import re
import resource

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.errors import UsageError
from stages.export import frames as frames_export
from stages.export._vtt import chapters
from tests.support import results


def test_the_frame_table_has_every_frame_once(tmp_path):
    heard = results.export("frames", tmp_path, [*results.clips(), (results.keyframes([0, 9, 33]),)])
    assert heard.artifacts == {"frames.parquet": "frame table"}
    table = pq.read_table(tmp_path / "frames.parquet")
    assert table.schema.names == [
        *("index", "pts_s", "clip", "shot", "sharpness", "motion_px", "keyframe")
    ]
    rows = table.to_pylist()
    assert [r["index"] for r in rows] == [3 * i for i in range(12)]
    assert [r["pts_s"] for r in rows] == (results.pts_of() / 1e9).tolist()
    # The pair that bridges two clips counts too; only the film's last frame has no next.
    assert [r["motion_px"] for r in rows] == [*map(float, range(1, 12)), None]
    assert [r["index"] for r in rows if r["keyframe"]] == [0, 9, 33]
    assert rows[4]["clip"] == "film/0-4", "a frame belongs to the first clip that held it"
    assert rows[5]["clip"] == "film/4-8"


def test_a_clip_that_comes_twice_adds_no_row(tmp_path):
    first, *rest = results.clips()
    results.export("frames", tmp_path, [first, first, *rest])
    assert pq.read_table(tmp_path / "frames.parquet").num_rows == 12


def test_a_long_table_is_written_in_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(frames_export, "ROW_GROUP", 4)
    results.export("frames", tmp_path, [*results.clips(40), (results.keyframes([117]),)])
    file = pq.ParquetFile(tmp_path / "frames.parquet")
    assert file.num_row_groups > 5
    rows = file.read().to_pylist()
    assert [r["index"] for r in rows] == [3 * i for i in range(40)]
    assert [r["motion_px"] for r in rows] == [*map(float, range(1, 40)), None]
    assert rows[39]["keyframe"]
    assert sum(r["keyframe"] for r in rows) == 1
    file.close()


def test_frames_without_flow_have_no_motion(tmp_path):
    results.export("frames", tmp_path, [(clip,) for clip, _ in results.clips()])
    assert pq.read_table(tmp_path / "frames.parquet")["motion_px"].null_count == 12


def test_unknown_flow_is_no_motion_and_sparse_flow_counts(tmp_path):
    def flow(t):
        field = np.full((results.HEIGHT, results.WIDTH, 2), np.nan, np.float32)
        if t % 2:
            field[7, 9] = (3, 4)
        return field

    results.export("frames", tmp_path, results.clips(4, flow=flow))
    assert pq.read_table(tmp_path / "frames.parquet")["motion_px"].to_pylist() == [
        *(None, 5.0, None, None)
    ]


def test_no_frames_give_an_empty_table(tmp_path):
    results.export("frames", tmp_path, [])
    table = pq.read_table(tmp_path / "frames.parquet")
    assert table.num_rows == 0
    assert table.schema.equals(frames_export.SCHEMA)


def test_events_are_ordered_and_counted_once(tmp_path):
    late = results.actions((4.0, 5.5, "pan-left", "camera"), (1.0, 2.0, "tilt-up", "camera"))
    early = results.actions((0.0, 6.0, "shot 1", "shot"))
    heard = results.export("events", tmp_path, [(late,), (early,), (late,)], every_s=0)
    assert heard.artifacts == {"events.jsonl": "events", "actions.vtt": "chapters"}
    lines = (tmp_path / "events.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["start_s"] for line in lines] == [0.0, 1.0, 4.0]
    assert json.loads(lines[1]) == {
        "start_s": 1.0,
        "end_s": 2.0,
        "label": "tilt-up",
        "kind": "camera",
        "score": 0.75,
        "model": "action/motion",
    }


def test_events_are_whole_while_they_still_come(tmp_path):
    stage, _ = results.opened("export", "events", tmp_path, every_s=0)
    for n in range(3):
        stage.process(actions=results.actions((n, n + 1, "pan-left", "camera")))
        assert len((tmp_path / "events.jsonl").read_text().splitlines()) == n + 1
        assert (tmp_path / "actions.vtt").read_text().count("-->") == n + 1


def test_no_events_give_empty_files(tmp_path):
    results.export("events", tmp_path, [])
    assert (tmp_path / "events.jsonl").read_bytes() == b""
    assert (tmp_path / "actions.vtt").read_text() == "WEBVTT\n"


def test_a_score_that_is_no_number_is_null(tmp_path):
    odd = results.actions((0, 1, "pan-left", "camera"))
    odd = type(odd)(**{**_fields(odd), "score": np.array([np.nan], np.float32)})
    results.export("events", tmp_path, [(odd,)])
    assert json.loads((tmp_path / "events.jsonl").read_text())["score"] is None


def _fields(message):
    return {name: getattr(message, name) for name in message.__dataclass_fields__ if name != "SPEC"}


def test_chapters_word_for_word():
    events = [
        {"start_s": 0.0, "end_s": 10.0, "label": "shot 1"},
        {"start_s": 0.5, "end_s": 4.25, "label": "pan-left"},
        {"start_s": 3.0, "end_s": 6.0, "label": "a <b>bold</b> --> claim & more\nNOTE"},
        {"start_s": 3600.0, "end_s": 3600.0, "label": "  "},
    ]
    assert chapters(events) == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:10.000\nshot 1\n\n"
        "00:00:00.500 --> 00:00:04.250\npan-left\n\n"
        "00:00:03.000 --> 00:00:04.250\na &lt;b&gt;bold&lt;/b&gt; --&gt; claim &amp; more NOTE\n\n"
        "00:00:04.250 --> 00:00:06.000\na &lt;b&gt;bold&lt;/b&gt; --&gt; claim &amp; more NOTE\n\n"
        "01:00:00.000 --> 01:00:00.001\nunnamed\n"
    )


def test_chapters_of_any_events_nest():
    rng = np.random.default_rng(3)
    starts = np.sort(rng.integers(0, 50, 200)) / 10
    events = [
        {"start_s": s, "end_s": s + rng.integers(0, 40) / 10, "label": str(n)}
        for n, s in enumerate(starts)
    ]
    times = re.findall(r"(\S+) --> (\S+)", chapters(events))
    assert len(times) >= 200
    assert times == sorted(times, key=lambda t: t[0])
    for n, (start, end) in enumerate(times):
        assert start < end
        for later_start, later_end in times[n + 1 :]:
            assert later_start >= end or later_end <= end, "two cues cross"


def test_the_storyboard_tells_where_each_picture_is(tmp_path):
    results.export("storyboard", tmp_path, results.clips(60), pictures=4, width=64)
    sheet = cv2.cvtColor(cv2.imread(str(tmp_path / "storyboard.jpg")), cv2.COLOR_BGR2RGB)
    text = (tmp_path / "storyboard.vtt").read_text()
    cues = re.findall(r"00:00:(\S+) --> 00:00:(\S+)\nstoryboard\.jpg#xywh=(.+)", text)
    assert 4 <= len(cues) <= 8
    pts_s = results.pts_of(60) / 1e9
    for start, end, box in cues:
        assert float(start) < float(end)
        frame = int(np.argmin(np.abs(pts_s - float(start))))
        assert pts_s[frame] == pytest.approx(float(start), abs=1e-3)
        x, y, w, h = map(int, box.split(","))
        expected = cv2.resize(results.picture(frame), (w, h), interpolation=cv2.INTER_AREA)
        error = np.abs(sheet[y : y + h, x : x + w].astype(int) - expected).mean()
        assert error < 4, "JPEG changes a smooth picture by 1 to 2 gray levels"


@pytest.mark.parametrize("model", ["frames", "events", "storyboard", "flow_video", "flo"])
def test_a_stream_that_breaks_off_leaves_nothing(model, tmp_path):
    stage, heard = results.opened("export", model, tmp_path)
    if model == "events":
        stage.config = type(stage.config)(every_s=3600)
        stage._written_at = float("inf")
        stage.process(actions=results.actions((0, 1, "pan-left", "camera")))
    else:
        frames, motion = results.clips()[0]
        stage.process(frames) if model in ("frames", "storyboard") else stage.process(
            frames, motion
        )
    stage.close()
    assert list(tmp_path.iterdir()) == []
    assert heard.artifacts == {}


EXPORTS = (
    *("frames", "events", "storyboard", "flow_video", "depth_video", "flo", "depth_png"),
    *("colmap", "transforms", "trajectory", "points", "mesh"),
)


@pytest.mark.parametrize(
    ("model", "most_bytes"),
    [*((m, 40) for m in EXPORTS), *((m, 2500) for m in ("flo", "points", "mesh"))],
)
def test_a_full_disk_is_one_clear_line(model, most_bytes, tmp_path):
    what = (results.actions((0, 1, "pan-left", "camera")),)
    last = (results.views(), results.depth_maps(), results.points())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A limit on the size of a file fails as a full disk does, also inside FFmpeg and Arrow.
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        with pytest.raises(UsageError) as caught:
            results.export(model, tmp_path, [*results.clips(), what, last])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert re.fullmatch(
        re.escape(f"cannot write {tmp_path}/") + r"[\w/.]+: no space is left there; free some, "
        "then add --resume to the same command",
        str(caught.value),
    )
    assert list(tmp_path.rglob("*.*")) == []
