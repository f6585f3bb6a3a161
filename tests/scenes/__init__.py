from tests.scenes.encode import encode, save_images
from tests.scenes.films import alone, film, tour, tripod, two_shots
from tests.scenes.paths import LABELS, Path, Segment, compose, join
from tests.scenes.truth import Effects, Truth

__all__ = [
    "LABELS",
    "Effects",
    "Path",
    "Segment",
    "Truth",
    "alone",
    "compose",
    "encode",
    "film",
    "join",
    "save_images",
    "tour",
    "tripod",
    "two_shots",
]
