"""Running the command line as a user does, and looking at what it leaves."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompile.manifest import write_manifest


@dataclass(frozen=True)
class Run:
    code: int
    out: str
    err: str


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "edgecompile", *map(str, arguments)]


def left_in_cache(bundle: Path, cache: Path, stage: str) -> Path:
    """The model that a stage of the bundle's own build left; builds beside it may have left others of that stage."""
    (made,) = (r for r in json.loads((bundle / "manifest.json").read_text())["history"] if r["stage"] == stage)
    folder = cache / "stages" / str(made["key"])
    return folder / str(json.loads((folder / "artifact.json").read_text())["files"]["model"])


def edit_manifest(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """A manifest that says something else and is whole all the same: its own digest is of what it says then."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    change(manifest)
    write_manifest(bundle, manifest)


def patch_sha256(bundle: Path, name: str) -> None:
    """The manifest of a bundle that was built with the file as it is now."""
    content = (bundle / name).read_bytes()
    facts = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    edit_manifest(bundle, lambda manifest: manifest["files"][name].update(facts))


def command_lines() -> list[bytes]:
    """Of all processes; one may end while it is read."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(path.read_bytes())
    return found


def run_cli(
    *arguments: str | Path,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    timeout: float = 300,
    before: Callable[[], None] | None = None,
) -> Run:
    """Run the command to its end. `before` is called in the child, before the command starts."""
    done = subprocess.run(
        command(*arguments),
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        preexec_fn=before,
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr)


def run_until(
    line_part: str, *arguments: str | Path, cwd: Path, env: Mapping[str, str], send: int = signal.SIGKILL
) -> Run:
    """Run the command and send it a signal as soon as a line with `line_part` shows on stderr.

    Only the command itself is signalled: what it started has to notice by itself.
    """
    process = subprocess.Popen(
        command(*arguments),
        cwd=cwd,
        env={**os.environ, **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_hear_interrupts,
    )
    seen = []
    assert process.stderr is not None
    for line in process.stderr:
        seen.append(line)
        if line_part in line:
            process.send_signal(send)
            break
    rest = process.stderr.read()
    return Run(process.wait(timeout=60), "", "".join(seen) + rest)


def _hear_interrupts() -> None:
    """What a shell starts in the background ignores SIGINT, and so does all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def digest(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder, by its relative name."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
