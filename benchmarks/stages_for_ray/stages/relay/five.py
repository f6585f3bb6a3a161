"""One of the eight relays of a chain."""

from stages.relay._relay import Config, Model

__all__ = ["Config", "Model"]
