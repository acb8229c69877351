"""What a board without internet needs to run models: wheels, found here for its Python, architecture and glibc."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgecompile.cache import Cache
from edgecompile.errors import ProvisioningError
from edgecompile.ondevice.runner import PACKAGES
from edgecompile.sealed import Damaged, check, digests

_DIGESTS = "digests.json"  # of the wheels, beside them
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
    """A runtime with all it needs, or an engine beside one; `what` it is, for people. id: of these very files."""

    files: tuple[Path, ...]
    what: str = "a runtime"

    @property
    def id(self) -> str:
        return hashlib.sha256("\n".join(sorted(path.name for path in self.files)).encode()).hexdigest()[:16]

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files)

    def version(self, package: str) -> str:
        return next(v for name, v, *_ in (path.name.split("-") for path in self.files) if name == package)


def wheels(platform: Platform, cache: Cache) -> Wheels:
    """The newest runtime that there is for the platform: from the cache folder, else from the package index.

    Errors: ProvisioningError where no runtime has wheels for it, or the index can't be asked.
    """
    cure = "a runtime of the board's own and --runtime system"
    return Wheels(_kept([asdict(platform), _RUNTIMES], cache, lambda to: _download(platform, to, _RUNTIMES, cure)))


def engine(name: str, beside: Wheels, platform: Platform, cache: Cache) -> Wheels:
    """The newest of an engine's package that there is for the platform and the NumPy `beside` it, which is all that it
    needs to run a model; ProvisioningError as `wheels`."""
    package, numpy = PACKAGES[name], f"numpy=={beside.version('numpy')}"

    def download(folder: Path) -> None:
        _download(platform, folder, ((package, numpy),), f"leave it out (--without {name})")
        for path in folder.iterdir():
            if not path.name.startswith(f"{package}-"):
                path.unlink()

    return Wheels(_kept([asdict(platform), package, numpy], cache, download), package)


def _kept(of: object, cache: Cache, download: Callable[[Path], None]) -> tuple[Path, ...]:
    """The wheels of a folder in the cache that `download` makes, once."""
    key = hashlib.sha256(json.dumps(of).encode()).hexdigest()[:16]
    folder = cache.root / "wheels" / key
    if not _are_whole(folder, cache):
        with cache.lock(f"wheels-{key}"):
            if not _are_whole(folder, cache):
                folder.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(dir=folder.parent, suffix=".tmp") as scratch:
                    download(Path(scratch))
                    cache.keep(Path(scratch, _DIGESTS), digests(Path(scratch)))
                    shutil.rmtree(folder, ignore_errors=True)  # damaged ones
                    shutil.move(scratch, folder)
                    Path(scratch).mkdir()  # for its own removal
    os.utime(folder)  # what `cache prune` goes by
    return tuple(sorted(folder.glob("*.whl")))


def _are_whole(folder: Path, cache: Cache) -> bool:
    """Whether the wheels are those that were downloaded."""
    kept = cache.kept(folder / _DIGESTS)
    try:
        check(folder, kept or {})
    except FileNotFoundError:
        return False
    except Damaged as problem:
        cache.damaged(problem)
        return False
    return kept is not None


def _chosen(platform: Platform) -> list[str]:
    python = ".".join(map(str, platform.python))
    tags = [word for tag in platform.tags for word in ("--platform", tag)]
    return ["--only-binary=:all:", "--implementation", "cp", "--python-version", python, *tags]


def _download(platform: Platform, folder: Path, choices: Sequence[Sequence[str]], cure: str) -> None:
    """The first of the choices, packages with all they need, that there is for the platform."""
    said, hint = [], cure
    for packages in choices:
        done = subprocess.run(
            [*_PIP, "--dest", str(folder), *_chosen(platform), *packages],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            return
        if "No module named pip" in done.stderr:
            raise ProvisioningError(
                f"pip, which finds {packages[0]} for {platform}, is not installed here beside {sys.executable}",
                hint=f"{sys.executable} -m ensurepip; {cure}",
            )
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        said.append(f"{packages[0]}: {errors[-1].removeprefix('ERROR: ') if errors else done.stderr.strip()[-300:]}")
        if "No matching distribution" not in done.stderr or "Retrying" in done.stderr:
            hint = f"with internet here once they are kept; else {cure}"
            break  # the index wasn't asked: an older one in place of what it may have would be kept for good
    what = "no runtime" if choices is _RUNTIMES else f"no {choices[0][0]}"
    raise ProvisioningError(f"{what} was found for {platform}: {'; '.join(said)}", hint=hint)
