"""What is in the picture, pixel by pixel, and which of it moves."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
