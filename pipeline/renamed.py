"""Names of options, steps, models and flags that have changed, each with one error that says so.

Old names are not forwarded: the option files and command lines of users have one spelling.
"""

from __future__ import annotations

import re

from pipeline.errors import UsageError

__all__ = ["check_flag", "check_model", "check_option", "check_step", "current_name"]

STEPS = {"recognise": "recognize"}
MODELS = {("action", "recognised"): "recognized"}
OPTIONS = {
    ("action", "recognised_from"): "recognized_from",
    ("action", "recognised_while"): "recognized_while",
    ("action", "recognised_s"): "recognized_s",
    ("depth", "neighbours"): "neighbors",
}
FLAGS = {"--accept-licence": "--accept-license"}


def current_name(stage: str) -> str:
    """Return what a stage, `step/model`, is called now; ledgers of old runs hold old names."""
    step, _, model = stage.partition("/")
    return f"{STEPS.get(step, step)}/{MODELS.get((step, model), model)}"


def check_step(step: str) -> None:
    """Refuse the old name of a step."""
    if step in STEPS:
        raise UsageError(f"there is no step '{step}': it is now '{STEPS[step]}'")


def check_model(step: str, model: str) -> None:
    """Refuse the old name of a model."""
    if (step, model) in MODELS:
        new = MODELS[step, model]
        raise UsageError(f"{step} has no model '{model}': it is now '{new}', {step}.model={new}")


def check_option(step: str, option: str) -> None:
    """Refuse the old name of an option."""
    if (step, option) in OPTIONS:
        raise UsageError(f"there is no {step}.{option}: it is now {step}.{OPTIONS[step, option]}")


def check_flag(word: str) -> None:
    """Refuse the old name of a flag of the command line."""
    flag = re.split("=", word, maxsplit=1)[0]
    if flag in FLAGS:
        raise UsageError(f"there is no {flag}: it is now {FLAGS[flag]}")
