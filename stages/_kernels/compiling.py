"""Decorator of every numba kernel: compiler options and machine-code cache.

numba caches machine code in `__pycache__` beside a function's file, or in the user's cache folder
if that is not writable. With a read-only installation, every user would therefore compile
everything again. Here the package's own folder is always read; missing entries are written there
if possible, otherwise to the user's cache folder, or to NUMBA_CACHE_DIR if it is set.

An entry is valid for one signature, numba version, CPU, content of the source files and setting of
NUMBA_BOUNDSCHECK and NUMBA_OPT; files are compared by content, since copying changes their times.
Files are replaced atomically: if two processes compile at once one wins, and no partial entry is
ever read.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from numba import config, njit
from numba.core import caching

__all__ = ["KernelCache", "kernel_decorator"]

DEFAULTS: dict[str, Any] = {
    "nogil": True,
    # The default checks divisors, and that branch in the inner loop prevents SIMD: 10x slower.
    "error_model": "numpy",
    # Without nnan and ninf, which would remove the checks for NaN and infinity.
    "fastmath": {"reassoc", "contract", "arcp", "nsz", "afn"},
}

log = logging.getLogger(__name__)


def kernel_decorator(inlined: Iterable[Path] = ()) -> Callable[..., Callable[[Any], Any]]:
    """Return a decorator factory for the kernels of a package.

    Args:
        inlined: Files whose functions and constants are compiled into the kernels of other files:
            kernels are recompiled when one of them changes, as with the kernel's own file.
    """
    beside = tuple(inlined)

    def kernel(**options: Any) -> Callable[[Any], Any]:
        """Return a decorator that compiles a function on its first call, with these options."""

        def decorate(function: Any) -> Any:
            compiled = njit(**{**DEFAULTS, **options})(function)
            compiled._cache = KernelCache(function, beside)
            return compiled

        return decorate

    return kernel


class KernelCache(caching._Cache):
    """Cache of one function's machine code, in the package's folder and in the user's."""

    def __init__(self, function: Any, inlined: tuple[Path, ...]) -> None:
        stamp = _stamp((Path(function.__code__.co_filename), *inlined))
        self._levels: list[Any] = []
        for locator in (_PackageLocator, _UserLocator):
            try:
                self._levels.append(_level(locator, stamp)(function))
            except RuntimeError:
                # The user's folder cannot be created: nothing is written there.
                log.debug("no user cache folder for %s", function.__qualname__)

    @property
    def cache_path(self) -> str:
        """Folder that is searched first."""
        return self._levels[0].cache_path if self._levels else ""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the machine code of a signature, or None."""
        for level in self._levels:
            try:
                found = level.load_overload(sig, target_context)
            except Exception as error:
                # A damaged entry is recompiled and replaced.
                log.debug("%s cannot be used: %s", level.cache_path, error)
                continue
            if found is not None:
                return found
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Write the machine code of a signature to the first writable folder."""
        for level in self._levels[1:] if config.CACHE_DIR else self._levels:
            try:
                _save(level, sig, data)
                return
            except OSError as error:
                log.debug("%s cannot be written: %s", level.cache_path, error)

    def enable(self) -> None:
        """Enable the cache."""
        for level in self._levels:
            level.enable()

    def disable(self) -> None:
        """Disable the cache."""
        for level in self._levels:
            level.disable()

    def flush(self) -> None:
        """Remove all entries."""
        for level in self._levels:
            level.flush()


def _save(level: Any, sig: Any, data: Any) -> None:
    try:
        level.save_overload(sig, data)
    except OSError:
        raise
    except Exception:
        # The index is damaged: start a new one.
        level.flush()
        level.save_overload(sig, data)


class _PackageLocator(caching._CacheLocator):
    """The `__pycache__` of the function's file, whether or not it is writable."""

    stamp = ""

    def __init__(self, function: Any, file: str) -> None:
        self._line = function.__code__.co_firstlineno
        self._path = str(Path(file).parent / "__pycache__")

    def get_cache_path(self) -> str:
        return self._path

    def get_source_stamp(self) -> str:
        return self.stamp

    def get_disambiguator(self) -> str:
        return str(self._line)

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> Any:
        return cls(py_func, py_file)


class _UserLocator(caching.UserWideCacheLocator):
    """The user's cache folder, or NUMBA_CACHE_DIR."""

    stamp = ""

    def __init__(self, py_func: Any, py_file: str) -> None:
        super().__init__(py_func, py_file)
        if config.CACHE_DIR:
            self._cache_path = str(
                Path(config.CACHE_DIR) / self.get_suitable_cache_subpath(py_file)
            )

    def get_source_stamp(self) -> str:
        return self.stamp


def _level(locator: type[Any], stamp: str) -> type[Any]:
    """Return numba's function cache restricted to this locator."""
    located = type(locator.__name__, (locator,), {"stamp": stamp})
    impl = type("_Impl", (caching.CompileResultCacheImpl,), {"_locator_classes": [located]})
    return type("_Level", (caching.FunctionCache,), {"_impl_class": impl})


@cache
def _stamp(files: tuple[Path, ...]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    # Not part of numba's own index: code without checks would be taken for checked code.
    digest.update(f"{config.BOUNDSCHECK} {config.OPT} {config.DEBUGINFO_DEFAULT}".encode())
    return digest.hexdigest()
