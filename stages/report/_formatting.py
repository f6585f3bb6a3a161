"""Human-readable numbers."""

from __future__ import annotations

import math
import re

__all__ = ["amount", "clock", "megabytes", "metric", "plural", "span"]

UNITS = {
    "px": "px",
    "s": "s",
    "ms": "ms",
    "m": "m",
    "mm": "mm",
    "deg": "°",
    "hz": "Hz",
    "db": "dB",
    "percent": "%",
    "views": "views",
    "count": "",
}


SPELLED = {"psnr": "PSNR", "ssim": "SSIM", "held out": "held-out", "Held out": "Held-out"}
"""Spelling of words that names with underscores cannot express."""


def amount(value: float) -> str:
    """Format a number with three significant digits and separated thousands."""
    if not math.isfinite(value):
        return "unknown"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}".replace(",", "\u202f")
    if abs(value) >= 100:
        return f"{round(value):,}".replace(",", "\u202f")
    return f"{value:.3g}"


def clock(time_s: float) -> str:
    """Format a time in the video: `0:07.4`, `1:02:07.4`."""
    tenths = max(0, round(time_s * 10))
    seconds, minutes, hours = tenths / 10 % 60, tenths // 600 % 60, tenths // 36000
    return f"{hours}:{minutes:02d}:{seconds:04.1f}" if hours else f"{minutes}:{seconds:04.1f}"


def span(seconds: float) -> str:
    """Format a duration: `0.42 s`, `3 min 5 s`."""
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes = round(seconds) // 60
    if minutes < 60:
        return f"{minutes} min {round(seconds) % 60} s"
    return f"{minutes // 60} h {minutes % 60} min"


def megabytes(size: float) -> str:
    """Format a size in bytes, kB, MB or GB (powers of ten)."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{round(size)} bytes"


def metric(name: str, value: float) -> tuple[str, str]:
    """Format a metric: `reprojection_error_px`, 0.431 as `Reprojection error`, `0.431 px`."""
    words = name.split("_")
    unit = words[-1]
    if unit == "share" and len(words) > 1:
        return _label(words[:-1]), f"{amount(round(value * 100, 1))} %"
    if unit == "bytes" and len(words) > 1:
        return _label(words[:-1]), megabytes(value)
    if unit in UNITS and len(words) > 1:
        return _label(words[:-1]), f"{amount(value)} {UNITS[unit]}".rstrip()
    return _label(words), amount(value)


def _label(words: list[str]) -> str:
    label = " ".join(words).capitalize()
    for plain, spelled in SPELLED.items():
        label = re.sub(rf"\b{plain}\b", spelled, label)
    return label


def plural(count: int, noun: str) -> str:
    """Format a count with its noun: `1 shot`, `2 shots`."""
    return f"{amount(count)} {noun}{'' if count == 1 else 's'}"
