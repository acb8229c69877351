"""The content-addressed cache: finished stages by key, and the work folders of unfinished ones.

A stage's key is the digest of everything its result depends on, so nothing here is ever changed: an entry is
written beside, then published by one rename. A killed build leaves at most a work folder, which the next
build with the same key goes on from.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompile.artifact import Artifact
from edgecompile.errors import DiskFullError, OutputError

FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
WRITE_ERRNOS = (*FULL_ERRNOS, errno.EACCES, errno.EPERM, errno.EROFS)


def cache_root() -> Path:
    """EDGECOMPILE_CACHE, else the user's cache folder (XDG)."""
    if named := os.environ.get("EDGECOMPILE_CACHE"):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "edgecompile"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the operating system says of a write to `path` into an error of ours."""
    try:
        yield
    except OSError as problem:
        raise write_error(problem, path) from problem


def write_error(problem: OSError, path: Path) -> OutputError | DiskFullError:
    if problem.errno in FULL_ERRNOS:
        return DiskFullError(
            f"no space left while writing to {path}: {problem.strerror}",
            hint="free some space, or name another place with --out and EDGECOMPILE_CACHE; "
            "finished stages are kept and the same command goes on from there",
        )
    return OutputError(f"{path} can't be written: {problem.strerror or problem}", hint="name another folder")


@dataclass(frozen=True)
class Entry:
    """One published stage, for `cache show`."""

    key: str
    stage: str
    size: int
    used: float


class Cache:
    def __init__(self, root: Path | None = None) -> None:
        self.root = root or cache_root()

    def _entry(self, key: str) -> Path:
        return self.root / "stages" / key

    def work_folder(self, key: str) -> Path:
        """Survives a kill; removed when the stage is published."""
        folder = self.root / "work" / key
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def new_folder(self, key: str) -> Path:
        """An empty folder for a stage's files, in the same file system as the entry it becomes."""
        folder = self.root / "work" / key / "out"
        with writing(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        return folder

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Held while the stage runs: a second build with the same key waits, then finds it done. The kernel
        releases it when the process dies."""
        path = self.root / "locks" / key
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("w")
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
            path.unlink(missing_ok=True)

    def get(self, key: str) -> Artifact | None:
        entry = self._entry(key)
        record = entry / "artifact.json"
        if not record.is_file():
            return None
        os.utime(entry)  # what `cache prune` goes by
        return Artifact.from_json(json.loads(record.read_text()), entry)

    def put(self, key: str, artifact: Artifact) -> Artifact:
        """Publish the files in the stage's new folder: written whole or not at all."""
        folder = self.root / "work" / key / "out"
        entry = self._entry(key)
        with writing(entry):
            (folder / "artifact.json").write_text(json.dumps(artifact.to_json(folder), indent=1))
            entry.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(entry)
            shutil.rmtree(folder.parent, ignore_errors=True)
        published = self.get(key)
        if published is None:
            raise OutputError(f"{entry} vanished while it was written", hint="is another process pruning the cache?")
        return published

    def entries(self) -> list[Entry]:
        """All published stages, least recently used first."""
        found = []
        for record in (self.root / "stages").glob("*/artifact.json"):
            folder = record.parent
            data: dict[str, Any] = json.loads(record.read_text())
            stage = data["history"][-1]["stage"] if data["history"] else "?"
            found.append(Entry(folder.name, stage, folder_size(folder), folder.stat().st_mtime))
        return sorted(found, key=lambda entry: entry.used)

    def prune(self, *, older_than_days: float) -> int:
        """Remove entries and abandoned work folders not used for so long; bytes freed."""
        limit = time.time() - older_than_days * 86400
        freed = 0
        for folder in [*(self.root / "stages").glob("*"), *(self.root / "work").glob("*")]:
            if folder.stat().st_mtime <= limit:
                freed += folder_size(folder)
                shutil.rmtree(folder)
        return freed


def folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
