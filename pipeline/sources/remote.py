"""One file behind an address: what the server says of it, and its bytes in order.

fsspec knows the kinds of addresses and is loaded when one is met. Only the schemes below go to
it, each straight to its driver: fsspec's chains (`zip://…::s3://…`) and local files stay out.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import urlsplit, urlunsplit

from pipeline.contract import Source
from pipeline.errors import Reel3dError, SourceError, UsageError
from pipeline.sources.urls import mask, scheme, scrub, secret_in, with_login

__all__ = ["SCHEMES", "Remote", "ask", "explain", "may_pass", "pieces"]

SCHEMES: dict[str, str | None] = {
    "http": None,
    "https": None,
    "s3": "s3",
    "gs": "gcs",
    "memory": None,
}
"""What can be fetched, and the extra of reel3d that brings its driver."""

DRIVERS = {"s3": "s3fs", "gcs": "gcsfs"}

BLOCK_BYTES = 8 << 20
PIECE_BYTES = 1 << 20
CONNECT_S, SILENCE_S = 20, 60
"""How long a server may take to accept a connection, and to send the next byte."""

MARKS = (
    *("ETag", "etag", "Content-MD5", "md5Hash", "generation", "VersionId"),
    *("Last-Modified", "LastModified", "updated", "mtime", "created"),
)
"""What servers call the things that change with the content."""

SIGNING = re.compile(r"x-(amz|goog)-.*|expires|s[etprvs]|spr|srt", re.IGNORECASE)
"""The rest of a signed link's query, which changes with each signing and not with the video."""

HTTP_REASONS = {
    401: "it wants a login: put one for this host into the file that REEL3D_CREDENTIALS names",
    403: "access is refused: the login or the signature does not hold, or the link has expired",
    404: "there is no such file",
    410: "there is no such file any more",
}


@dataclass(frozen=True)
class Remote:
    """One file behind an address, as the server describes it."""

    source: Source
    system: Any
    """The fsspec file system; its libraries have no types."""
    path: str
    size: int | None
    """Bytes; None where the server does not say."""
    tag: str
    """The entity tag; empty where the server gives none."""
    stamp: str
    """A hash that changes with the content."""


def ask(source: Source) -> Remote:
    """Ask the server what the address refers to.

    Raises:
        SourceError: There is no such file, or it cannot be reached.
        UsageError: The driver for this kind of address is not installed.
    """
    try:
        system, path = _open(source)
        info: dict[str, Any] = system.info(path)
    except Reel3dError:
        raise
    except Exception as error:
        explain(error, source)
    if info.get("type") == "directory":
        raise SourceError(f"{source.shown} names a folder; name one video file in it")
    size = info.get("size")
    marks = [f"{name}={info[name]}" for name in MARKS if info.get(name) is not None]
    text = "\n".join([_bare(source.uri), f"size={size}", *marks])
    return Remote(
        source=source,
        system=system,
        path=path,
        size=size if isinstance(size, int) else None,
        tag=str(info.get("ETag") or ""),
        stamp=hashlib.sha256(text.encode()).hexdigest(),
    )


def pieces(remote: Remote, start: int) -> Generator[tuple[int, bytes]]:
    """Yield (offset, bytes) from `start` on, or from 0 where the server cannot begin inside."""
    if scheme(remote.source.uri) in ("http", "https"):
        yield from _streamed(remote, start)
        return
    with remote.system.open(remote.path, "rb", block_size=BLOCK_BYTES, cache_type="none") as file:
        file.seek(start)
        while data := file.read(BLOCK_BYTES):
            yield start, data
            start += len(data)


def _streamed(remote: Remote, start: int) -> Generator[tuple[int, bytes]]:
    """Read over one connection, so that no server can make one answer fill the memory."""
    more: dict[str, Any] = {"size": remote.size} if remote.size else {}
    if start and remote.tag and not remote.tag.startswith("W/"):
        # With another video behind the address by now, the server sends that from its beginning.
        more["headers"] = {"Range": f"bytes={start}-", "If-Range": remote.tag}
    with remote.system.open(remote.path, "rb", block_size=0, **more) as file:
        part = re.match(r"bytes (\d+)-", file.r.headers.get("Content-Range", ""))
        offset = int(part[1]) if file.r.status == 206 and part else 0
        if offset not in (0, start):
            raise ConnectionError(f"asked for the bytes from {start} on, got them from {offset}")
        while data := file.read(PIECE_BYTES):
            yield offset, data
            offset += len(data)


