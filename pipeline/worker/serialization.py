"""Messages on their way through the object store: small fields by value, each large array apart.

A worker splits a message: large arrays become objects of their own, which the next worker reads
without a copy, and the rest is a few hundred bytes that travel with the request. An array that a
stage passes on unchanged is not stored again: the outgoing message refers to the incoming object.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from pipeline.contract import Array, Message, messages

__all__ = ["ForwardedArray", "MessageHeader", "MessageRef", "kind_of", "pack", "slots", "unpack"]

INLINE_BYTES = 65_536
"""Smaller arrays travel with the request: an object of their own costs more than it saves. Ray
itself keeps objects under 100 KiB out of the shared store."""
COUNTS = frozenset({"T", "T-1", "K", "E", "2", "3", "4"})
"""Sizes that are counts of frames or fixed: an array of these alone is always small."""


class MessageHeader(NamedTuple):
    """A message without its large arrays, as it travels with a request or a reply."""

    kind: str
    """Class name of the message."""
    payload: bytes
    """Pickled plain fields and small arrays."""
    array_fields: tuple[str, ...]
    """Fields whose arrays travel as objects of their own."""


@dataclass(frozen=True, slots=True)
class MessageRef:
    """A message in the object store, as the driver holds it: it never reads the arrays."""

    kind: type[Message]
    payload: bytes
    """As in `MessageHeader`."""
    array_fields: tuple[str, ...]
    """As in `MessageHeader`."""
    refs: tuple[Any, ...]
    """References of the arrays, in the order of `array_fields`."""
    sizes: tuple[int, ...]
    """Bytes of each array."""

    @property
    def header(self) -> MessageHeader:
        """The message without its large arrays."""
        return MessageHeader(self.kind.__name__, self.payload, self.array_fields)

    @property
    def nbytes(self) -> int:
        """Bytes in the object store, those shared with other messages included."""
        return sum(self.sizes)


@dataclass(frozen=True, slots=True)
class ForwardedArray:
    """Stands for an array that arrived with the request, by its position there."""

    place: int


def slots(makes: Iterable[type]) -> int:
    """Return how many arrays of messages of these types may be objects of their own."""
    return sum(
        not set(shape.split()) <= COUNTS
        for made in makes
        for _, shape in getattr(made, "SPEC", {}).values()
    )


def pack(
    message: Message, given: Sequence[Array]
) -> tuple[MessageHeader, list[Array | ForwardedArray]]:
    """Take a message apart.

    Args:
        message: What a stage made.
        given: The arrays that arrived with the request; those found again are forwarded.
    """
    plain: dict[str, Any] = {}
    names: list[str] = []
    arrays: list[Array | ForwardedArray] = []
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
        arrays.append(value if place is None else ForwardedArray(place))
    payload = pickle.dumps(plain, protocol=5)
    return MessageHeader(type(message).__name__, payload, tuple(names)), arrays


def unpack(header: MessageHeader, arrays: Sequence[Array]) -> Message:
    """Put a message together again; its large arrays are the ones given, not copies.

    It was checked when it was made, and is not checked again.
    """
    message = object.__new__(kind_of(header.kind))
    for name, value in pickle.loads(header.payload).items():
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
        object.__setattr__(message, name, value)
    for name, array in zip(header.array_fields, arrays, strict=True):
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
