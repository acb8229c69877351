"""The content-addressed cache: finished stages by key, and the work folders of unfinished ones.

A stage's key is the digest of everything its result depends on, so nothing here is ever changed: an entry is
written beside, then published by one rename, and renamed away before it is deleted. A killed build leaves at
most a work folder, which the next build with the same key goes on from.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from edgecompile import sealed
from edgecompile.artifact import Artifact
from edgecompile.environ import environ
from edgecompile.errors import DiskFullError, OutputError

FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_HELD = (errno.EAGAIN, errno.EACCES)  # what flock says of a lock that another process has
_HOUR, _DAY = 3600, 86400  # seconds
SHA256 = "sha256_of_file"  # in the facts that are kept of a file
RECORD, DIGESTS = "artifact.json", "digests"  # of an entry, and in that


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


def system_error(problem: OSError, place: str) -> OutputError | DiskFullError | None:
    """What an error means whose operation isn't known: a read or a write. None where it may be a fault of ours.

    `place` names what was worked on, where the error itself names no file.
    """
    named = problem.filename
    path = Path(os.fsdecode(named)) if isinstance(named, str | bytes) else Path(place)
    if problem.errno in (*FULL_ERRNOS, errno.EROFS):
        return write_error(problem, path)
    if problem.errno in (errno.EACCES, errno.EPERM):
        return OutputError(f"{path} can't be read or written: permission denied", hint="look at its permissions")
    return None


@contextmanager
def usable(say: Callable[[str], None]) -> Iterator[None]:
    """Where the cache can't be written, an empty one in a temporary folder takes its place for as long as this is,
    here and in all processes that are started: for commands whose answer needs none of what is in it."""
    why = _unwritable(cache_root())
    if why is None:
        yield
        return
    with writing(Path("the folder for temporary files")), tempfile.TemporaryDirectory(prefix="edgecompile-") as folder:
        say(f"the cache {cache_root()} can't be written ({why}): a temporary folder takes its place")
        with environ("EDGECOMPILE_CACHE", folder):
            yield


def require_writable() -> None:
    """OutputError where the cache can't be written: what a build makes is kept there."""
    if why := _unwritable(cache_root()):
        raise OutputError(
            f"the cache {cache_root()} can't be written ({why})", hint="set EDGECOMPILE_CACHE to a folder of yours"
        )


def _unwritable(root: Path) -> str | None:
    """Why nothing can be written to the folder; None where it can."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root) as file:  # a mode says nothing of a file system that is read-only
            file.write(b"x")
    except OSError as problem:
        return problem.strerror or str(problem)
    return None


def write_file(path: Path, text: str) -> None:
    """Write `path` whole or not at all, whoever else writes it at the same time."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            scratch.write_text(text)
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)


@dataclass(frozen=True)
class Entry:
    """One published stage, for `cache show`."""

    key: str
    stage: str
    size: int
    used: float


