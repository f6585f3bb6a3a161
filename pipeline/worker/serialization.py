"""Messages on their way through the object store: what is small by value, each array by itself.

A worker takes a message apart: large arrays become objects of their own, which the next worker
reads without a copy, and all else is a few hundred bytes that travel with the call. An array that
a stage hands on as it got it is not stored again: the message that leaves refers to the object
that came in.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from pipeline.contract import messages
from pipeline.contract.messages import Array, Message

__all__ = ["Forward", "Packed", "Parcel", "pack", "slots", "unpack"]

INLINE_BYTES = 65_536
"""Smaller arrays travel with the call: an object of their own costs more than it saves. Ray
itself keeps objects under 100 KiB out of the shared store."""
COUNTS = frozenset({"T", "T-1", "K", "E", "2", "3", "4"})
"""Sizes that are counts of frames or fixed: an array of these alone is always small."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A message as the runner holds it; it never looks into the arrays."""

    kind: type[Message]
    head: bytes
    """Plain fields and small arrays."""
    names: tuple[str, ...]
    """The fields that are objects of their own."""
    refs: tuple[Any, ...]
    """Where these lie, in the order of `names`."""
    sizes: tuple[int, ...]
    """Their bytes."""

    @property
    def nbytes(self) -> int:
        """Bytes in the object store, those shared with other messages included."""
        return sum(self.sizes)


@dataclass(frozen=True, slots=True)
class Forward:
    """Stands for an array that came in with the call, by its place there."""

    place: int


Parcel = tuple[str, bytes, tuple[str, ...]]
"""A packed message without its arrays: kind, head and names, as it travels with a call."""


def slots(makes: Iterable[type]) -> int:
    """Return how many arrays of messages of these types may be objects of their own."""
    return sum(
        not set(shape.split()) <= COUNTS
        for made in makes
        for _, shape in getattr(made, "SPEC", {}).values()
    )


def pack(message: Message, given: Sequence[Array]) -> tuple[Parcel, list[Array | Forward]]:
    """Take a message apart.

    Args:
        message: What a stage made.
        given: The arrays that came in with the call; those found again are forwarded.
    """
    plain: dict[str, Any] = {}
    names: list[str] = []
    arrays: list[Array | Forward] = []
    places = {_identity(array): place for place, array in enumerate(given)}
    for part in fields(message):
        value = getattr(message, part.name)
        shape = message.SPEC.get(part.name, ("", ""))[1]
        large = isinstance(value, np.ndarray) and not set(shape.split()) <= COUNTS
        if not large or value.nbytes < INLINE_BYTES:
            plain[part.name] = value
            continue
        place = places.get(_identity(value))
        names.append(part.name)
        arrays.append(value if place is None else Forward(place))
    head = pickle.dumps(plain, protocol=5)
    return (type(message).__name__, head, tuple(names)), arrays


def unpack(parcel: Parcel, arrays: Sequence[Array]) -> Message:
    """Put a message together again; its large arrays are the ones given, not copies.

    It was checked when it was made, and is not checked again.
    """
    kind, head, names = parcel
    message = object.__new__(kind_of(kind))
    for name, value in pickle.loads(head).items():
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
        object.__setattr__(message, name, value)
    for name, array in zip(names, arrays, strict=True):
        if array.flags.writeable:
            array = array.view()
            array.flags.writeable = False
        object.__setattr__(message, name, array)
    return message


def kind_of(name: str) -> type[Message]:
    """Return the message type of a name."""
    return getattr(messages, name)


def _identity(array: Array) -> tuple[Any, ...]:
    """Two arrays with the same identity hold the same values: they are read-only."""
    place: Any = array.__array_interface__
    return place["data"][0], array.shape, array.strides, array.dtype.str
