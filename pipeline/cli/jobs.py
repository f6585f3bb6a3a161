"""`reel3d submit`, `status`, `logs` and `cancel`: runs as jobs on a Ray cluster."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.cli.argument_types import priority, share
from pipeline.cli.shared_options import add_license_option
from pipeline.config import is_override, load, presets
from pipeline.errors import UsageError
from pipeline.jobs.client import DEFAULT, JobServer, connect
from pipeline.jobs.status import CANCELED, age, exit_code, reason, row, state
from pipeline.jobs.submission import CLUSTER, Order, absolute, checkout, new_id, pack
from pipeline.sources import check_scheme, plain_path, scrub

__all__ = ["add_jobs"]

CANCEL_S = 40
POLL_S = 0.5

SUBMIT_HELP = """\
examples:
  reel3d submit holiday.mp4 --address http://head:8265
  reel3d submit s3://films/a.mp4 --out /shared/runs/a --wait sample.model=fps
  reel3d submit /films/a.mp4 --remote-paths --out /runs/a --priority 5 --share 0.5

Paths are those of a disk that this machine and the cluster share; with --remote-paths those of
the cluster alone. A checkout is uploaded; an installed reel3d must be on the cluster too.
The last line on standard output is the name of the job.
"""


def add_jobs(commands: Any) -> None:
    """Add the four commands to the parser's subcommands."""
    submit = commands.add_parser(
        "submit",
        help="run on a Ray cluster",
        epilog=SUBMIT_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    submit.add_argument(
        "words",
        nargs="+",
        metavar="SOURCE|step.option=value",
        help="paths, or addresses such as s3://, https://, rtsp://; options of the stages",
    )
    submit.add_argument("--out", metavar="FOLDER", help="run folder (default: runs/<job>)")
    preset = submit.add_mutually_exclusive_group()
    preset.add_argument("--preset", default="default", help=f"one of {', '.join(presets())}")
    preset.add_argument("--config", type=Path, help="YAML file of this machine")
    submit.add_argument("--resume", action="store_true", help="do only what is missing in --out")
    submit.add_argument(
        "--priority", type=priority, default=0, metavar="N", help="higher goes first (default: 0)"
    )
    submit.add_argument(
        "--share", type=share, default=1.0, help="most of the cluster it may use, above 0 to 1"
    )
    add_license_option(submit)
    submit.add_argument("--wait", action="store_true", help="follow the job; end as it ends")
    submit.add_argument(
        "--remote-paths", action="store_true", help="paths are the cluster's: not looked for here"
    )
    submit.add_argument(
        "--installed", action="store_true", help="use the reel3d of the cluster, upload no code"
    )
    _add_way(submit)
    submit.set_defaults(command=_submit)

    status = commands.add_parser("status", help="list the jobs of a cluster, or show one")
    status.add_argument("job", nargs="?", metavar="JOB")
    status.add_argument("--json", action="store_true", help="for programs")
    _add_way(status)
    status.set_defaults(command=_status)

    logs = commands.add_parser("logs", help="print what a job wrote")
    logs.add_argument("job", metavar="JOB")
    logs.add_argument("--follow", action="store_true", help="until the job ends; end as it ends")
    _add_way(logs)
    logs.set_defaults(command=_logs)

    cancel = commands.add_parser("cancel", help="stop a job; --resume continues its run later")
    cancel.add_argument("job", metavar="JOB")
    _add_way(cancel)
    cancel.set_defaults(command=_cancel)


def _add_way(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--address",
        metavar="http://HEAD:8265",
        help=f"dashboard of the cluster (default: RAY_API_SERVER_ADDRESS, or {DEFAULT})",
    )
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="holds the token (default: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token)",
    )


def _open(options: argparse.Namespace, console: Console) -> JobServer:
    server = connect(options.address, options.token_file)
    for warning in server.warnings:
        console.print(f"[yellow]![/] {escape(warning)}", soft_wrap=True)
    return server


def _submit(options: argparse.Namespace, console: Console) -> int:
    job, root = new_id(), checkout()
    order = _order(options, job, installed=options.installed or root is None)
    # Mistakes in the command are reported before the cluster is asked.
    line = order.line
    server = _open(options, console)
    with tempfile.TemporaryDirectory(prefix="reel3d-") as folder:
        package = pack(Path(folder), root=None if order.installed else root, config=options.config)
        server.submit(
            entrypoint=line,
            submission_id=job,
            runtime_env=order.environment(package),
            metadata=order.metadata,
        )
    console.print(
        f"submitted {len(order.sources)} source(s) to {escape(server.address)}; "
        f"the run goes to {escape(order.out)}",
        soft_wrap=True,
    )
    print(job, flush=True)
    if not options.wait:
        console.print(f"see: reel3d status {job}, reel3d logs {job} --follow")
        return 0
    return _follow(server, job, console, sys.stderr)


