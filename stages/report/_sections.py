"""Other sections of the page: header, failures, quality metrics, timings, provenance."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any, TypeGuard
from urllib.parse import quote

from stages.report._facts import Facts, StageSummary
from stages.report._formatting import amount, megabytes, metric, plural, span
from stages.report._markup import Markup, tag

__all__ = ["failures", "header", "numbers", "provenance", "timings"]


def header(facts: Facts) -> Markup:
    """Return the title, a description of the source, and the headline metrics."""
    source, manifest = facts.source, facts.manifest
    details = []
    if source.get("width") and source.get("height"):
        details.append(f"{source['width']} × {source['height']}")
    details.append(span(facts.duration_s))
    if _real(source.get("fps")):
        details.append(f"{source['fps']:.4g} fps")
    details += [str(source[name]) for name in ("codec",) if source.get(name)]
    started = str(manifest.get("started", ""))[:16].replace("T", " ")
    if started:
        details.append(started)
    state = ("Parts missing", "flag bad") if facts.losses else ("Complete", "flag good")
    tiles = [
        tag("div", tag("dt", name), tag("dd", value), class_="tile")
        for name, value in _headline(facts)
    ]
    return tag(
        "header",
        tag("p", tag("b", "reel3d"), tag("span", state[0], class_=state[1]), class_="brand"),
        tag("h1", facts.title),
        tag("p", " · ".join(details), class_="quiet"),
        tag("dl", tiles, class_="tiles"),
    )


def _headline(facts: Facts) -> list[tuple[str, str]]:
    kinds = [event.kind for event in facts.events]
    tiles = []
    for kind, noun in (("shot", "Shots"), ("camera", "Camera moves"), ("object", "Object moves")):
        if kind in kinds:
            tiles.append((noun, amount(kinds.count(kind))))
    if "registered_share" in facts.metrics:
        tiles.append(("Keyframes posed", f"{amount(100 * facts.metrics['registered_share'])} %"))
    if "reprojection_error_px" in facts.metrics:
        tiles.append(("Reprojection error", f"{facts.metrics['reprojection_error_px']:.2f} px"))
    if "points" in facts.metrics:
        tiles.append(("Points", amount(facts.metrics["points"])))
    if "gaussians" in facts.metrics:
        tiles.append(("Gaussians", amount(facts.metrics["gaussians"])))
    if "held_out_psnr_db" in facts.metrics:
        tiles.append(("Held-out PSNR", f"{facts.metrics['held_out_psnr_db']:.1f} dB"))
    if facts.frames is not None:
        tiles.insert(0, ("Frames", amount(len(facts.frames.pts_s))))
    if _real(facts.manifest.get("seconds")):
        tiles.append(("Run time", span(facts.manifest["seconds"])))
    return tiles


def failures(facts: Facts) -> Markup | None:
    """Return what could not be made and why, or None if nothing failed."""
    if not facts.losses:
        return None
    items = [
        tag("li", tag("strong", what or "a part"), " — ", why, tag("small", f" {stage}"))
        for stage, what, why in facts.losses[:100]
    ]
    if len(facts.losses) > 100:
        items.append(tag("li", f"and {len(facts.losses) - 100} more in errors.jsonl"))
    return tag(
        "section",
        tag("h2", "What could not be made"),
        tag("ul", items),
        class_="alarm",
        id="failed",
    )


def numbers(facts: Facts) -> Markup | None:
    """Return the quality metrics by stage, and the warnings."""
    rows = []
    for stage in facts.stages:
        for position, (name, value) in enumerate(stage.metrics.items()):
            label, figure = metric(name, value)
            of_stage = tag("th", stage.name, scope="rowgroup", rowspan=len(stage.metrics))
            row = [of_stage if position == 0 else None, tag("td", label)]
            rows.append(tag("tr", row, tag("td", figure, class_="num")))
    warnings = [tag("li", text, tag("small", f" {stage}")) for stage, text in facts.warnings[:100]]
    if len(facts.warnings) > 100:
        warnings.append(tag("li", f"and {len(facts.warnings) - 100} more in manifest.json"))
    if not rows and not warnings:
        return None
    return tag(
        "section",
        tag("h2", "How good it is"),
        tag("div", tag("table", tag("tbody", rows)), class_="card scroll") if rows else None,
        tag("h3", "Doubts and fallbacks") if warnings else None,
        tag("ul", warnings, class_="warnings") if warnings else None,
        id="quality",
    )


def timings(facts: Facts) -> Markup | None:
    """Return a bar for every stage with a duration."""
    stages = [stage for stage in facts.stages if stage.seconds > 0]
    if not stages:
        return None
    longest = max(stage.seconds for stage in stages)
    rows = [
        tag(
            "div",
            tag("span", stage.name, class_="bar-name"),
            tag(
                "span", tag("i", style=f"width:{100 * stage.seconds / longest:.2f}%"), class_="bar"
            ),
            tag("span", span(stage.seconds), class_="num"),
            class_="bar-row",
        )
        for stage in stages
    ]
    peak = facts.manifest.get("peak_memory_bytes")
    total = facts.manifest.get("seconds")
    notes = [f"{span(total)} in all"] if _real(total) else []
    notes += [f"{megabytes(peak)} of memory at most"] if _real(peak) else []
    notes.append("stages overlap, so the bars may add up to more")
    return tag(
        "section",
        tag("h2", "Where the time went"),
        tag("div", rows, class_="card bars"),
        tag("p", " · ".join(notes), class_="quiet"),
        id="timings",
    )


def provenance(facts: Facts) -> Markup:
    """Return the models, versions, configuration and files."""
    manifest = facts.manifest
    versions = manifest.get("versions")
    product = manifest.get("product")
    product = product if isinstance(product, dict) else {}
    named = [f"{product.get('name', 'reel3d')} {product.get('version', '')}".strip()]
    if isinstance(versions, dict):
        named += [f"{name} {version}" for name, version in versions.items()]
    config = manifest.get("config")
    return tag(
        "section",
        tag("h2", "Where it came from"),
        tag("div", _models(facts.stages), class_="card scroll"),
        tag("p", " · ".join(named), class_="quiet"),
        _details("The source", json.dumps(facts.source, indent=2, ensure_ascii=False, default=str)),
        _details("Configuration", json.dumps(config, indent=2, ensure_ascii=False, default=str))
        if config
        else None,
        _files(manifest.get("artifacts")),
        id="provenance",
    )


def _models(stages: list[StageSummary]) -> Markup:
    head = ("Stage", "State", "Items", "Device", "Weights", "License")
    rows = [
        tag(
            "tr",
            tag("td", stage.name),
            tag("td", stage.skipped or stage.state),
            tag("td", amount(stage.items), class_="num"),
            tag("td", stage.device),
            tag("td", stage.weights),
            tag("td", stage.license or "–"),
        )
        for stage in stages
    ]
    return tag(
        "table",
        tag("thead", tag("tr", [tag("th", name, scope="col") for name in head])),
        tag("tbody", rows),
    )


def _details(title: str, text: str) -> Markup:
    return tag("details", tag("summary", title), tag("pre", text))


def _files(artifacts: Any) -> Markup | None:
    rows = []
    for artifact in artifacts if isinstance(artifacts, list) else []:
        path = str(artifact.get("path", "")) if isinstance(artifact, dict) else ""
        if not path:
            continue
        size = artifact.get("bytes")
        rows.append(
            tag(
                "tr",
                tag("td", _link(path)),
                tag("td", artifact.get("kind", "")),
                tag("td", megabytes(size) if _real(size) else "", class_="num"),
                tag("td", tag("code", str(artifact.get("sha256") or "")[:12]), class_="quiet"),
            )
        )
    if not rows:
        return None
    summary = tag("summary", f"{plural(len(rows), 'file')} in the run folder")
    return tag("details", summary, tag("div", tag("table", tag("tbody", rows)), class_="scroll"))


def _link(path: str) -> Markup:
    """Return a link, or the bare path if the link could leave the run folder."""
    parts = PurePosixPath(path).parts
    if path.startswith("/") or ".." in parts or ":" in path or "\\" in path:
        return tag("span", path)
    return tag("a", path, href=quote(path))


def _real(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e18
