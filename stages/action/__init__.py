"""What happens when: motion of the camera and of things."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
