"""Camera poses by COLMAP: structure from motion on the keyframes, without prior knowledge.

SIFT features are matched between neighboring keyframes, at increasing gaps and wherever images
look alike. For mapping and the fallback strategies see `_structure.py`.
"""

from __future__ import annotations

from pydantic import Field

from stages.pose._front_end import FrontEnd, SiftFrontEnd
from stages.pose._structure import MappingOptions, StructureFromMotion

__all__ = ["Config", "Model"]


class Config(MappingOptions):
    """SIFT and mapping options."""

    features: int = Field(
        1500, ge=100, le=20_000, description="strongest SIFT features per keyframe"
    )


class Model(StructureFromMotion[Config]):
    """Structure from motion on SIFT features."""

    otherwise = ", or try pose.model=learned"

    @property
    def most(self) -> int:
        """Number of features per keyframe in the first attempt."""
        return self.config.features

    @property
    def front_end(self) -> FrontEnd:
        """SIFT front end."""
        return SiftFrontEnd()
