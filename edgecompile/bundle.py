"""Writing a bundle so that there is always a whole one: the last good bundle stays until the new one is complete."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from edgecompile import lfs
from edgecompile.artifact import sha256_file
from edgecompile.cache import Cache, writing
from edgecompile.errors import BundleError, ChangedFileError, OutputError
from edgecompile.manifest import check_manifest, read_manifest
from edgecompile.packing import SUFFIXES

PACKED = tuple(f"model.tflite{suffix}" for suffix in SUFFIXES.values())
MODEL, GOLDEN = "model.tflite", "golden.npz"
PARTS = ("manifest.json", MODEL, GOLDEN, "report.html", *PACKED)
CANDIDATES = "candidates"
GRAPH_SUFFIX = ".onnx"  # of what an engine was built from, beside it
AGAIN = "build the bundle again, or restore its files"

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fs.h
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)


def resolved(out: Path) -> Path:
    """The folder that `out` means: absolute and without symbolic links, so that it can be renamed."""
    try:
        return out.resolve()
    except RuntimeError as problem:  # links in a circle, before Python 3.13
        raise OutputError(f"{out}: {problem}", hint="name another folder with --out") from None


def check_output(out: Path) -> None:
    """OutputError before any work is done, where a bundle can't be written to `out` or something else is there.

    Writes nothing: parents that are missing are made when the bundle is.
    """
    place = resolved(out)
    with writing(out):
        if _exists(place):
            _check_ours(out, place)
        _exists(_beside(place, "new"))  # ENAMETOOLONG shows here
        above = place.parent
        while not _exists(above):
            above = above.parent
        if not above.is_dir():
            raise OutputError(f"{out} can't be written: {above} is not a folder", hint="name another folder with --out")
        if not os.access(above, os.W_OK | os.X_OK):
            raise OutputError(f"{out} can't be written: {above} is not writable", hint="name another folder with --out")


def _check_ours(out: Path, place: Path) -> None:
    """OutputError where what is at `place` isn't an empty folder or a whole bundle that can be replaced."""
    left_alone = f"{out} exists and is not a bundle: it is left alone"
    if not place.is_dir():
        raise OutputError(left_alone, hint="name another folder with --out")
    names = sorted(entry.name for entry in place.iterdir())
    foreign = [name for name in names if not _is_part(place / name)]
    if foreign:
        raise OutputError(f"{left_alone} ({foreign[0]!r} is no part of one)", hint="name another folder with --out")
    if names:
        try:
            read_manifest(place)
        except BundleError as problem:
            raise OutputError(
                f"{left_alone} ({problem.message})", hint="remove it if nothing in it is needed, or name another folder"
            ) from None
    if place == Path.cwd() or place.is_mount():
        what = "a mount point" if place.is_mount() else "the current folder"
        raise OutputError(
            f"{out} is {what}, which a bundle can't take the place of", hint=f"name a folder in it: --out {out / 'out'}"
        )


def _is_part(path: Path) -> bool:
    if path.is_symlink():
        return False
    return path.is_dir() if path.name == CANDIDATES else path.name in PARTS and path.is_file()


def _exists(path: Path) -> bool:
    """As Path.exists, but a link to nowhere is there too, and what else goes wrong is raised."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _beside(place: Path, kind: str) -> Path:
    return place.with_name(f".{place.name}.edgecompile-{kind}")


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A folder to write the new bundle in; it takes the place of `out` when the block ends without an error.

    Another build that writes to the same `out` waits for the end of the block.
    """
    place = resolved(out)
    new = _beside(place, "new")
    with _alone(place):
        with writing(out):
            _restore(place)
            check_output(out)  # it may have changed in the time that the build took
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
        try:
            yield new
            with writing(out):
                _swap(new, place)
        except BaseException:
            _restore(place)
            raise
        finally:
            shutil.rmtree(new, ignore_errors=True)


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """In the cache, so that the user's folder stays clean."""
    with Cache().lock(f"out-{hashlib.sha256(os.fsencode(place)).hexdigest()[:32]}"):
        yield


def _swap(new: Path, place: Path) -> None:
    """`new` takes the place of `place`; in one step where the system can do that."""
    if not _exists(place):
        new.rename(place)
    elif not _exchange(new, place):
        old = _beside(place, "old")
        place.rename(old)
        new.rename(place)
        shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders atomically; False where the system or its file system can't."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # Linux, glibc 2.28 or musl 1.2.6
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(other))


