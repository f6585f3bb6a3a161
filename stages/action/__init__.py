"""What happened: `Frames` and `Motion` to timed `Actions`."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
