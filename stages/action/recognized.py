"""Events out of what a recognizer sees alone, for chains without optical flow."""

from __future__ import annotations

from typing import Any

from pipeline.contract import Actions, Scores, Stage
from stages.action._recognized import Recognized, RecognizedOptions
from stages.action._rows import actions_of, recognized_rows

__all__ = ["Config", "Model"]


class Config(RecognizedOptions):
    """Options of `action/recognized`."""


class Model(Stage[Config]):
    """Segments of the labels of `recognize` (kind `action`), and nothing of the camera."""

    scope = "stream"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._recognized = Recognized(config)

    def process(self, scores: Scores) -> Actions | None:
        """Take the scores of the next clip and return the segments that they settle."""
        return actions_of(recognized_rows(self._recognized.push(scores)))

    def finish(self) -> Actions | None:
        """Return the rest."""
        return actions_of(recognized_rows(self._recognized.flush()))

    def snapshot(self) -> Any:
        """Return the segments that are open or undecided."""
        return self._recognized.snapshot()

    def restore(self, state: Any) -> None:
        """Go on from a snapshot."""
        self._recognized.restore(state)
