"""Writing a bundle so that there is always a whole one: the last good bundle stays until the new one is complete."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgecompile.artifact import sha256_file
from edgecompile.cache import writing
from edgecompile.errors import BundleError, OutputError
from edgecompile.manifest import read_manifest

PARTS = ("manifest.json", "model.tflite", "golden.npz", "report.html")


def check_output(out: Path) -> None:
    """OutputError before any work is done, where a bundle can't be written to `out` or something else is there."""
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / "manifest.json").is_file()):
        raise OutputError(f"{out} exists and is not a bundle: it is left alone", hint="name another folder with --out")
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        probe = out.parent / f".{out.name}.probe"
        probe.write_bytes(b"")
        probe.unlink()


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A folder to write the new bundle in; it takes the place of `out` when the block ends without an error."""
    new, old = out.with_name(f".{out.name}.new"), out.with_name(f".{out.name}.old")
    with writing(out):
        restore(out)
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
    try:
        with writing(out):
            yield new
            if out.exists():
                out.rename(old)
            new.rename(out)
            shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        restore(out)
        shutil.rmtree(new, ignore_errors=True)
        raise


def restore(out: Path) -> None:
    """Undo a swap that was killed between its two renames."""
    old = out.with_name(f".{out.name}.old")
    if old.is_dir():
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(out)


def file_facts(folder: Path, names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """{file name: {sha256, bytes}} of the bundle's files, for its manifest."""
    return {
        name: {"sha256": sha256_file(folder / name), "bytes": (folder / name).stat().st_size}
        for name in names
        if (folder / name).is_file()
    }


def open_bundle(path: Path) -> dict[str, Any]:
    """The manifest of the bundle at `path`, whose files are all there."""
    if not path.is_dir():
        raise BundleError(f"{path}: no such bundle", hint="give the folder that edgecompile build wrote")
    restore(path)
    manifest = read_manifest(path)
    missing = [name for name in manifest["files"] if not (path / name).is_file()]
    if missing:
        raise BundleError(f"{path} lacks {', '.join(missing)}, which its manifest names", hint="build it again")
    return manifest


def changed_files(path: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Names of files whose content is not what the manifest says."""
    return [name for name, facts in manifest["files"].items() if sha256_file(path / name) != facts["sha256"]]
