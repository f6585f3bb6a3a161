"""Options that several subcommands share."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import get_args

from pipeline.telemetry import LEVELS, Form, LogSettings


def add_license_option(command: argparse.ArgumentParser) -> None:
    """Add `--accept-license`; the names given are `options.licenses`."""
    command.add_argument(
        "--accept-license",
        dest="licenses",
        action="append",
        default=[],
        metavar="NAME",
        help="agree to a license of weights, as the message that asks for it names it; remembered",
    )


def add_log_options(
    parser: argparse.ArgumentParser, commands: Iterable[argparse.ArgumentParser] = ()
) -> None:
    """Give a parser, and those of its subcommands, `--log-format` and `--log-level`."""
    inherited = LogSettings.inherited()
    parser.set_defaults(log_format=inherited.form, log_level=inherited.level)
    for each in (parser, *commands):
        each.add_argument(
            "--log-format",
            choices=get_args(Form),
            default=argparse.SUPPRESS,
            help="text (default), or a line of JSON a record, with the ids of stream and stage",
        )
        each.add_argument(
            "--log-level",
            choices=LEVELS,
            default=argparse.SUPPRESS,
            help="minimum log level (default: warning)",
        )
