"""Actions that the user writes down in words, found by networks that know pictures and words.

No training: each action is put into several sentences, and the video is compared with them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.contract import Context, Frames, Scores
from pipeline.errors import UsageError
from pipeline.weights import Known
from stages._networks.checkpoints import configuration, load, processor
from stages.recognize._families import FAMILIES, Family, VideoTextModel
from stages.recognize._labels import read_lines
from stages.recognize._stage import Recognizer
from stages.recognize._windows import WindowOptions

__all__ = ["Config", "Model"]

TASK = "zero-shot recognition"
KNOWN = (Known(name="google/siglip2-base-patch16-224", license="apache-2.0", nbytes=1_500_000_000),)
TEMPLATES = (
    "a photo of {}.",
    "a video of {}.",
    "an example of {}.",
    "a demonstration of {}.",
)
NONE_OF_THESE = ("something else", "nothing in particular", "an empty scene")
MOST_ACTIONS = 10_000


class Config(WindowOptions):
    """Options of `recognize/zero_shot`."""

    checkpoint: str = Field(
        KNOWN[0].name,
        description=f"owner/name on the hub, or a folder, of {', '.join(FAMILIES)}",
    )
    actions: str = Field(
        "",
        description="what to look for: words separated by commas, or a .txt file with one a line",
    )
    templates: str = Field(
        "", description=".txt file of sentences with {} for the action; empty: four usual ones"
    )
    none_of_these: bool = Field(
        True,
        description="let 'something else' win where the actions compete (not SigLIP's, which are "
        "judged one by one)",
    )
    frames: int = Field(
        8, ge=1, le=64, description="frames of a window, where the network takes any number"
    )


class Model(Recognizer[Config]):
    """Scores of the user's own words."""

    task = TASK
    known = KNOWN

    def fetch(self) -> None:
        """Bring the checkpoint; look at the words before anything else is done.

        Raises:
            UsageError: There are none, or they cannot be used, or the checkpoint cannot.
        """
        self._actions()
        self._templates()
        super().fetch()
        self._family()

    def open(self, context: Context) -> None:
        """Load the network and read the words.

        Raises:
            UsageError: As `fetch`, or there is no such device.
        """
        super().open(context)
        actions, templates = self._actions(), self._templates()
        weights = self._checkpoint
        family = self._family()
        network = load(
            "AutoModel",
            weights,
            self.config,
            step="recognize",
            task=TASK,
            threads=context.threads,
            busy=family.sees,
        )
        texts = [[template.replace("{}", action) for template in templates] for action in actions]
        if self.config.none_of_these and family.exclusive:
            texts.append([t.replace("{}", none) for none in NONE_OF_THESE for t in templates])
        self._names = tuple(actions)
        self._model = VideoTextModel(network, processor("AutoProcessor", weights), texts)
        self._frames = self._model.frames or self.config.frames

    def process(self, frames: Frames) -> Scores | None:
        """Return how well each action fits the windows of a clip."""
        return self.score_clip(frames, self._names)

    def score_windows(self, videos: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        """Return the scores [N, labels] of N windows, each uint8 [frames, H, W, 3]."""
        return self._model.scores(videos)[:, : len(self._names)]

    def _actions(self) -> list[str]:
        given = self.config.actions
        if given.endswith(".txt"):
            actions = read_lines(given, "recognize.actions")
        else:
            actions = [word for word in (part.strip() for part in given.split(",")) if word]
        if not actions:
            raise UsageError(
                "recognize.actions is empty; write what to look for, such as "
                "recognize.actions='a person cooks, a dog runs', or name a .txt file"
            )
        twice = next((a for n, a in enumerate(actions) if a in set(actions[:n])), None)
        if twice is not None:
            raise UsageError(f"recognize.actions names '{twice}' twice; name each once")
        if len(actions) > MOST_ACTIONS:
            raise UsageError(
                f"recognize.actions has {len(actions)} actions; at most {MOST_ACTIONS} are allowed"
            )
        return actions

    def _templates(self) -> list[str]:
        if not self.config.templates:
            return list(TEMPLATES)
        templates = read_lines(self.config.templates, "recognize.templates")
        without = next((t for t in templates if "{}" not in t), None)
        if without is not None:
            raise UsageError(f"recognize.templates: '{without}' has no {{}} for the action")
        return templates

    def _family(self) -> Family:
        kind = configuration(self.weights[0])["model_type"]
        if kind not in FAMILIES:
            raise UsageError(
                f"{self.weights[0].id} is a {kind}, which does not compare pictures with words; "
                f"allowed are {', '.join(FAMILIES)}"
            )
        return FAMILIES[kind]
