"""Gaussian splats: a scene of soft ellipsoids, trained until it looks like the photographs."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