class Cache:
    """say: told of what was found damaged, which counts as absent and so is made again."""

    def __init__(self, root: Path | None = None, *, say: Callable[[str], None] = lambda _: None) -> None:
        self.root = root or cache_root()
        self._say = say
        self._told: set[str] = set()
        self._checked: set[str] = set()

    def damaged(self, problem: sealed.Damaged) -> None:
        """Say it, once."""
        if str(problem) not in self._told:
            self._told.add(str(problem))
            self._say(f"{problem}: it is made again")

    def kept(self, path: Path) -> dict[str, Any] | None:
        """The facts that `keep` wrote there; None where there are none, or damaged ones."""
        try:
            found = sealed.unseal(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except sealed.Damaged as problem:
            self.damaged(problem)
            return None
        with suppress(OSError):
            os.utime(path)  # what `prune` goes by
        return found

    def is_whole(self, file: Path, kept: Mapping[str, Any] | None) -> bool:
        """Whether a file is the one that `kept` facts have the digest of."""
        try:
            if kept is not None:
                sealed.check(file.parent, {file.name: kept[SHA256]})
        except FileNotFoundError:
            return False
        except sealed.Damaged as problem:
            self.damaged(problem)
            return False
        return kept is not None

    def keep(self, path: Path, facts: Mapping[str, Any]) -> None:
        """JSON, written whole."""
        if path.is_dir():
            self._discard(path)
        write_file(path, sealed.seal(facts))

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
    def lock(self, key: str, *, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Held while the stage runs: a second build with the same key waits, then finds it done. The kernel
        releases it when the process dies. `waiting` is called where another process has it."""
        file = self._try_lock(key)
        if file is None:
            waiting()
        while file is None:
            file = self._try_lock(key, wait=True)
        with file:
            yield

    def _try_lock(self, key: str, *, wait: bool = False) -> IO[bytes] | None:
        """The open lock file, which holds the lock until it is closed; None where it wasn't got."""
        path = self.root / "locks" / key
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("ab")
            try:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
                # `prune` may have unlinked the file since it was opened: then others lock another one.
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    return file
            except FileNotFoundError:
                pass
            except OSError as problem:
                if problem.errno not in _HELD:
                    file.close()
                    raise
            except BaseException:
                file.close()
                raise
            file.close()
            return None

    def get(self, key: str) -> Artifact | None:
        """The published artifact; None where there is none, or one whose files aren't those that were published.

        An entry's files are read whole for that, once in the life of this cache: nothing changes them meanwhile.
        """
        entry = self._entry(key)
        found = _read(entry)
        if found is None:
            if (entry / RECORD).exists():
                self.damaged(sealed.Damaged(f"{entry} was changed or damaged since it was written"))
            return None
        if key not in self._checked:
            try:
                sealed.check(entry, sealed.unseal(entry / RECORD)[DIGESTS])
            except FileNotFoundError:
                return None
            except sealed.Damaged as problem:
                self.damaged(problem)
                return None
            self._checked.add(key)
        with suppress(FileNotFoundError):  # pruned since: what was read is then gone, which its user will say
            os.utime(entry)  # what `prune` goes by
        return found

    def put(self, key: str, artifact: Artifact, *, worked_as: str | None = None) -> Artifact:
        """Publish the files in the stage's new folder: written whole or not at all. worked_as: the key of its work
        folder, where that is another."""
        folder = self.root / "work" / (worked_as or key) / "out"
        entry = self._entry(key)
        with writing(entry):
            found = sealed.digests(folder)
            (folder / RECORD).write_text(sealed.seal({**artifact.to_json(folder), DIGESTS: found}))
            entry.parent.mkdir(parents=True, exist_ok=True)
            self._discard(entry)  # a broken one: `get` would have given a whole one
            folder.rename(entry)
            self._discard(folder.parent)
        self._checked.add(key)
        published = self.get(key)
        if published is None:
            raise OutputError(f"{entry} vanished while it was written", hint="is another process pruning the cache?")
        return published

    def _discard(self, folder: Path) -> None:
        """Remove a folder, if it is there, such that a kill never leaves half of it under its own name."""
        trash = self.root / "trash" / f"{folder.name}.{secrets.token_hex(4)}"
        trash.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            folder.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)  # what is left of it `prune` removes

    def entries(self) -> list[Entry]:
        """All published stages, least recently used first."""
        found = []
        for folder in (self.root / "stages").glob("*"):
            artifact = _read(folder)
            stage = artifact.history[-1].stage if artifact and artifact.history else "?"
            found.append(Entry(folder.name, stage, folder_size(folder), _used(folder)))
        return sorted(found, key=lambda entry: entry.used)

    def unused(self, days: float) -> tuple[list[str], list[Path], int]:
        """(keys of stages and work folders, other files, bytes of all) not used for so long.

        Other files are measurements, engines that boards built, wheels for boards, facts about data, answers of
        compilers, logs and what a killed prune left. A log of a process that is alive is in use, and so is a file
        that is being written.
        """
        limit = time.time() - days * _DAY
        folders = [
            folder
            for kind in ("stages", "work")
            for folder in sorted((self.root / kind).glob("*"))
            if _used(folder) <= limit
        ]
        files = [
            path
            for kind in ("measurements", "engines", "wheels", "tasks", "answers", "logs")
            for path in sorted((self.root / kind).glob("*"))
            if _used(path) <= (min(limit, time.time() - _HOUR) if path.suffix == ".tmp" else limit)
            and not (kind == "logs" and path.stem.isdecimal() and _alive(int(path.stem)))
        ]
        size = sum(map(folder_size, folders)) + sum(map(_size, files))
        return list(dict.fromkeys(folder.name for folder in folders)), files, size

    def prune(self, *, older_than_days: float) -> int:
        """Remove what was not used for so long, except what a running build holds the lock of; bytes freed."""
        keys, files, _ = self.unused(older_than_days)
        before = folder_size(self.root)
        with writing(self.root):
            for key in keys:
                self._remove(key, time.time() - older_than_days * _DAY)
            for path in files:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
            shutil.rmtree(self.root / "trash", ignore_errors=True)
            for path in (self.root / "locks").glob("*"):
                self._remove_lock(path.name)
        return max(0, before - folder_size(self.root))

    def _remove(self, key: str, limit: float) -> None:
        file = self._try_lock(key)
        if file is None:
            return
        with file:
            for folder in (self._entry(key), self.root / "work" / key):
                if folder.exists() and _used(folder) <= limit:  # a build may just have ended
                    self._discard(folder)

    def _remove_lock(self, key: str) -> None:
        """Unlinked while it is held, so that nobody holds a file that others can't see."""
        file = self._try_lock(key)
        if file is not None:
            with file:
                (self.root / "locks" / key).unlink(missing_ok=True)


def _read(entry: Path) -> Artifact | None:
    """A published artifact with all its files, whatever is in these; None for anything else."""
    try:
        found = Artifact.from_json(sealed.unseal(entry / RECORD), entry)
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if all(path.exists() for path in found.files.values()) else None


def _used(path: Path) -> float:
    """Seconds since the epoch; 0 for what is gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def folder_size(folder: Path) -> int:
    """Bytes of all files below; one that is deleted meanwhile counts nothing."""
    return sum(_size(Path(at) / name) for at, _, names in os.walk(folder) for name in names)


def _size(path: Path) -> int:
    try:
        return folder_size(path) if path.is_dir() else path.lstat().st_size
    except FileNotFoundError:
        return 0