def _order(options: argparse.Namespace, job: str, *, installed: bool) -> Order:
    """Check all that can be checked without the cluster."""
    from pipeline.version import version

    overrides = [word for word in options.words if is_override(word)]
    uris = [plain_path(word) for word in options.words if not is_override(word)]
    if not uris:
        raise UsageError("no source given; name a video, a folder of images or an address")
    for uri in uris:
        check_scheme(uri, scrub(uri))
        load(preset=options.preset, file=options.config, overrides=overrides, uri=uri)
    remote: bool = options.remote_paths
    sources = [absolute(uri, remote=remote) for uri in uris]
    out: str | None = options.out
    if remote and (out is None or not out.startswith("/")):
        raise UsageError("with --remote-paths, --out names a folder of the cluster: --out /…")
    return Order(
        job=job,
        sources=tuple(sources),
        out=str(Path(out or f"runs/{job}").absolute()),
        overrides=tuple(overrides),
        preset=options.preset,
        config=options.config,
        priority=options.priority,
        share=options.share,
        resume=options.resume,
        licenses=tuple(options.licenses),
        version=version(),
        installed=installed,
        runner=CLUSTER,
    )


def _follow(server: JobServer, job: str, console: Console, out: Any) -> int:
    """Write the job's log until it ends; return the exit code of its run."""

    def write(text: str) -> None:
        out.write(text)
        out.flush()

    try:
        server.follow(job, write)
    except KeyboardInterrupt:
        console.print(f"the job continues; reel3d cancel {job} ends it")
        return CANCELED
    details = server.info(job)
    why = reason(details)
    where = details.metadata.get("out", "")
    console.print(escape(f"{job} {state(details)}: {why or where}"), soft_wrap=True)
    return exit_code(details)


def _status(options: argparse.Namespace, console: Console) -> int:
    server = _open(options, console)
    jobs = [server.info(options.job)] if options.job else server.list()
    rows = [row(job) for job in jobs]
    if options.json:
        print(json.dumps(rows[0] if options.job else rows, indent=2))
        return 0
    if not rows:
        console.print(f"no jobs of reel3d at {server.address}")
        return 0
    out = Console(highlight=False) if sys.stdout.isatty() else Console(width=240, highlight=False)
    table = Table(box=None, show_header=not options.job, padding=(0, 2, 0, 0))
    if options.job:
        for name, value in rows[0].items():
            if value not in (None, "", []):
                told = "\n".join(value) if isinstance(value, list) else str(value)
                table.add_row(f"[bold]{name}[/]", escape(told))
    else:
        for name in ("job", "state", "since", "sources", "out"):
            table.add_column(name, overflow="fold")
        for one in rows:
            sources = ", ".join(one["sources"][:3])
            more = one["source_count"] - min(len(one["sources"]), 3)
            told = sources + (f" and {more} more" if more > 0 else "")
            since = age(one["ended"] or one["started"])
            table.add_row(*map(escape, (one["job"], one["state"], since, told, one["out"])))
    out.print(table)
    return 0


def _logs(options: argparse.Namespace, console: Console) -> int:
    server = _open(options, console)
    job = server.info(options.job).submission_id
    if options.follow:
        return _follow(server, job, console, sys.stdout)
    text = server.logs(job)
    sys.stdout.write(text if text.endswith("\n") or not text else text + "\n")
    return 0


def _cancel(options: argparse.Namespace, console: Console) -> int:
    server = _open(options, console)
    server.stop(options.job)
    until = time.monotonic() + CANCEL_S
    while not (job := server.info(options.job)).status.is_terminal():
        if time.monotonic() > until:
            raise UsageError(
                f"{options.job} was asked to stop and still runs after {CANCEL_S} s; "
                f"see `reel3d logs {options.job}`"
            )
        time.sleep(POLL_S)
    console.print(
        f"{escape(options.job)} {state(job)}; submit it again with --resume and "
        f"--out {escape(job.metadata.get('out', ''))} to go on",
        soft_wrap=True,
    )
    return 0
