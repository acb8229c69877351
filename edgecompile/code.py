"""Our code and the user's: digests of both, as a cached result is only as good as the code that made it, and where
the user's modules are found."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.machinery
import sys
from collections.abc import Iterator
from pathlib import Path

# What shows results, and has no part in making them.
_NO_PART = ("cli", "report")


@functools.lru_cache
def package_digest() -> str:
    """Digest of edgecompile's own code, as far as results depend on it."""
    package = Path(__file__).parent
    files = sorted(p for p in package.rglob("*.py") if p.relative_to(package).parts[0] not in _NO_PART)
    return _digest(files, package)


def module_digest(name: str) -> str | None:
    """Digest of a module of the user's: its file, or all files of its package; None where there is no source.

    Looked for as it will be imported, in the current folder first; nothing is imported.
    """
    top = name.partition(".")[0]
    spec = importlib.machinery.PathFinder.find_spec(top, [str(Path.cwd()), *sys.path])
    if spec is None:
        return None
    if spec.submodule_search_locations:
        folder = Path(next(iter(spec.submodule_search_locations)))
        return _digest(sorted(folder.rglob("*.py")), folder)
    if spec.origin is None or not Path(spec.origin).is_file():
        return None
    return _digest([Path(spec.origin)], Path(spec.origin).parent)


@contextlib.contextmanager
def working_folder_on_path() -> Iterator[None]:
    """The user's own modules are looked for in the current folder first."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def _digest(files: list[Path], root: Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()
