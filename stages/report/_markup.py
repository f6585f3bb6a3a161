"""Injection-safe HTML: all text is escaped unless it is `Markup` built here."""

from __future__ import annotations

import base64
import json
from html import escape
from typing import Any

__all__ = ["Markup", "data_uri", "embedded_json", "tag"]

VOID = {"img", "meta", "br", "line", "path", "rect", "circle", "polyline", "polygon", "image"}


class Markup(str):
    """Text that is already markup, and not escaped again."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: Any) -> Markup:
    """Return an element.

    Args:
        name: Name of the element.
        children: Markup, or any object, whose text is escaped; None is skipped.
        attributes: `class_` is `class`, other underscores are hyphens; None and False omit an
            attribute, True gives it no value.
    """
    parts = [name]
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(key)
        elif value is not None and value is not False:
            parts.append(f'{key}="{escape(str(value), quote=True)}"')
    opening = f"<{' '.join(parts)}>"
    if name in VOID:
        return Markup(opening if name in ("img", "meta", "br") else opening[:-1] + "/>")
    inner = "".join(c if isinstance(c, Markup) else escape(str(c)) for c in _flat(children))
    return Markup(f"{opening}{inner}</{name}>")


def _flat(children: tuple[object, ...]) -> list[object]:
    flat: list[object] = []
    for child in children:
        if isinstance(child, list | tuple):
            flat.extend(_flat(tuple(child)))
        elif child is not None:
            flat.append(child)
    return flat


def data_uri(kind: str, data: bytes) -> str:
    """Return the bytes as a data URI: `data:image/jpeg;base64,...`."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def embedded_json(name: str, value: Any) -> Markup:
    """Return a script element with data for the page's own script; it is never executed."""
    # Inside a script element nothing is unescaped, and only `<` could end it.
    text = json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return Markup(f'<script type="application/json" id="{escape(name)}">{text}</script>')
