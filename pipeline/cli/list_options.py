"""`reel3d options`: the models and options of the stages."""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any, get_args

from pydantic.fields import FieldInfo
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.chain import EXPORT, ORDER
from pipeline.config import RunOptions
from pipeline.contract import Options
from pipeline.contract.stage import find, models, options_of
from pipeline.errors import UsageError, did_you_mean
from pipeline.renamed import check_model, check_step

BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
"""Rules of annotated-types in words."""


def options_command(options: argparse.Namespace, console: Console) -> int:
    """Print the models and options of the named steps, or of all."""
    wanted = options.steps or ["run", *ORDER]
    out = Console(highlight=False)
    for name in wanted:
        step, _, model = name.partition(".")
        if step == "run":
            _list_options(out, "run", "", RunOptions)
            continue
        check_step(step)
        check_model(step, model)
        if step not in ORDER:
            raise UsageError(
                f"there is no step '{step}'; there are run, {', '.join(ORDER)}"
                + did_you_mean(step, ("run", *ORDER))
            )
        for found in [model] if model else models(step):
            prefix = f"{step}.{found}" if step == EXPORT else step
            choice = "" if step == EXPORT else f"{step}.model={found}"
            _list_options(out, prefix, choice, options_of(step, found), find(step, found))
    return 0


def _list_options(
    console: Console, prefix: str, choice: str, config: type[Options], stage: Any = None
) -> None:
    about = (sys.modules[stage.__module__].__doc__ or "").strip().splitlines() if stage else []
    told = f"  {escape(about[0])}" if about else ""
    console.print(f"[bold]{escape(choice or prefix)}[/]{told}", soft_wrap=True)
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 2))
    table.add_column(no_wrap=True, min_width=32)
    table.add_column()
    for name, field in config.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "none" if default is None else default
        told = escape(f"{field.description}; {_allowed(field)}")
        table.add_row(f"[cyan]{escape(f'{prefix}.{name}={shown}')}[/]", told)
    console.print(table)


def _allowed(field: FieldInfo) -> str:
    """Say which values a field takes: `a number, at least 1, at most 16`."""
    words = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
    kind = re.sub(r"<class '(\w+)'>", r"\1", str(field.annotation))
    if kind.startswith("typing.Literal["):
        return f"one of {', '.join(str(value) for value in get_args(field.annotation))}"
    parts = [words.get(part, part) for part in kind.replace("NoneType", "None").split(" | ")]
    bounds = [
        f"{phrase} {getattr(rule, name):g}"
        for rule in field.metadata
        for name, phrase in BOUNDS.items()
        if getattr(rule, name, None) is not None
    ]
    return ", ".join([" or ".join(parts).replace("None", "none"), *bounds])
