"""Events out of what a recogniser sees alone, for chains without optical flow."""

from __future__ import annotations

from typing import Any

from pipeline.contract.messages import Actions, Scores
from pipeline.contract.stage import Stage
from stages.action._recognised import Recognised, RecognisedOptions
from stages.action._rows import actions_of, recognised_rows

__all__ = ["Config", "Model"]


class Config(RecognisedOptions):
    """Options of `action/recognised`."""


class Model(Stage[Config]):
    """Segments of the labels of `recognise` (kind `action`), and nothing of the camera."""

    scope = "stream"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._recognised = Recognised(config)

    def process(self, scores: Scores) -> Actions | None:
        """Take the scores of the next clip and return the segments that they settle."""
        return actions_of(recognised_rows(self._recognised.push(scores)))

    def finish(self) -> Actions | None:
        """Return the rest."""
        return actions_of(recognised_rows(self._recognised.flush()))

    def snapshot(self) -> Any:
        """Return the segments that are open or undecided."""
        return self._recognised.snapshot()

    def restore(self, state: Any) -> None:
        """Go on from a snapshot."""
        self._recognised.restore(state)
