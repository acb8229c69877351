"""Which target a board is, and what a target asks for that a board lacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from edgecompile.target import Target

# LLVM's names of features (target files) by those of /proc/cpuinfo.
FEATURES = {
    "+neon": ("asimd", "neon"),
    "+dotprod": ("asimddp",),
    "+fullfp16": ("asimdhp",),
    "+i8mm": ("i8mm",),
    "+bf16": ("bf16",),
    "+sve": ("sve",),
    "+sve2": ("sve2",),
    "+avx2": ("avx2",),
    "+fma": ("fma",),
    "+avxvnni": ("avx_vnni",),
    "+avx512f": ("avx512f",),
    "+avx512bw": ("avx512bw",),
    "+avx512vnni": ("avx512_vnni",),
    "+amx-tile": ("amx_tile",),
    "+amx-int8": ("amx_int8",),
}


def lacking(target: Target, facts: Mapping[str, Any]) -> list[str]:
    """CPU features that code for the target may use and that the board doesn't have: it would die with SIGILL."""
    has = set(facts["features"])
    return [name for name in target.cpu.mattr if name in FEATURES and not has.intersection(FEATURES[name])]


def is_jetson(facts: Mapping[str, Any]) -> bool:
    return bool((facts["nvidia"] or {}).get("jetson"))


def is_member(target: Target, facts: Mapping[str, Any]) -> bool:
    """Whether a Jetson is the one that the target is, by the names that NVIDIA gives its boards in the device tree:
    "NVIDIA Jetson Orin Nano Developer Kit", "NVIDIA Orin NX Developer Kit"."""
    model = str((facts["nvidia"] or {}).get("jetson") or "")
    short = target.name.replace("NVIDIA", "").replace("Jetson", "").strip()
    return f" {short.lower()} " in f" {model.lower()} "


def best_target(facts: Mapping[str, Any], targets: Iterable[Target]) -> Target | None:
    """The target whose CPU the board has; of several the one whose number of cores and memory are next to it."""
    fitting = [
        t
        for t in targets
        if not t.local
        and t.cpu.arch == facts["machine"]
        and (t.gpu is None or is_member(t, facts))
        and "android" not in (t.cpu.mtriple or "")
        and not lacking(t, facts)
    ]

    def quality(target: Target) -> tuple[float, ...]:
        core = (target.cpu.mcpu or "generic").lower()
        same_core = core in str(facts["cpu"]).lower()
        cores = abs((target.cpu.cores or facts["cores"]) - facts["cores"])
        memory = abs((target.memory.ram_mb or facts["memory_mb"] or 0) - (facts["memory_mb"] or 0))
        # Of "Nano" and "Orin Nano", which both are in the name of an Orin Nano, the longer one is its own.
        named = len(target.name) if target.gpu or target.name.lower() in str(facts["cpu"]).lower() else 0
        # What names no core fits all of them, and better than what names another one.
        return named, same_core, target.cpu.mcpu in (None, "generic"), -cores, -memory

    return max(fitting, key=quality, default=None)