def _restore(place: Path) -> None:
    """Undo a swap of two renames that was killed between them."""
    old = _beside(place, "old")
    if old.is_dir():
        if _exists(place):
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(place)


def file_facts(folder: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """{file name: {sha256, bytes}} of the bundle's files, for its manifest."""
    return {
        name: {"sha256": sha256_file(folder / name), "bytes": (folder / name).stat().st_size}
        for name in names
        if (folder / name).is_file()
    }


def find_bundle(path: Path) -> dict[str, Any]:
    """The manifest of the bundle at `path`, as it is there."""
    place = resolved(path)
    if not _exists(place) and _beside(place, "old").is_dir():
        with _alone(place):
            _restore(place)
    if not path.is_dir():
        raise BundleError(f"{path}: no such bundle", hint="give the folder that edgecompile build wrote")
    return read_manifest(path)


def open_bundle(path: Path) -> dict[str, Any]:
    """The manifest of the bundle at `path`, which is the build's own and whose files are all there.

    What is in them `unchanged` says, or `changed_files`: nothing of a bundle may be loaded before.
    ChangedFileError for a manifest that was changed, BundleError for what is no bundle.
    """
    manifest = find_bundle(path)
    check_manifest(path, manifest)
    foreign = [name for name in manifest["files"] if not _is_inside(name)]
    if foreign:
        raise BundleError(
            f"{path / 'manifest.json'} names {foreign[0]!r}, which is no file of a bundle", hint="build it again"
        )
    missing = [name for name in manifest["files"] if not (path / name).is_file()]
    if missing:
        raise BundleError(f"{path} lacks {', '.join(missing)}, which its manifest names", hint="build it again")
    return manifest


def _is_inside(name: str) -> bool:
    """Whether a name in a manifest is that of a part of the bundle, or of a candidate's file."""
    folder, _, file = name.rpartition("/")
    return name in PARTS or (folder == CANDIDATES and PurePosixPath(file).name == file and file != "..")


def winner(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of the manifest's candidates the one that won. BundleError where there is none, or its file is no part of the
    bundle: whatever else lies there is never loaded."""
    name = manifest["winner"]["id"]
    found = next((each for each in manifest["candidates"] if each["id"] == name), None)
    if found is None:
        raise BundleError(f"the manifest is damaged: its winner {name!r} is none of its candidates", hint=AGAIN)
    if found["file"] not in manifest["files"]:
        raise BundleError(f"the manifest is damaged: {found['file']!r} of {name!r} is none of its files", hint=AGAIN)
    chosen: Mapping[str, Any] = found
    return chosen


def loaded_files(manifest: Mapping[str, Any]) -> frozenset[str]:
    """Names of the files that are loaded to run the bundle: the model's, the winner's, and the graph beside that."""
    file = winner(manifest)["file"]
    graph = str(PurePosixPath(file).with_suffix(GRAPH_SUFFIX))
    return frozenset({MODEL, GOLDEN, file, *([graph] if graph in manifest["files"] else [])})


def changed_files(path: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Names of files whose content is not what the manifest says."""
    return [name for name, facts in manifest["files"].items() if _is_changed(path / name, facts)]


def unchanged(path: Path, manifest: Mapping[str, Any], *names: str) -> None:
    """ChangedFileError, before anything of them is loaded, where one of these files isn't the one that was built."""
    changed = [name for name in dict.fromkeys(names) if _is_changed(path / name, manifest["files"][name])]
    if changed:
        raise ChangedFileError(f"{path}: {told(path, changed)} changed since the build: not loaded", hint=AGAIN)


def told(path: Path, names: Sequence[str]) -> str:
    """The names, with what a file is where that says why it isn't the one that was built."""
    return ", ".join(f"{name} (a pointer of Git LFS: {lfs.CURE})" if lfs.is_pointer(path / name) else name
                     for name in names)  # fmt: skip


def _is_changed(file: Path, facts: Mapping[str, Any]) -> bool:
    return bool(file.stat().st_size != facts["bytes"] or sha256_file(file) != facts["sha256"])
