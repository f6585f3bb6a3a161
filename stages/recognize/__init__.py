"""What networks see happen: `Frames` to the `Scores` of labels, clip by clip."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
