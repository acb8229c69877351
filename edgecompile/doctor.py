"""What is installed, what is missing for which target, and how to get it.

Runs on the standard library and click alone: it must have its say where everything else is missing.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
from dataclasses import asdict, dataclass
from typing import Any

from edgecompile import __version__
from edgecompile.environment import misfits
from edgecompile.errors import EdgecompileError, MissingDependencyError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_BOUND = re.compile(r"(>=|<=|==|!=|<|>)\s*([0-9][0-9.]*)")


@dataclass(frozen=True)
class Package:
    """extra: the optional feature it belongs to, None for the base install. installed: None where it is absent."""

    name: str
    required: str
    installed: str | None
    extra: str | None

    @property
    def fits(self) -> bool:
        return self.installed is not None and satisfies(self.installed, self.required)


@dataclass(frozen=True)
class Diagnosis:
    """targets: {id: what is missing, None where nothing is}. problems: what keeps the main job from running; cures:
    commands that mend those of packages that don't fit together."""

    system: dict[str, Any]
    packages: tuple[Package, ...]
    data: dict[str, Any]
    cache: dict[str, Any]
    targets: dict[str, str | None]
    problems: tuple[str, ...]
    cures: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        packages = [{**asdict(package), "fits": package.fits} for package in self.packages]
        return {**asdict(self), "packages": packages}

    def enforce(self) -> None:
        """MissingDependencyError where `edgecompile build` can't run."""
        if self.problems:
            raise MissingDependencyError(
                f"edgecompile build can't run here: {'; '.join(self.problems)}",
                hint="; ".join(self.cures) or "pip install edgecompile",
            )


def diagnose() -> Diagnosis:
    """Look at this machine; changes nothing."""
    packages, python = _packages()
    cache = _cache()
    problems = [
        f"{p.name}{p.required} is needed, {p.installed or 'none'} is installed"
        for p in packages
        if p.extra is None and not p.fits
    ]
    unfit = misfits(ours=False)  # ours are listed one by one
    problems += map(str, unfit)
    here = platform.python_version()
    if not satisfies(here, python):
        problems.append(f"Python {python} is needed, this is {here}")
    if not cache["writable"]:
        problems.append(f"the cache folder {cache['folder']} can't be written (EDGECOMPILE_CACHE names another)")
    cures = tuple(dict.fromkeys(each.cure for each in unfit))
    return Diagnosis(_system(), packages, _data(), cache, _targets(), tuple(problems), cures)


def satisfies(version: str, required: str) -> bool:
    """Whether a version ("2.21.0") is in a range (">=2.21,<2.22"; "" is any). Suffixes such as rc1 don't count."""
    have = _numbers(version)
    for operator, bound in _BOUND.findall(required):
        want = _numbers(bound)
        size = max(len(have), len(want))
        a, b = ((*numbers, *(0,) * (size - len(numbers))) for numbers in (have, want))
        holds = {">=": a >= b, "<=": a <= b, "==": a == b, "!=": a != b, "<": a < b, ">": a > b}
        if not holds[operator]:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def _packages() -> tuple[tuple[Package, ...], str]:
    """(what edgecompile's metadata asks for, the range of Python versions)."""
    try:
        metadata = importlib.metadata.metadata("edgecompile")
        requirements = importlib.metadata.requires("edgecompile") or []
    except importlib.metadata.PackageNotFoundError:
        return (Package("edgecompile", "", None, None),), ""
    found = [package for text in requirements if (package := parse_requirement(text))]
    return tuple(found), metadata["Requires-Python"] or ""


def parse_requirement(text: str) -> Package | None:
    """The package of a line such as `numpy<3,>=1.26; extra == "test"`; None where it is for another Python."""
    requirement, _, marker = text.partition(";")
    name = _NAME.match(requirement.strip())
    if name is None:
        return None
    if not for_this_python(marker):
        return None
    extra = re.search(r"extra\s*==\s*[\"']([^\"']+)", marker)
    required = ",".join(f"{operator}{bound}" for operator, bound in sorted(_BOUND.findall(requirement), reverse=True))
    try:
        installed: str | None = importlib.metadata.version(name[0])
    except importlib.metadata.PackageNotFoundError:
        installed = None
    return Package(name[0], required, installed, extra[1] if extra else None)


def for_this_python(marker: str) -> bool:
    """Whether a requirement with this marker is for the Python that runs."""
    python = re.search(r"python_version\s*([<>=!]+\s*)[\"']([\d.]+)[\"']", marker)
    return python is None or satisfies("{}.{}".format(*sys.version_info), python[1] + python[2])


def _system() -> dict[str, Any]:
    system: dict[str, Any] = {
        "edgecompile": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "os": platform.platform(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
    }
    try:
        from edgecompile.ondevice import runner
    except ImportError as problem:
        return {**system, "cpu": platform.processor() or "not known", "features": [], "note": str(problem)}
    facts = runner.facts()
    return {**system, **{key: facts[key] for key in ("cpu", "features", "governor", "memory_mb")}}


def _data() -> dict[str, Any]:
    """The data sets' folder, and what each built-in model lacks (None: nothing)."""
    from edgecompile.catalog import DATA_VARIABLE

    found: dict[str, Any] = {"variable": DATA_VARIABLE, "folder": os.environ.get(DATA_VARIABLE) or None, "models": {}}
    try:
        from edgecompile import catalog

        for model in catalog.ids():
            found["models"][model] = None
            try:
                catalog.get(model).fingerprint_files(catalog.data_root())
            except EdgecompileError as problem:
                found["models"][model] = problem.message
    except ImportError as problem:
        found["note"] = str(problem)
    return found


def _cache() -> dict[str, Any]:
    from edgecompile.cache import cache_root, folder_size

    root = cache_root()
    existing = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    return {
        "folder": str(root),
        "bytes": folder_size(root) if root.is_dir() else 0,
        "free_bytes": shutil.disk_usage(existing).free,
        "writable": existing.is_dir() and os.access(existing, os.W_OK | os.X_OK),
    }


def _targets() -> dict[str, str | None]:
    """By target: what keeps a build for it from running, or from being measured, and the cure."""
    try:
        from edgecompile.backends import BACKENDS
        from edgecompile.target import load_target, target_ids
    except ImportError as problem:
        return {"all": str(problem)}
    found: dict[str, str | None] = {}
    for name in target_ids():
        target = load_target(name)
        reasons = []
        for backend in target.backends:
            known = BACKENDS.get(backend)
            reason = known.unavailable_reason(target) if known else "this edgecompile has no such backend"
            if reason:
                reasons.append(f"{backend}: {reason}")
        if not target.local:
            reasons.append("bundles are built and verified here; their latency is not measured without the device")
        found[name] = "; ".join(reasons) or None
    return found
