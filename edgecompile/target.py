"""Targets: what a model is built for. One TOML file each in targets/, data and never code."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from edgecompile.errors import TargetError, perhaps
from edgecompile.toml import build, read_toml
from edgecompile.units import MOST_THREADS, parse_size

SIZE, LATENCY, ACCURACY = PREFERENCES = ("size", "latency", "accuracy")
# Recipes that need no training, for a target to begin with: they work whatever the model is.
FIRST = ("int8", "float16", "dynamic", "float")


@dataclass(frozen=True)
class Cpu:
    """`mtriple`, `mcpu` and `mattr` are LLVM's names for the processor; `cores` is what the board has."""

    arch: str
    cores: int | None = None
    mtriple: str | None = None
    mcpu: str | None = None
    mattr: tuple[str, ...] = ()


@dataclass(frozen=True)
class Memory:
    ram_mb: int | None = None


@dataclass(frozen=True)
class Gpu:
    """NVIDIA's. dla: deep learning accelerators beside it. jetpack, l4t, cuda, tensorrt: the newest for the board."""

    name: str
    compute_capability: str
    dla: int
    jetpack: str
    l4t: str
    cuda: str
    tensorrt: str


@dataclass(frozen=True)
class Limits:
    """Promises of the target itself; a build over them fails. Sizes such as "512 KiB"."""

    max_size: str | None = None


@dataclass(frozen=True)
class Target:
    """`local`: the target is this machine, so what is measured here counts for it.

    `first`: the recipe that a build without --recipe makes first. `prefers`: what makes one model better than another
    here, of PREFERENCES; the first that differs decides.
    `family`: a name for several boards, of which the one with `family_default` is taken where nothing says which it is.
    `if_installed`: backends that are tried besides `backends`, where their packages are there and take the model.
    `threads`: how many an inference may use, or several numbers that engines compete with, the preferred one first.
    `io`: the default type of the bundle's inputs and outputs. `min_offload` is the share of operators that
    must run on the accelerator, where the target has one.
    """

    id: str
    name: str
    summary: str
    cpu: Cpu
    first: str
    prefers: tuple[str, ...]
    backends: tuple[str, ...]
    if_installed: tuple[str, ...] = ()
    local: bool = False
    io: str = "float"
    threads: int | tuple[int, ...] = 1
    memory: Memory = field(default_factory=Memory)
    limits: Limits = field(default_factory=Limits)
    notes: tuple[str, ...] = ()
    gpu: Gpu | None = None
    family: str | None = None
    family_default: bool = False

    @property
    def max_size(self) -> int | None:
        return parse_size(self.limits.max_size) if self.limits.max_size else None

    @property
    def numbers_of_threads(self) -> tuple[int, ...]:
        return (self.threads,) if isinstance(self.threads, int) else tuple(dict.fromkeys(self.threads))

    def verified_with(self) -> str:
        """What can be verified of a bundle for this target on this machine."""
        if self.local:
            return "accuracy, parity and latency: measured on this machine"
        return "accuracy and parity with LiteRT on this machine; latency: not measured without a device"


def targets_folder() -> Path:
    return Path(str(resources.files("edgecompile.targets")))


def target_ids() -> list[str]:
    return sorted(path.stem for path in targets_folder().glob("*.toml"))


def load_target(name: str) -> Target:
    """The target of that id, or of a .toml file of the user's own."""
    if name.endswith(".toml"):
        return read_target(Path(name))
    if name not in target_ids():
        raise TargetError(f"unknown target {name!r}", hint=perhaps(name, target_ids()))
    return read_target(targets_folder() / f"{name}.toml")


def family(name: str) -> list[Target]:
    """Its members, the default one first; none where there is no family of that name."""
    members = [target for target in map(load_target, target_ids()) if target.family == name]
    return sorted(members, key=lambda target: not target.family_default)


def read_target(path: Path) -> Target:
    data: dict[str, Any] = read_toml(path, TargetError)
    target = build(Target, data, str(path), TargetError)
    if target.id != path.stem:
        raise TargetError(f"{path}: id is {target.id!r}, expected the file's name, {path.stem!r}")
    if not target.backends:
        raise TargetError(f"{path}: backends is empty, expected one at least", hint="litert runs everywhere")
    if target.first not in FIRST:
        raise TargetError(
            f"{path}: first is {target.first!r}, expected one of {', '.join(FIRST)}",
            hint="a recipe that trains can beat it, within --budget-minutes; name it with --recipe to have it alone",
        )
    if not target.prefers or len(set(target.prefers)) < len(target.prefers) or set(target.prefers) - set(PREFERENCES):
        raise TargetError(
            f"{path}: prefers is {list(target.prefers)}, expected one or more of {', '.join(PREFERENCES)}, each once"
        )
    if min(target.numbers_of_threads, default=0) < 1:
        raise TargetError(f"{path}: threads is {data['threads']}, expected 1 or more, or a list of such numbers")
    if max(target.numbers_of_threads) > MOST_THREADS:
        raise TargetError(f"{path}: threads is {data['threads']}, expected {MOST_THREADS} at most")
    if target.io not in ("float", "int8"):
        raise TargetError(f"{path}: io is {target.io!r}, expected 'float' or 'int8'")
    if target.limits.max_size:
        try:
            parse_size(target.limits.max_size)
        except ValueError as problem:
            raise TargetError(f"{path}: limits: max_size: {problem}") from None
    return target
