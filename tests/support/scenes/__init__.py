from tests.support.scenes.alignment import (
    Similarity,
    TrajectoryError,
    associate,
    trajectory_error,
    umeyama,
)
from tests.support.scenes.encode import encode, save_images
from tests.support.scenes.films import alone, film, tour, tripod, two_shots
from tests.support.scenes.metrics import (
    CloudScore,
    DepthError,
    FlowError,
    SpanScore,
    cloud_score,
    depth_error,
    flow_error,
    span_score,
    thinned,
    true_cloud,
)
from tests.support.scenes.paths import LABELS, Path, Segment, compose, join
from tests.support.scenes.truth import Effects, Truth

__all__ = [
    "LABELS",
    "CloudScore",
    "DepthError",
    "Effects",
    "FlowError",
    "Path",
    "Segment",
    "Similarity",
    "SpanScore",
    "TrajectoryError",
    "Truth",
    "alone",
    "associate",
    "cloud_score",
    "compose",
    "depth_error",
    "encode",
    "film",
    "flow_error",
    "join",
    "save_images",
    "span_score",
    "thinned",
    "tour",
    "trajectory_error",
    "tripod",
    "true_cloud",
    "two_shots",
    "umeyama",
]
