"""Timeline of the run: images, shots, motion of the camera and of objects."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from stages.report._facts import EventRow, Facts, FrameTable
from stages.report._formatting import clock, plural, span
from stages.report._images import jpeg_uri, nearest, storyboard, video_frames
from stages.report._markup import Markup, tag
from stages.report._thinning import THIN_SLOTS, thinned

__all__ = ["timeline"]

SLOTS = 10
SLOT_WIDTH = 216

TRACKS = {"shot": "Shots", "camera": "Camera", "object": "Objects", "action": "Actions"}

HUES = {
    "static": "still",
    "pan": "blue",
    "tilt": "teal",
    "roll": "pink",
    "zoom": "violet",
    "dolly": "amber",
    "truck": "green",
    "pedestal": "lime",
    "handheld": "slate",
    "object": "red",
    "shot": "plain",
}

CURVE_POINTS = 300
MOST_TICKS = 1000

MOST_BLOCKS = 300
"""With more events of a kind than this, the row shows the longest in each time slot."""
MOST_LANES = 8
MOST_ROWS = 300
"""Maximum number of rows in the table of events."""


def timeline(facts: Facts) -> Markup | None:
    """Return the section, or None if nothing was sampled."""
    tracks, left_out = _tracks(facts)
    rows = [*_strips(facts), *tracks, *_curves(facts)]
    if not rows:
        return None
    return tag(
        "section",
        tag("h2", "What happened"),
        tag(
            "div",
            rows,
            _axis(facts.duration_s),
            tag("div", class_="cursor", hidden=True, aria_hidden="true"),
            tag("div", class_="tip", hidden=True, role="status"),
            class_="timeline card",
            id="timeline",
            data_duration=f"{facts.duration_s:.3f}",
        ),
        tag("p", left_out, class_="quiet", id="thinned") if left_out else None,
        _list_of_events(facts.events),
        id="happened",
    )


def _row(label: str, track: Markup, kind: str) -> Markup:
    return tag(
        "div",
        tag("div", label, class_="row-label"),
        tag("div", track, class_="track"),
        class_=f"row row-{kind}",
    )


def _strips(facts: Facts) -> list[Markup]:
    middles = [(i + 0.5) * facts.duration_s / SLOTS for i in range(SLOTS)]
    boards = {
        "Video": storyboard(facts.folder),
        "Flow": video_frames(facts.folder / "flow.mp4", middles, SLOT_WIDTH),
        "Depth": video_frames(facts.folder / "depth.mp4", middles, SLOT_WIDTH),
    }
    rows = []
    for name, pictures in boards.items():
        if not pictures:
            continue
        images = []
        for middle in middles:
            image = nearest(pictures, middle)
            assert image is not None, "pictures is not empty"
            alt = f"{name} at {clock(middle)}"
            height, width = image.shape[:2]
            images.append(tag("img", src=jpeg_uri(image, 72), alt=alt, width=width, height=height))
        rows.append(_row(name, tag("div", images, class_="strip"), "strip"))
    return rows


def _tracks(facts: Facts) -> tuple[list[Markup], list[object]]:
    """Return a row for each kind of event, and a note on events that the rows leave out."""
    rows: list[Markup] = []
    left_out: list[object] = []
    merged: list[str] = []
    for kind, name in TRACKS.items():
        events = [e for e in facts.events if e.kind == kind]
        if kind == "action":
            events = [e for e in facts.events if e.kind not in TRACKS or e.kind == kind]
        if not events:
            continue
        counted = "shot" if kind == "shot" else f"{kind} event"
        if len(events) > MOST_BLOCKS:
            merged.append(plural(len(events), counted))
            blocks = thinned(events, facts.duration_s, numbered=kind == "shot")
            lanes = [[_block(event, facts.duration_s, title) for event, title in blocks]]
        else:
            if kind == "shot":
                events = [replace(e, label=f"shot {n}") for n, e in enumerate(events, 1)]
            packed = _lanes(events)
            beyond = sum(len(lane) for lane in packed[MOST_LANES:])
            if beyond:
                left_out.append(f"Not drawn, below others: {plural(beyond, counted)}. ")
            lanes = [[_block(e, facts.duration_s) for e in lane] for lane in packed[:MOST_LANES]]
        row = [tag("div", lane, class_="lane") for lane in lanes]
        rows.append(_row(name, tag("div", row, class_="lanes"), "events"))
    if merged:
        left_out.append(
            f"Too many to draw one by one: {', '.join(merged)}. Each block covers "
            f"{span(facts.duration_s / THIN_SLOTS)} or more and shows what takes up most of it. "
        )
    if left_out:
        left_out += ["All of them are in ", tag("a", "events.jsonl", href="events.jsonl"), "."]
    return rows, left_out


def _lanes(events: list[EventRow]) -> list[list[EventRow]]:
    """Distribute overlapping events of one kind over several lanes."""
    lanes: list[list[EventRow]] = []
    for event in sorted(events, key=lambda e: e.start_s):
        lane = next((n for n in lanes if n[-1].end_s <= event.start_s + 1e-6), None)
        if lane is None:
            lane = []
            lanes.append(lane)
        lane.append(event)
    return lanes


def _block(event: EventRow, duration_s: float, title: str = "") -> Markup:
    left = 100 * min(event.start_s / duration_s, 1)
    width = max(0.35, 100 * (min(event.end_s, duration_s) - event.start_s) / duration_s)
    if not title:
        title = f"{event.label}, {clock(event.start_s)} to {clock(event.end_s)}"
        if event.score is not None and event.kind != "shot":
            title += f", score {event.score:.2f}"
    return tag(
        "span",
        tag("span", event.label.replace("-", " ")),
        class_=f"block hue-{_hue(event)}",
        style=f"left:{left:.3f}%;width:{width:.3f}%",
        title=title,
    )


def _hue(event: EventRow) -> str:
    if event.kind in ("object", "shot"):
        return HUES[event.kind]
    return HUES.get(event.label.split("-")[0].split(" ")[0].lower(), "other")


def _curves(facts: Facts) -> list[Markup]:
    frames = facts.frames
    if frames is None or len(frames.pts_s) < 3:
        return []
    rows = []
    for name, values, unit in (
        ("Motion", frames.motion_px, "px a frame"),
        ("Sharpness", frames.sharpness, ""),
    ):
        curve = _curve(frames.pts_s, values, facts.duration_s)
        if curve is None:
            continue
        most = f"at most {np.nanmax(values):.3g} {unit}".strip()
        rows.append(_row(name, tag("div", curve, tag("small", most), class_="curve"), "curve"))
    if frames.keyframe.any():
        rows.append(_row("Keyframes", _ticks(frames, facts.duration_s), "ticks"))
    return rows


def _curve(
    pts_s: npt.NDArray[np.float64], values: npt.NDArray[np.float64], duration_s: float
) -> Markup | None:
    if not np.isfinite(values).any() or np.nanmax(values) <= 0:
        return None
    slots = np.minimum((pts_s / duration_s * CURVE_POINTS).astype(int), CURVE_POINTS - 1)
    largest = np.full(CURVE_POINTS, -np.inf)
    np.maximum.at(largest, slots, np.nan_to_num(values, nan=-np.inf))
    used = np.flatnonzero(np.isfinite(largest))
    x = 100 * (used + 0.5) / CURVE_POINTS
    y = 30 - 28 * largest[used] / np.nanmax(values)
    line = " ".join(f"{a:.2f},{b:.2f}" for a, b in zip(x, y, strict=True))
    area = f"{x[0]:.2f},30 {line} {x[-1]:.2f},30"
    return tag(
        "svg",
        tag("polygon", points=area, class_="area"),
        tag("polyline", points=line, class_="line", vector_effect="non-scaling-stroke"),
        viewBox="0 0 100 30",
        preserveAspectRatio="none",
        aria_hidden="true",
    )


def _ticks(frames: FrameTable, duration_s: float) -> Markup:
    times = drawn = frames.pts_s[frames.keyframe]
    if len(times) > MOST_TICKS:
        drawn = np.unique(np.round(times / duration_s * MOST_TICKS)) * (duration_s / MOST_TICKS)
    path = "".join(f"M{100 * t / duration_s:.3f} 0V10" for t in drawn)
    return tag(
        "svg",
        tag("path", d=path, vector_effect="non-scaling-stroke"),
        viewBox="0 0 100 10",
        preserveAspectRatio="none",
        role="img",
        aria_label=plural(len(times), "keyframe"),
        class_="ticks",
    )


def _axis(duration_s: float) -> Markup:
    steps = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600)
    step = next((s for s in steps if duration_s / s <= 8), steps[-1])
    marks = [
        tag("span", clock(t), style=f"left:{100 * t / duration_s:.3f}%")
        for t in np.arange(0, 0.94 * duration_s, step)[:200].tolist()
    ]
    return _row("", tag("div", marks, class_="axis", aria_hidden="true"), "axis")


def _list_of_events(events: list[EventRow]) -> Markup | None:
    listed = [e for e in events if e.kind != "shot"]
    if not listed:
        return None
    shown, title = listed, f"All {plural(len(listed), 'event')} as a table"
    if len(listed) > MOST_ROWS:
        longest = sorted(listed, key=lambda e: e.start_s - e.end_s)[:MOST_ROWS]
        shown = sorted(longest, key=lambda e: e.start_s)
        title = f"The {MOST_ROWS} longest of {plural(len(listed), 'event')} as a table"
    rows = [
        tag(
            "tr",
            tag("td", f"{clock(e.start_s)} – {clock(e.end_s)}", class_="num"),
            tag("td", tag("span", class_=f"dot hue-{_hue(e)}"), e.label.replace("-", " ")),
            tag("td", e.kind),
            tag("td", "" if e.score is None else f"{e.score:.2f}", class_="num"),
            tag("td", e.model, class_="quiet"),
        )
        for e in shown
    ]
    head = tag(
        "tr", [tag("th", t, scope="col") for t in ("Time", "What", "Kind", "Score", "Said by")]
    )
    table = tag("table", tag("thead", head), tag("tbody", rows))
    rest = None
    if len(shown) < len(listed):
        rest = tag("p", "All are in ", tag("a", "events.jsonl", href="events.jsonl"), ".")
    return tag("details", tag("summary", title), tag("div", table, class_="scroll"), rest)
