"""Addresses of sources: what in them is secret, how they are shown, and where logins come from.

A login inside an address (`rtsp://admin:secret@camera/`) is shown nowhere. It is better kept out
of addresses altogether: a file in netrc's form, `$REEL3D_CREDENTIALS` or else `~/.netrc`, says
who logs in where::

    machine camera.example login admin password secret
"""

from __future__ import annotations

import netrc
import os
import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from pipeline.errors import SourceError, UsageError

__all__ = [
    "CAMERAS",
    "mask",
    "masked",
    "plain_path",
    "scheme",
    "scrub",
    "secret_in",
    "with_login",
]

CREDENTIALS = "REEL3D_CREDENTIALS"

CAMERAS = ("rtsp", "rtsps")
"""Schemes of sources that are read as they come, and never fetched."""

SECRET_KEY = re.compile(
    r"(x-(amz|goog)-(signature|credential|security-token)|sig|signature|key|api[_-]?key|"
    r"awsaccesskeyid|googleaccessid|(access|auth|id|refresh|sas)?[_-]?token|passw(or)?d|pwd|pass|"
    r"secret|auth|authorization|jwt|policy|key-pair-id)",
    re.IGNORECASE,
)
"""Names of a query that carry a login or a signature: those of S3, Google, Azure and CloudFront
links, and what cameras and servers commonly call them."""

USER = re.compile(r"(?<=://)[^\s/?#'\"<>]*@")
ODD_USER = re.compile(r"(?<=://)[^\s/?#@:'\"<>\]]*:(?!\d{0,5}(?:[\s/?#'\"<>,;.)]|$))[^\s'\"<>]*@")
"""A password with a slash in it, which ends the host for everyone else: what follows the colon is
no port."""


def scheme(uri: str) -> str:
    """Return the scheme before `://` in lower case; empty for a path."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", uri)
    return found[1].lower() if found else ""


def mask(uri: str) -> str:
    """Return the address with its login and the secret values of its query as `***`."""
    if not scheme(uri):
        return uri
    try:
        parts = urlsplit(uri)
    except ValueError:
        # Such as an open bracket; what cannot be taken apart is cut at the first doubtful sign.
        head, _, rest = uri.partition("://")
        return f"{head}://***@{rest.rpartition('@')[2]}" if "@" in rest else uri
    netloc = parts.netloc
    if "@" in netloc:
        netloc = f"***@{netloc.rpartition('@')[2]}"
    return urlunsplit(parts._replace(netloc=netloc, query=_masked_query(parts.query)))


def secret_in(uri: str) -> str | None:
    """Say what secret an address holds: `a login`, or `'token'` of its query; None for none."""
    if not scheme(uri):
        return None
    try:
        parts = urlsplit(uri)
    except ValueError:
        return "a login" if "@" in uri else None
    if "@" in parts.netloc:
        return "a login"
    for pair in re.split("[&;]", parts.query):
        name, given, _ = pair.partition("=")
        if given and SECRET_KEY.fullmatch(unquote(name)):
            return f"'{name}'"
    return None


def masked(text: str) -> str:
    """Return any text without the logins and secrets of the addresses in it."""
    if "://" not in text:
        return text
    text = USER.sub("***@", ODD_USER.sub("***@", text))
    return re.sub(r"(?<=[?&;])([\w.~%-]+)=([^&;#\s'\"<>]+)", _masked_pair, text)


def scrub(text: str, uri: str = "", shown: str = "") -> str:
    """Return the text of a foreign error in one short line, without secrets.

    Args:
        text: What a library said; it may quote the address in any form.
        uri: An address that must not appear.
        shown: What to write in its place.
    """
    if uri:
        text = text.replace(uri, shown or mask(uri))
    line = " ".join(text.split())
    line = masked(line)
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
    return line if len(line) <= 300 else line[:297] + "..."


def _masked_query(query: str) -> str:
    return re.sub(r"(?:^|(?<=[&;]))([^=&;]+)=([^&;]+)", _masked_pair, query)


def _masked_pair(found: re.Match[str]) -> str:
    return f"{found[1]}=***" if SECRET_KEY.fullmatch(unquote(found[1])) else found[0]


def plain_path(uri: str) -> str:
    """Return the path of a `file://` address; anything else as it is.

    Raises:
        SourceError: It names another machine.
    """
    if scheme(uri) != "file":
        return uri
    parts = urlsplit(uri)
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or not path.startswith("/") or "\0" in path:
        raise SourceError(
            f"{mask(uri)} is not a file of this machine; write file:///folder/video.mp4, or the "
            "path"
        )
    return path


def with_login(uri: str) -> str:
    """Return the address with the login that the credentials file has for its host.

    An address that has a login keeps it, and one whose host is not in the file stays as it is.

    Raises:
        UsageError: The file named by REEL3D_CREDENTIALS is missing or not in netrc's form.
    """
    parts = urlsplit(uri)
    if "@" in parts.netloc or not parts.hostname:
        return uri
    found = _logins().get(parts.hostname)
    if found is None:
        return uri
    user, password = found
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    return urlunsplit(parts._replace(netloc=f"{login}@{parts.netloc}"))


def _logins() -> dict[str, tuple[str, str]]:
    named = os.environ.get(CREDENTIALS)
    path = Path(named) if named else Path.home() / ".netrc"
    if not named and not path.is_file():
        return {}
    try:
        read = netrc.netrc(str(path))
    except OSError as error:
        # A ~/.netrc that cannot be read is ignored; one that was named must be readable.
        if not named:
            return {}
        raise UsageError(
            f"the credentials file {path} cannot be read ({error.strerror}); {CREDENTIALS} names it"
        ) from None
    except (netrc.NetrcParseError, UnicodeDecodeError) as error:
        # The parser quotes what it stumbled over, which may be a password.
        line = getattr(error, "lineno", None)
        where = f"line {line} of {path}" if line else str(path)
        raise UsageError(
            f"{where} is not in netrc's form; write: machine HOST login USER password PASSWORD"
        ) from None
    return {
        host: (user, password or "")
        for host, (user, _, password) in read.hosts.items()
        if host != "default"
    }
