"""Which frames are worth converting, and how they are grouped into clips."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
