"""`report.txt`: which stages there were."""

from pipeline.contract import Options, RunSummary, Stage
from stages.export._publish import publish


class Config(Options):
    pass


class Model(Stage[Config]):
    def process(self, summary: RunSummary) -> None:
        with publish(self, "report.txt", "report") as path:
            path.write_text(" ".join(stage["model"] for stage in summary.manifest["stages"]))
