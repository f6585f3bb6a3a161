"""Camera poses by COLMAP: structure from motion on the keyframes, nothing known beforehand.

SIFT features are matched between neighboring keyframes, ever wider gaps and whatever else looks
alike. What is made of the matches, and what is tried where they do not suffice: `_structure.py`.
"""

from __future__ import annotations

from pydantic import Field

from stages.pose._front_end import FrontEnd, SiftFrontEnd
from stages.pose._structure import MappingOptions, StructureFromMotion

__all__ = ["Config", "Model"]


class Config(MappingOptions):
    """How much is looked for."""

    features: int = Field(
        1500, ge=100, le=20_000, description="strongest SIFT features of a keyframe"
    )


class Model(StructureFromMotion[Config]):
    """Structure from motion on SIFT features."""

    otherwise = ", or try pose.model=learned"

    @property
    def most(self) -> int:
        """How many features of a keyframe the first attempt takes."""
        return self.config.features

    @property
    def front_end(self) -> FrontEnd:
        """SIFT."""
        return SiftFrontEnd()
