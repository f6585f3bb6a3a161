"""Ray's Jobs API on a cluster's head, with each way that it fails as one clear line.

The first contact is made with plain HTTP and short time limits: it distinguishes a wrong address
from a wrong token within seconds, where Ray's own client retries or fails without a reason. The
rest goes through `ray.job_submission.JobSubmissionClient`, which is loaded when it is needed.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import ipaddress
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.cluster.auth import PLACES, Token, find_token
from pipeline.errors import Reel3dError, UsageError
from pipeline.sources import mask, scrub

__all__ = ["DEFAULT", "Ended", "JobServer", "connect"]

DEFAULT = "http://127.0.0.1:8265"
OLDEST_RAY = (2, 52)
"""The first with tokens; pyproject.toml asks for it too."""
CONNECT_S, ANSWER_S = 5, 60
AGENT_TRIES, AGENT_PAUSE_S = 15, 2.0
JOB_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


class Ended(UsageError):
    """The job had already ended."""


@dataclass
class JobServer:
    """An open way to the jobs of one cluster; every error of Ray's is a `UsageError` line."""

    address: str
    ray_version: str
    warnings: list[str]
    """What the user should know about this way, each one line."""
    _client: Any
    """A JobSubmissionClient; Ray brings no complete types."""

    def submit(self, **order: Any) -> str:
        """Submit a job with the keywords of `JobSubmissionClient.submit_job`; return its id."""
        with self._plainly("the job was not taken"):
            for left in range(AGENT_TRIES, 0, -1):
                try:
                    return self._client.submit_job(**order)
                except RuntimeError as error:
                    # A head that has just started takes no jobs for its first seconds.
                    if left == 1 or "No available agent" not in str(error):
                        raise
                    time.sleep(AGENT_PAUSE_S)
        raise AssertionError

    def list(self) -> list[Any]:
        """Return reel3d's jobs (`JobDetails`), the newest first."""
        with self._plainly("the jobs cannot be listed"):
            jobs = [job for job in self._client.list_jobs() if _is_ours(job)]
        return sorted(jobs, key=lambda job: job.start_time or 0, reverse=True)

    def info(self, job: str) -> Any:
        """Return the `JobDetails` of one of reel3d's jobs.

        Raises:
            UsageError: There is no such job, or it belongs to another program.
        """
        if not JOB_ID.fullmatch(job):
            raise UsageError(f"'{scrub(job)}' is not the name of a job; `reel3d status` lists them")
        with self._plainly(f"{job} cannot be asked for"):
            details = self._client.get_job_info(job)
        if not _is_ours(details):
            raise UsageError(f"{job} is not a job of reel3d; use `ray job` for it")
        return details

    def logs(self, job: str) -> str:
        """Return what the job has written so far."""
        with self._plainly(f"the log of {job} cannot be read"):
            return self._client.get_job_logs(job)

    def stop(self, job: str) -> None:
        """Ask the job to stop.

        Raises:
            Ended: It had ended before.
        """
        details = self.info(job)
        with self._plainly(f"{job} cannot be canceled"):
            running = not details.status.is_terminal() and self._client.stop_job(job)
        if not running:
            raise Ended(f"{job} had already ended ({str(details.status).lower()})")

    def follow(self, job: str, write: Callable[[str], None]) -> None:
        """Write the job's log as it grows; return when the job has ended."""
        written = 0
        with self._plainly(f"the log of {job} cannot be followed"):
            # The connection may end before the job does, such as through a proxy's time limit.
            while True:
                written = asyncio.run(self._tail(job, write, written))
                if self._client.get_job_info(job).status.is_terminal():
                    break
        rest = self.logs(job)[written:]
        if rest:
            write(rest)

    async def _tail(self, job: str, write: Callable[[str], None], written: int) -> int:
        seen = 0
        lines: AsyncIterator[str] = self._client.tail_job_logs(job)
        try:
            async for text in lines:
                write(text[max(written - seen, 0) :])
                seen += len(text)
        except RuntimeError:
            logging.getLogger(__name__).info("the log of %s broke off; going on", job)
            await asyncio.sleep(1)
        return max(seen, written)

    @contextmanager
    def _plainly(self, what: str) -> Generator[None]:
        try:
            yield
        except Reel3dError:
            raise
        except Exception as error:
            raise _explained(error, what, self.address) from None


def connect(address: str | None = None, token_file: Path | None = None) -> JobServer:
    """Find out who answers at the address, and with which token.

    Args:
        address: `http://HEAD:8265`, or `HEAD:8265`; by default RAY_API_SERVER_ADDRESS, or this
            machine.
        token_file: What `--token-file` names.

    Raises:
        UsageError: There is no answer, it is not a Ray cluster, it is too old, or it wants
            another token.
    """
    url = _checked(address or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT)
    status, body = _get(url, None)
    token: Token | None = None
    if status == 401:
        token = find_token(token_file)
        if token is None:
            raise UsageError(
                f"the cluster at {url} wants a token; give its own in {PLACES} "
                "(`ray get-auth-token` on the head prints it)"
            )
        status, body = _get(url, token)
        if status in (401, 403):
            raise UsageError(
                f"the cluster at {url} refuses the token of {token.origin}; on the head "
                "`ray get-auth-token` prints the right one"
            )
    version = body.get("ray_version") if status == 200 else None
    if not isinstance(version, str):
        raise UsageError(
            f"{url} answers, but it is not a Ray cluster (HTTP {status}); --address is that of "
            "the head's dashboard, such as http://HEAD:8265"
        )
    if _release(version) < OLDEST_RAY:
        raise UsageError(
            f"the cluster at {url} runs Ray {scrub(version)}; reel3d needs "
            f"{'.'.join(map(str, OLDEST_RAY))} or newer there"
        )
    warnings = []
    own = importlib.metadata.version("ray")
    if _release(own) != _release(version):
        warnings.append(
            f"the cluster runs Ray {scrub(version)} and this machine {own}; the job uses the "
            "cluster's"
        )
    if url.startswith("http:") and not _is_loopback(url):
        warnings.append(
            f"{url} is not encrypted: others on the network can read the "
            + ("token; use https:// or a tunnel" if token else "job")
            + ("" if token else ", and with no token anybody there can run code on the cluster")
        )
    return JobServer(url, version, warnings, _client(url, token))


