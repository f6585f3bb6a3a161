"""Types of command-line arguments: what is allowed, and one line for what is not."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable

__all__ = ["number", "priority", "share", "size", "whole"]


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


def priority(text: str) -> int:
    """Read a `--priority`."""
    if not re.fullmatch(r"-?\d{1,6}", text):
        raise argparse.ArgumentTypeError(f"invalid priority '{text}': give a whole number, e.g. 5")
    return int(text)


def share(text: str) -> float:
    """Read a `--share`."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(
            f"invalid share '{text}': give a number above 0 and at most 1"
        )
    return value


def size(low: int, high: int, example: str) -> Callable[[str], tuple[int, int]]:
    """Return a reader of `WIDTHxHEIGHT` in pixels, each side between two bounds."""

    def read(text: str) -> tuple[int, int]:
        found = re.fullmatch(r"(\d{1,6})[xX×](\d{1,6})", text)
        sides = (int(found.group(1)), int(found.group(2))) if found else (0, 0)
        if not all(low <= side <= high for side in sides):
            raise argparse.ArgumentTypeError(
                f"'{text}' is not a size; allowed is WIDTHxHEIGHT in px, each {low} to {high}, "
                f"such as {example}"
            )
        return sides

    return read
