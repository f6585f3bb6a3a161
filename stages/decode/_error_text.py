"""How a source and a fault are put into one line."""

from __future__ import annotations

from pipeline.contract import Source

__all__ = ["named", "one_line", "spans"]


def one_line(text: str) -> str:
    """Return `text` with control characters (a newline in a file name) escaped."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode()
        for c in text
    )


def named(source: Source) -> str:
    """Return the source as the user wrote it, safe to print in one line."""
    return one_line(source.shown)


def spans(first: int, last: int) -> str:
    """Return `frame 3` or `frames 3-7`."""
    return f"frame {first}" if first == last else f"frames {first}-{last}"
