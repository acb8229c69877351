"""What a board without internet needs to run models: wheels, found here for its Python, architecture and glibc."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgecompile.cache import Cache
from edgecompile.errors import ProvisioningError

OLDEST_PYTHON = (3, 8)
# Newest first. tflite-runtime was built for NumPy 1.
_RUNTIMES = (("ai-edge-litert",), ("tflite-runtime", "numpy<2"))
_PIP = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check")
_FIRST_GLIBC = 17  # minor of the manylinux tags there are: manylinux_2_17 is the oldest in use


@dataclass(frozen=True)
class Platform:
    """What decides which wheels a board can take. machine: as `uname -m` says. glibc: its minor version."""

    python: tuple[int, int]
    machine: str
    glibc: int

    @staticmethod
    def of(facts: Mapping[str, Any], name: str) -> Platform:
        """From what the runner tells; ProvisioningError for a board that no wheel can serve."""
        major, minor = (int(part) for part in facts["python"].split(".")[:2])
        if (major, minor) < OLDEST_PYTHON:
            raise ProvisioningError(
                f"{name} has Python {major}.{minor}, {'.'.join(map(str, OLDEST_PYTHON))} or newer is needed",
                hint="a newer python3 on the board",
            )
        glibc = facts["glibc"]
        if not glibc:
            raise ProvisioningError(
                f"{name} has no glibc, which the wheels of LiteRT need", hint="a system with glibc, or --runtime system"
            )
        return Platform((major, minor), facts["machine"], int(glibc.split(".")[1]))

    @property
    def tags(self) -> list[str]:
        """As pip wants them: it takes each to the letter."""
        known = [f"manylinux_2_{minor}_{self.machine}" for minor in range(self.glibc, _FIRST_GLIBC - 1, -1)]
        return [*known, f"manylinux2014_{self.machine}", f"linux_{self.machine}"]

    def __str__(self) -> str:
        return f"Python {self.python[0]}.{self.python[1]}, {self.machine}, glibc 2.{self.glibc}"


@dataclass(frozen=True)
class Wheels:
    """A runtime with all it needs. id: of these very files."""

    files: tuple[Path, ...]

    @property
    def id(self) -> str:
        return hashlib.sha256("\n".join(sorted(path.name for path in self.files)).encode()).hexdigest()[:16]

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files)


def wheels(platform: Platform, cache: Cache) -> Wheels:
    """The newest runtime that there is for the platform: from the cache folder, else from the package index.

    Errors: ProvisioningError where no runtime has wheels for it, or the index can't be asked.
    """
    key = hashlib.sha256(json.dumps([asdict(platform), _RUNTIMES]).encode()).hexdigest()[:16]
    folder = cache.root / "wheels" / key
    if not folder.is_dir():
        with cache.lock(f"wheels-{key}"):
            if not folder.is_dir():
                _download(platform, folder)
    os.utime(folder)  # what `cache prune` goes by
    return Wheels(tuple(sorted(folder.glob("*.whl"))))


def _chosen(platform: Platform) -> list[str]:
    python = ".".join(map(str, platform.python))
    tags = [word for tag in platform.tags for word in ("--platform", tag)]
    return ["--only-binary=:all:", "--implementation", "cp", "--python-version", python, *tags]


def _download(platform: Platform, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    said = []
    for packages in _RUNTIMES:
        with tempfile.TemporaryDirectory(dir=folder.parent, suffix=".tmp") as scratch:
            done = subprocess.run(
                [*_PIP, "--dest", scratch, *_chosen(platform), *packages],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode == 0:
                shutil.move(scratch, folder)
                Path(scratch).mkdir()  # for its own removal
                return
            if "No module named pip" in done.stderr:
                raise ProvisioningError(
                    f"pip, which finds a runtime for {platform}, is not installed here beside {sys.executable}",
                    hint=f"{sys.executable} -m ensurepip; else a runtime of the board's own and --runtime system",
                )
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            said.append(
                f"{packages[0]}: {errors[-1].removeprefix('ERROR: ') if errors else done.stderr.strip()[-300:]}"
            )
            if "No matching distribution" not in done.stderr or "Retrying" in done.stderr:
                break  # the index wasn't asked: an older one in place of what it may have would be kept for good
    raise ProvisioningError(
        f"no runtime was found for {platform}: {'; '.join(said)}",
        hint="with internet here once they are kept; else a runtime of the board's own and --runtime system",
    )
