"""How large a cluster must be: `reel3d plan`.

Runs the real scheduler in virtual time against measured costs; must not know Ray or `cluster`.
Read `simulator.py` first.
"""

from pipeline.capacity.cost_cache import kept_costs
from pipeline.capacity.cost_model import Costs
from pipeline.capacity.machines import MachineSpec
from pipeline.capacity.search import Candidate, ClusterSearch, PlanRequest, PlanResult
from pipeline.capacity.workload import ClusterSpec, Workload

__all__ = [
    "Candidate",
    "ClusterSearch",
    "ClusterSpec",
    "Costs",
    "MachineSpec",
    "PlanRequest",
    "PlanResult",
    "Workload",
    "kept_costs",
]