def _open(source: Source) -> tuple[Any, str]:
    kind = scheme(source.uri)
    fsspec = importlib.import_module("fsspec")
    options: dict[str, Any] = {}
    uri = source.uri
    if kind in ("http", "https"):
        aiohttp = importlib.import_module("aiohttp")
        if not urlsplit(uri).hostname:
            raise SourceError(f"{source.shown} names no host; write {kind}://HOST/video.mp4")
        uri = with_login(uri)
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S, connect=CONNECT_S
        )
        options["client_kwargs"] = {
            "timeout": timeout,
            "trust_env": True,
            "headers": {"Accept-Encoding": "identity"},
        }
        # A signature holds for the very letters of the link.
        options["encoded"] = uri.isascii() and "%" in uri and not re.search(r"\s", uri)
    elif kind == "s3":
        retries = {"max_attempts": 4}
        options["config_kwargs"] = {
            "connect_timeout": CONNECT_S,
            "read_timeout": SILENCE_S,
            "retries": retries,
        }
    elif kind == "gs":
        options["requests_timeout"] = SILENCE_S
    try:
        system = fsspec.filesystem(
            kind, skip_instance_cache=True, use_listings_cache=False, **options
        )
    except ImportError:
        extra = SCHEMES[kind] or ""
        raise UsageError(
            f"{source.shown} needs the driver {DRIVERS.get(extra, kind)}, which is not installed; "
            f"pip install 'reel3d[{extra}]'"
        ) from None
    return system, system._strip_protocol(uri)


def _bare(uri: str) -> str:
    """Return the address without login and signature: what names the content."""
    parts = urlsplit(uri)
    pairs = [pair for pair in parts.query.split("&") if pair]
    kept = [
        pair
        for pair in pairs
        if not SIGNING.fullmatch(pair.partition("=")[0]) and not secret_in(f"x://x/?{pair}")
    ]
    netloc = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=netloc, query="&".join(kept), fragment=""))


def may_pass(error: BaseException) -> bool:
    """Say whether trying again may help."""
    status = _status(error)
    if status is not None:
        return status >= 500 or status in (408, 425, 429)
    return not isinstance(error, FileNotFoundError | PermissionError | NotImplementedError)


def _status(error: BaseException | None) -> int | None:
    """Return the HTTP status in an error or its causes."""
    while error is not None:
        status = getattr(error, "status", None)
        if isinstance(status, int) and status:
            return status
        error = error.__cause__
    return None


def explain(error: Exception, source: Source) -> NoReturn:
    """Raise a library's error as one line that holds no secret.

    Raises:
        SourceError: Always.
    """
    status = _status(error)
    cause: BaseException = error
    while isinstance(cause, FileNotFoundError) and cause.__cause__ is not None:
        # fsspec calls every failure of HTTP a file that is not there.
        cause = cause.__cause__
    name = type(cause).__name__
    if status in HTTP_REASONS:
        why = HTTP_REASONS[status]
    elif status is not None and status >= 400:
        why = f"the server answers with HTTP {status}"
    elif isinstance(cause, FileNotFoundError):
        why = "there is no such file"
    elif name == "NoCredentialsError":
        why = (
            "there are no credentials for it; log in as for aws or gcloud, or set "
            "FSSPEC_S3_ANON=true for what is public"
        )
    elif isinstance(cause, PermissionError):
        why = f"access is refused ({scrub(str(cause), source.uri, source.shown) or 'no reason'})"
    elif "dns" in name.lower() or "getaddrinfo" in str(cause) or "resol" in str(cause).lower():
        why = "there is no host of this name, or no network"
    elif isinstance(cause, TimeoutError):
        why = f"the server was silent for {SILENCE_S} s"
    elif name in ("ClientPayloadError", "ServerDisconnectedError", "ConnectionResetError"):
        why = "the connection broke off again and again"
    elif name == "NonHttpUrlRedirectClientError":
        why = "the server sends us on to something that is not HTTP"
    else:
        why = f"{name}: {scrub(str(cause), source.uri, mask(source.uri))}"
    raise SourceError(f"{source.shown} cannot be fetched: {why}") from None
