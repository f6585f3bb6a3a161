"""Which of the things seen in one frame are the same in the next."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
