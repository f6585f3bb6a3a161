"""Which of a network's labels name what may move."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.errors import UsageError, did_you_mean
from pipeline.weights import Checkpoint
from stages._networks.checkpoints import configuration

__all__ = ["MOVERS", "check_labels", "listed", "selected_labels"]

MOVERS = (
    "person, bicycle, car, motorcycle, motorbike, airplane, aeroplane, bus, train, truck, boat, "
    "bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe"
)
"""People, vehicles and animals of COCO, in both of its spellings."""
MOST_SHOWN = 8


def listed(text: str) -> tuple[str, ...]:
    """Return the parts of a comma-separated list, each once."""
    parts = (" ".join(part.split()) for part in text.split(","))
    return tuple(dict.fromkeys(part for part in parts if part))


def selected_labels(wanted: str, known: Mapping[int, str], option: str) -> dict[int, str]:
    """Return the classes of a network that are wanted, by number.

    Args:
        wanted: Comma-separated labels, or `all`. Of the usual ones those that the network lacks
            are passed over.
        known: The network's labels, by number.
        option: That holds `wanted`, for messages.

    Raises:
        UsageError: None is wanted, or the network does not know one.
    """
    names = listed(wanted)
    if not names:
        raise UsageError(f"{option} is empty; name labels of the network, or all")
    if names == ("all",):
        return dict(known)
    has = {label.lower() for label in known.values()}
    if wanted != MOVERS or not has & {name.lower() for name in names}:
        strange = next((name for name in names if name.lower() not in has), None)
        if strange is not None:
            some = sorted(has)[:MOST_SHOWN]
            raise UsageError(
                f"{option} names '{strange}', which the network does not know; it knows "
                f"{', '.join(some)}{' and more' if len(has) > MOST_SHOWN else ''}"
                + did_you_mean(strange, sorted(has))
            )
    keep = {name.lower() for name in names}
    return {number: label for number, label in known.items() if label.lower() in keep}


def check_labels(wanted: str, weights: Checkpoint, option: str) -> None:
    """See that a checkpoint names what is wanted, by its configuration alone.

    Raises:
        UsageError: As `selected_labels`.
    """
    # One that names nothing has the labels that transformers makes up, which loading tells.
    names = configuration(weights).get("id2label")
    if isinstance(names, Mapping) and names:
        selected_labels(wanted, {n: str(label) for n, label in enumerate(names.values())}, option)
