"""The key-value store of the Ray cluster: small JSON rows that every process of it can read.

Ray keeps it for its own libraries (`ray.experimental.internal_kv`); there is no public counterpart.
"""

from __future__ import annotations

import json
from typing import Any

__all__ = ["delete", "get", "keys", "put"]


def put(key: bytes, row: dict[str, Any]) -> None:
    """Store a row, replacing the one under the same key."""
    _store()._internal_kv_put(key, json.dumps(row).encode(), overwrite=True)


def get(key: bytes) -> dict[str, Any] | None:
    """Return a row, or None."""
    raw = _store()._internal_kv_get(key)
    return json.loads(raw) if raw else None


def keys(prefix: bytes) -> list[bytes]:
    """Return the keys that begin so."""
    return _store()._internal_kv_list(prefix)


def delete(key: bytes) -> None:
    """Remove a row."""
    _store()._internal_kv_del(key)


def _store() -> Any:
    from ray.experimental import internal_kv

    return internal_kv
