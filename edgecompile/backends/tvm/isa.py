"""Instruction sets as data: what schedules and intrinsics may use, and what a CPU must have for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompile.devices.matching import FEATURES
from edgecompile.ondevice import runner
from edgecompile.target import Target


@dataclass(frozen=True)
class InstructionSet:
    """needs: features by which a CPU is known to run it, by the names that the on-device runner tells (`edgecompile
    devices probe`). implied: what LLVM may use besides on `mcpu`, by the names of /proc/cpuinfo.

    lanes: float32 numbers in a vector register. registers: vector registers there are.
    dot: the intrinsic that multiplies bytes and adds them to int32 (intrinsics/), None where there is none.
    matrix: the one that does so with blocks of them, where there is one beside it.
    unsigned: int8 activations are kept as uint8, 128 more, because the dot product wants them so.
    tiles: whether there are tile registers (AMX), for large convolutions of single pixels.
    cflags: with which a C compiler may use it too.
    halves: whether the CPU multiplies the halves of a register one after the other (AMD's Zen 4), so that half as many
    lanes cost half as much.
    """

    name: str
    arch: str
    mcpu: str
    mattr: tuple[str, ...]
    needs: tuple[str, ...]
    lanes: int
    registers: int
    dot: str | None
    unsigned: bool
    cflags: tuple[str, ...] = ()
    implied: tuple[str, ...] = ()
    tiles: bool = False
    matrix: str | None = None
    halves: bool = False

    @property
    def features(self) -> tuple[str, ...]:
        """What a CPU must have to run it, by the names of /proc/cpuinfo."""
        return (*self.needs, *self.implied)

    def sums(self, blocks: int) -> int:
        """Registers for the sums of dot products with so many blocks of channels; others hold what is multiplied, which
        x86 may read from memory."""
        if self.arch == "aarch64":
            return self.registers - 8
        return self.registers // 2 - (blocks > 1 or self.registers < 32)

    @property
    def unrolled(self) -> int:
        """Turns of the innermost loop over input channels that are written out."""
        return 4 if self.arch == "aarch64" else 1

    def microseconds(self, macs: int, *, dots: bool) -> float:
        """About what so many multiply-accumulates take one core: one instruction a cycle at 1.5 GHz. dots: by the dot
        product of bytes."""
        each = {None: 1, "madd512": 2, "madd256": 2, "smull": 2}.get(self.dot, 4) if dots else 1
        return macs / (1500 * self.lanes * each)

    @property
    def words(self) -> bool:
        """Whether depthwise convolutions of bytes multiply 16-bit integers: ARM adds their products to int32 in one
        instruction. Elsewhere floats are quicker."""
        return self.arch == "aarch64"

    @property
    def dots(self) -> tuple[tuple[str, int], ...]:
        """(intrinsic, groups of input channels it takes at once) of dot products, the most first."""
        if self.dot is None:
            return ()
        return (("sdot-4", 4), ("sdot-2", 2), ("sdot", 1)) if self.dot == "sdot" else ((self.dot, 1),)

    @property
    def each(self) -> str | None:
        """The dot product with factors of each lane's own, for depthwise convolutions."""
        return f"{self.dot}-each" if self.dot in ("vnni512", "vnni256") else None

    @property
    def products(self) -> tuple[tuple[str, int], ...]:
        """The same for floats, where LLVM's own vectors would load each factor by itself."""
        return (("fmla-4", 4),) if self.arch == "aarch64" else ()

    def target(self) -> dict[str, Any]:
        """As TVM's Target takes it."""
        found: dict[str, Any] = {"kind": "llvm", "mtriple": f"{self.arch}-linux-gnu", "mcpu": self.mcpu}
        return {**found, "mattr": list(self.mattr)} if self.mattr else found


_AVX2 = ("avx2", "fma")
_AVX512 = (*_AVX2, "avx512f", "avx512bw")
_C_AVX2 = ("-mavx2", "-mfma")
_C_AVX512 = (*_C_AVX2, "-mavx512f", "-mavx512bw")
_HASWELL = ("bmi1", "bmi2", "f16c", "abm", "movbe", "popcnt")
_SKYLAKE = (*_HASWELL, "avx512cd", "avx512dq", "avx512vl")
_CORTEX_A76 = ("asimdhp", "asimdrdm", "atomics", "crc32")

# The best first, by architecture.
INSTRUCTION_SETS = (
    InstructionSet("avx512-amx", "x86_64", "cascadelake", ("+amx-tile", "+amx-int8"),
                   (*_AVX512, "avx512_vnni", "amx_tile", "amx_int8"), 16, 32, "vnni512", True,
                   (*_C_AVX512, "-mavx512vnni", "-mamx-tile", "-mamx-int8"), _SKYLAKE, tiles=True),
    InstructionSet("avx512-vnni", "x86_64", "cascadelake", (), (*_AVX512, "avx512_vnni"), 16, 32, "vnni512", True,
                   (*_C_AVX512, "-mavx512vnni"), _SKYLAKE),
    InstructionSet("avx512", "x86_64", "skylake-avx512", (), _AVX512, 16, 32, "madd512", True, _C_AVX512, _SKYLAKE),
    InstructionSet("avx-vnni", "x86_64", "alderlake", (), (*_AVX2, "avx_vnni"), 8, 16, "vnni256", True,
                   (*_C_AVX2, "-mavxvnni"), _HASWELL),
    InstructionSet("avx2", "x86_64", "haswell", (), _AVX2, 8, 16, "madd256", True, _C_AVX2, _HASWELL),
    InstructionSet("neon-i8mm", "aarch64", "cortex-a76", ("+neon", "+dotprod", "+i8mm"), ("asimddp", "i8mm"), 4, 32,
                   "sdot", False, ("-march=armv8.2-a+dotprod+i8mm",), _CORTEX_A76, matrix="smmla"),
    InstructionSet("neon-dotprod", "aarch64", "cortex-a76", ("+neon", "+dotprod"), ("asimddp",), 4, 32, "sdot", False,
                   ("-march=armv8.2-a+dotprod",), _CORTEX_A76),
    InstructionSet("neon", "aarch64", "cortex-a53", ("+neon",), (), 4, 32, "smull", False),
)  # fmt: skip


def for_target(target: Target) -> tuple[InstructionSet, ...]:
    """The best that all of the target's CPUs run, for `host` the best that this one runs; all of the architecture, the
    best first, where the target names no processor. Empty where there is none of ours."""
    if target.local:
        return of_host()
    if "android" in (target.cpu.mtriple or ""):  # another C library than the one that the compiler here links with
        return ()
    if target.cpu.mcpu in (None, "generic"):
        return tuple(each for each in INSTRUCTION_SETS if each.arch == target.cpu.arch)
    features = {name for llvm, names in FEATURES.items() if llvm in target.cpu.mattr for name in names}
    found = best(target.cpu.arch, features)
    if found is None:
        return ()
    halves = target.cpu.mcpu == "znver4" and found.lanes == 16
    own = dataclasses.replace(found, mcpu=target.cpu.mcpu, mattr=tuple(target.cpu.mattr), implied=(), halves=halves)
    return (own,)


def of_host() -> tuple[InstructionSet, ...]:
    """The best that this CPU runs, and how it does; empty where there is none of ours."""
    flags = runner.cpu_flags(Path("/proc"))
    found = best(runner.machine(), flags)
    if found is None:
        return ()
    # Of AMD's CPUs, which alone tell of CLZERO, the next ones with registers of 512 bits have AVX-VNNI as well.
    halves = found.lanes == 16 and "clzero" in flags and "avx_vnni" not in flags
    return (dataclasses.replace(found, halves=halves),)


def best(arch: str, features: Iterable[str]) -> InstructionSet | None:
    """The best that a CPU with these features runs; None where there is none of ours."""
    has = set(features)
    return next((each for each in INSTRUCTION_SETS if each.arch == arch and has.issuperset(each.needs)), None)
