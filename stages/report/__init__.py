"""HTML report of a run."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
