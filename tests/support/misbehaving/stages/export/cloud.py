"""`cloud.txt`: reads nothing that a clip brings."""

from typing import Any

from pipeline.contract import Options, Points, Stage
from stages.export._publish import publish


class Config(Options):
    pass


class Model(Stage[Config]):
    scope = "stream"

    def process(self, points: Points) -> None:
        with publish(self, "cloud.txt", "cloud") as path:
            path.write_text(str(points.xyz.sum()))

    def snapshot(self) -> Any:
        return {}
