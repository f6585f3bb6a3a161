"""Tunable constants of scheduling, shared by the Ray runner and the simulator."""

from __future__ import annotations

STORE_SHARE = 0.3
"""Of the object store, for the clips under way: Ray needs room for what it moves, other runs for
theirs, and nothing shall ever be spilled."""
SIDE_BY_SIDE = 8
"""So many runs must find room beside one another: what the workers claim is scaled to that on
small machines, where they share the cores in time."""
STAGES = 6
"""Pools that one run has at most at one time."""
SMALLEST_SHARE = 0.01

MOST = 8
REST_S = 30.0
"""An actor that nobody wants for this long is ended, at the next run where none is going on."""
