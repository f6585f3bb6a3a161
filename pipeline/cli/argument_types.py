"""Numbers on the command line: what is allowed, and one line for what is not."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable

__all__ = ["number", "whole"]


def whole(low: int, high: int) -> Callable[[str], int]:
    """Return a reader of whole numbers between two bounds, both allowed."""

    def read(text: str) -> int:
        value = int(text) if re.fullmatch(r"\d{1,9}", text) else -1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f"'{text}' is not allowed; give a whole number, {low} to {high}"
            )
        return value

    return read


def number(low: float, high: float) -> Callable[[str], float]:
    """Return a reader of numbers between two bounds, both allowed."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"'{text}' is not allowed; give {low:g} to {high:g}")
        return value

    return read
