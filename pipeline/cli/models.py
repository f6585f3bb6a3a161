"""`reel3d models`: the learned models, their licenses, and whether their weights are here."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.chain import ORDER
from pipeline.cli.shared_options import add_license_option
from pipeline.contract.stage import find, models
from pipeline.errors import UsageError, did_you_mean
from pipeline.weights import Weights, bring, checkpoint, fault_of, is_name, licenses, sha256_of

__all__ = ["add_models"]

WIDTH = 200
"""Of what goes to a file or a pipe: nothing is cut off."""


def add_models(commands: Any) -> None:
    """Add `models` and what it can do."""
    command = commands.add_parser("models", help="learned models: list, check or fetch weights")
    command.set_defaults(command=_list)
    verbs = command.add_subparsers(metavar="list | check | fetch")
    verbs.add_parser("list", help="all that are known (default)").set_defaults(command=_list)
    check = verbs.add_parser("check", help="whether those on this machine are whole")
    check.set_defaults(command=_check)
    fetch = verbs.add_parser("fetch", help="bring weights to this machine")
    fetch.add_argument(
        "name", metavar="NAME", help="a model (flow/raft), weights of the list, or any owner/name"
    )
    add_license_option(fetch)
    fetch.set_defaults(command=_fetch)


def known() -> Iterator[tuple[str, Weights]]:
    """Yield every file of weights with the model that it belongs to, such as `flow/raft`."""
    for step in ORDER:
        for model in models(step):
            for weights in find(step, model).catalog():
                yield f"{step}/{model}", weights


def _list(options: argparse.Namespace, console: Console) -> int:
    del options, console
    there = list(known())
    agreed = licenses.accepted()
    table = Table(box=None, pad_edge=False)
    for title in ("model", "weights", "task", "license", "MB", "here"):
        table.add_column(title, justify="right" if title == "MB" else "left", no_wrap=True)
    for model, weights in there:
        size = f"{weights.nbytes / 1e6:.0f}"
        here = "yes" if weights.is_here else "no"
        license = weights.license
        if not licenses.is_free(license):
            license += " (accepted)" if license in agreed else " (must be accepted)"
        table.add_row(model, weights.id, weights.task, license, size, here)
    told = Console(highlight=False)
    if not told.is_terminal:
        told = Console(highlight=False, width=WIDTH)
    told.print(table)
    folders = sorted({str(weights.home) for _, weights in there})
    told.print(
        f"fetch one: reel3d models fetch NAME; it goes to {', '.join(folders)}", soft_wrap=True
    )
    return 0


def _check(options: argparse.Namespace, console: Console) -> int:
    del options
    here = [weights for _, weights in known() if weights.is_here]
    told = Console(highlight=False)
    if not here:
        told.print("no weights are on this machine; reel3d models list says what there is")
    code = 0
    for weights in here:
        fault = fault_of(weights)
        if fault is None:
            told.print(f"{weights.id}: whole, sha256 {sha256_of(weights)}", soft_wrap=True)
            continue
        code = UsageError.exit_code
        console.print(
            f"[bold red]reel3d:[/] the weights {weights.id} {fault}; remove the file, then: reel3d "
            f"models fetch {weights.id}",
            soft_wrap=True,
        )
    return code


def _fetch(options: argparse.Namespace, console: Console) -> int:
    del console
    there = list(known())
    wanted = [(m, w) for m, w in there if options.name in (m, w.id)]
    if not wanted and is_name(options.name) and options.name.partition("/")[0] not in ORDER:
        wanted = [("any stage", checkpoint(options.name, task="", instead="", option="NAME"))]
    if not wanted:
        names = sorted({name for model, weights in there for name in (model, weights.id)})
        raise UsageError(
            f"there are no weights for '{options.name}'; known are {', '.join(names)}"
            + did_you_mean(options.name, names)
        )
    told = Console(highlight=False)
    for model, weights in wanted:
        before = weights.is_here
        licenses.check(weights, model)
        here = bring(weights, model)
        told.print(f"{here.id}: {'was here' if before else 'fetched'}, {here.path}", soft_wrap=True)
    return 0