def _checked(address: str) -> str:
    url = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"'{scrub(mask(url))}' is not the address of a cluster's dashboard; write http://HEAD:8265"
        )
    if "@" in parts.netloc or parts.query or parts.path.strip("/"):
        raise UsageError(
            f"'{scrub(mask(url))}' holds more than a host and a port; write http://HEAD:8265 (a "
            f"token goes into {PLACES})"
        )
    if re.search(r"[^A-Za-z0-9.:_\[\]-]", parts.netloc) or address in ("auto", "local"):
        raise UsageError(f"'{scrub(url)}' names no host; write http://HEAD:8265")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port or 8265}" if port or parts.scheme == "http" else url


def _get(url: str, token: Token | None) -> tuple[int, dict[str, Any]]:
    requests = importlib.import_module("requests")
    headers = {"Authorization": f"Bearer {token.secret}"} if token else {}
    limits = (CONNECT_S, ANSWER_S / 4)
    try:
        with requests.get(
            f"{url}/api/version",
            headers=headers,
            timeout=limits,
            allow_redirects=False,
            stream=True,
            # A login for this host in ~/.netrc would go where the token belongs.
            auth=lambda request: request,
        ) as answer:
            text = answer.raw.read(1 << 16, decode_content=True)
            status = answer.status_code
    except Exception as error:
        raise _explained(error, "", url) from None
    try:
        body = importlib.import_module("json").loads(text)
    except ValueError:
        body = None
    return status, body if isinstance(body, dict) else {}


def _client(url: str, token: Token | None) -> Any:
    jobs = importlib.import_module("ray.job_submission")
    for name in (
        "ray.dashboard.modules.job.sdk",
        "ray.dashboard.modules.dashboard_sdk",
        "ray._private.runtime_env.packaging",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)

    class Client(jobs.JobSubmissionClient):
        def _do_request(self, method: str, endpoint: str, **more: Any) -> Any:
            more = {"timeout": (CONNECT_S, ANSWER_S), "allow_redirects": False, **more}
            return super()._do_request(method, endpoint, **more)

    headers = {"Authorization": f"Bearer {token.secret}"} if token else None
    # These go before the address that the user gave, in Ray's client.
    names = {"RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"} & os.environ.keys()
    kept = {name: os.environ.pop(name) for name in names}
    try:
        client = Client(url, headers=headers)
        if getattr(client, "_ssl_context", True) is None:
            # Ray hands this to aiohttp, which no longer wants None for "check it as usual".
            client._ssl_context = True
        return client
    except Exception as error:
        raise _explained(error, "", url) from None
    finally:
        os.environ.update(kept)


def _explained(error: Exception, what: str, url: str) -> UsageError:
    """Return one line for what Ray or HTTP raised."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    said = str(error)
    host = urlsplit(url).hostname
    if "WRONG_VERSION_NUMBER" in said:
        why = f"{url} does not speak TLS; write {url.replace('https', 'http', 1)}"
    elif kinds & {"SSLError"}:
        why = (
            f"{url} cannot be trusted: {scrub(said)[:160]}; REQUESTS_CA_BUNDLE names its authority"
        )
    elif re.search(r"NameResolution|getaddrinfo|Name or service|nodename", said):
        why = f"there is no host '{host}'; --address is that of the head, such as http://HEAD:8265"
    elif kinds & {"Timeout", "TimeoutError"}:
        why = f"{url} does not answer; is the cluster up, and no firewall in between?"
    elif "refused" in said:
        why = (
            f"nothing answers at {url} (connection refused); start a cluster with "
            "`ray start --head`, or give its --address http://HEAD:8265"
        )
    elif kinds & {"ConnectionError", "ClientError", "InvalidURL"}:
        why = f"{url} cannot be reached, or does not speak HTTP there: {scrub(said)[-160:]}"
    elif "AuthenticationError" in kinds:
        why = f"the cluster at {url} no longer takes the token; was it restarted?"
    elif found := re.search(r"status code (\d+): (.*)", said, re.DOTALL):
        why = _refusal(int(found[1]), found[2], what, url)
    elif re.search(r"exceeds|too large|larger than", said) and "ackage" in said:
        why = f"the job's code is too large for Ray: {scrub(said)[:200]}"
    else:
        why = f"{what or url}: {type(error).__name__}: {scrub(said)[:200]}"
    return UsageError(why)


def _refusal(status: int, body: str, what: str, url: str) -> str:
    last = scrub((body.strip().splitlines() or ["no reason"])[-1])[:200]
    if status == 404 and "does not exist" in body:
        job = re.search(r"Job (\S+) does", body)
        return f"there is no job {job[1] if job else ''} at {url}; `reel3d status` lists them"
    if status == 413:
        return "the job's code is larger than the cluster takes in one upload; use --installed"
    return f"{what} by {url}: HTTP {status}: {last}"


def _release(version: str) -> tuple[int, ...]:
    found = re.match(r"(\d{1,6})\.(\d{1,6})", version)
    return (int(found[1]), int(found[2])) if found else (0,)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_ours(job: Any) -> bool:
    return bool(job.metadata) and "reel3d" in job.metadata and bool(job.submission_id)
