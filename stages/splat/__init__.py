"""Gaussian splats: a scene of soft ellipsoids, trained to reproduce the images."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
