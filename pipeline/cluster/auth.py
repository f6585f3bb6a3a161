"""The token of a Ray cluster: where it is looked for, in Ray's own order.

A token lets its bearer run anything on the cluster. It goes into one HTTP header and nowhere
else, and only to a server that has asked for it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import UsageError

__all__ = ["PLACES", "Token", "find_token"]

PLACES = "--token-file, RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"
LONGEST = 4096


@dataclass(frozen=True)
class Token:
    """A token and where it was found."""

    secret: str = field(repr=False)
    origin: str
    """In words, for messages: `RAY_AUTH_TOKEN`, or the path of a file."""


def find_token(file: Path | None = None) -> Token | None:
    """Return the token of the first place that is set; None where no place has one.

    Args:
        file: What `--token-file` names; it goes before the environment.

    Raises:
        UsageError: A file that was named cannot be read, or does not hold a token.
    """
    if file is not None:
        return _read(file, f"--token-file {file}")
    if text := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return _checked(text, "RAY_AUTH_TOKEN")
    if named := os.environ.get("RAY_AUTH_TOKEN_PATH", ""):
        return _read(Path(named), f"RAY_AUTH_TOKEN_PATH {named}")
    usual = Path.home() / ".ray" / "auth_token"
    return _read(usual, str(usual)) if usual.is_file() else None


def _read(path: Path, origin: str) -> Token:
    try:
        with path.open("rb") as file:
            text = file.read(LONGEST + 1).decode("ascii").strip()
    except OSError as error:
        raise UsageError(f"the token of {origin} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        text = ""
    return _checked(text, origin)


def _checked(text: str, origin: str) -> Token:
    # Anything else could break the header that carries it.
    if not text.isascii() or not text.isprintable() or " " in text or not 0 < len(text) <= LONGEST:
        raise UsageError(
            f"{origin} holds no token: one word of printable letters is allowed; "
            "`ray get-auth-token --generate` makes one"
        )
    return Token(text, origin)
