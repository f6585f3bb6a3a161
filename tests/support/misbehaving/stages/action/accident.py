"""The scripted events, of which one clip ends the process the first time."""

from pathlib import Path
from typing import Any

from pydantic import Field
from stages.flow.accident import befall

from pipeline.contract import Actions, Frames, Motion
from stages.action import scripted


class Config(scripted.Config):
    once: int = Field(-1, description="index of the first frame of the clip")
    log: str = Field("", description="folder where the accident is noted")


class Model(scripted.Model):
    def process(self, frames: Frames, motion: Motion) -> Actions | None:
        config: Any = self.config
        noted = Path(config.log, "action")
        if frames.index[0] == config.once and not noted.exists():
            noted.touch()
            befall("exit")
        return super().process(frames, motion)
