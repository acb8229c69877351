"""A plan as a shared library with a C interface: kernels by TVM, and driver.c with the model's tables."""

from __future__ import annotations

import difflib
import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm.target import Target
from tvm.target.codegen import llvm_get_cpu_archlist, llvm_is_valid_cpu

from edgecompile.artifact import Signature, TensorInfo
from edgecompile.backends.tvm import COMPILERS, memory
from edgecompile.backends.tvm.isa import InstructionSet
from edgecompile.backends.tvm.plan import Plan, Step, Value
from edgecompile.errors import ConversionError, TargetError, ToolchainError
from edgecompile.task import Array

_SOURCES = ("types.h", "driver.c", "peaks.c")
_CODES = {"i": 0, "u": 1, "f": 2}  # of DLPack


@dataclass(frozen=True)
class Library:
    """kernels: how many different ones. arena_bytes, weight_bytes: between the layers, and of constants."""

    path: Path
    kernels: int
    arena_bytes: int
    weight_bytes: int


def compiler(arch: str) -> str:
    """The C compiler for an architecture, ToolchainError where there is none."""
    name, package = COMPILERS[arch]
    found = shutil.which(name)
    if found is None:
        raise ToolchainError(
            f"there is no {name}, which links libraries for {arch}",
            hint=f"sudo apt install {package}, or --backends litert",
        )
    return found


def build(plan: Plan, signature: Signature, isa: InstructionSet, out: Path, work: Path) -> Library:
    """Write the library to `out`; `work` is an empty folder. ToolchainError without a C compiler, TargetError for a
    processor that LLVM doesn't know."""
    cc = compiler(isa.arch)
    _check_processor(isa)
    functions, names = _distinct(plan)
    _compile(functions, isa, work / "kernels.o")
    constants = [a for step in plan.steps for a in step.arguments if isinstance(a, np.ndarray)]
    starts, weight_bytes = _write(constants, work / "weights.bin")
    arena, arena_bytes = memory.offsets(plan)
    tables = _tables(plan, names, (arena, arena_bytes), (starts, weight_bytes))
    told = json.dumps(_told(plan, signature, isa))
    text = f"static const char signature[] = {json.dumps(told)};\n{tables}"
    (work / "model.c").write_text(text, encoding="ascii")
    for name in _SOURCES:
        shutil.copy(Path(__file__).with_name(name), work)
    (work / "weights.S").write_text(
        ".section .rodata\n.balign 64\n.global edgecompile_weights\n.hidden edgecompile_weights\nedgecompile_weights:\n"
        '.incbin "weights.bin"\n.byte 0\n.section .note.GNU-stack,"",%progbits\n',
        encoding="ascii",
    )
    common = [cc, "-fPIC", "-O2", "-pthread", "-fvisibility=hidden"]
    _run([*common, *isa.cflags, "-c", "-o", "peaks.o", "peaks.c"], work)
    _run(
        [*common, "-shared", "-Wl,--exclude-libs,ALL", "-Wl,-s", "-o", str(out.absolute()),
         "model.c", "weights.S", "kernels.o", "peaks.o", "-lm"],
        work,
    )  # fmt: skip
    return Library(out, len(functions), arena_bytes, weight_bytes)


def _run(command: Sequence[str], work: Path) -> None:
    done = subprocess.run(command, cwd=work, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConversionError(
            f"{Path(command[0]).name} could not link the model: {done.stderr.strip()[-500:]}",
            hint="report it with the model; --backends litert leaves TVM out",
        )


def _check_processor(isa: InstructionSet) -> None:
    """LLVM itself only warns, and compiles for some other one."""
    triple = isa.target()["mtriple"]
    if not llvm_is_valid_cpu(isa.mcpu, triple):
        known = map(str, llvm_get_cpu_archlist(Target({"kind": "llvm", "mtriple": triple})))
        near = difflib.get_close_matches(isa.mcpu, known, 3)
        raise TargetError(
            f"LLVM knows no {isa.arch} processor {isa.mcpu!r}",
            hint=f"mcpu in the target's file may be {', '.join(near)}" if near else "see mcpu in the target's file",
        )


def tidy(work: Path) -> None:
    """Remove what a build wrote to its folder."""
    shutil.rmtree(work)


def _told(plan: Plan, signature: Signature, isa: InstructionSet) -> dict[str, Any]:
    """What the library says of itself, ASCII when it is JSON."""

    def described(specs: Sequence[TensorInfo]) -> list[dict[str, Any]]:
        return [{**asdict(spec), "shape": [abs(size) for size in spec.shape]} for spec in specs]

    return {
        "inputs": described(signature.inputs),
        "outputs": described(signature.outputs),
        "arch": isa.arch,
        "instructions": isa.name,
        "needs": sorted(isa.needs),
        "steps": [_step(step, plan) for step in plan.steps],
    }


def _step(step: Step, plan: Plan) -> dict[str, Any]:
    """bytes: that it reads and writes, each argument once. unit: whose peak bounds it; depthwise convolutions of bytes
    are computed in floats."""
    sizes = (a.bytes if isinstance(a, Value) else a.nbytes for a in step.arguments)
    counted = [plan.operators[index] for index in step.operators]
    first = step.arguments[0]
    dots = {name for name, _ in counted} & {"CONV_2D", "FULLY_CONNECTED"}
    whole = isinstance(first, Value) and first.dtype in ("int8", "uint8")
    return {
        "operators": list(step.operators),
        "names": [name for name, _ in counted],
        "note": step.note,
        "macs": sum(macs for _, macs in counted),
        "bytes": sum(sizes),
        "unit": "int8" if dots and whole else "float32",
    }


def _distinct(plan: Plan) -> tuple[dict[str, Any], list[str]]:
    """({name: function}, the name for each step): layers of one shape share a function."""
    functions: dict[str, Any] = {}
    by_structure: dict[int, list[str]] = {}
    names = []
    for step in plan.steps:
        alike = by_structure.setdefault(tvm_ffi.structural_hash(step.function), [])
        name = next((each for each in alike if tvm_ffi.structural_equal(functions[each], step.function)), None)
        if name is None:
            name = f"k{len(functions)}"
            functions[name] = step.function
            alike.append(name)
        names.append(name)
    return functions, names


def _compile(functions: dict[str, Any], isa: InstructionSet, out: Path) -> None:
    module = tvm.IRModule({name: f.with_attr("global_symbol", name) for name, f in functions.items()})
    with tvm.transform.PassContext(config={"tirx.disable_assert": True}):
        made = tvm.compile(module, target=Target(isa.target()))
    made.mod.write_to_file(str(out), "o")


def _write(constants: Sequence[Array], path: Path) -> tuple[dict[int, int], int]:
    """({id of an array: its first byte}, bytes in all); equal arrays are kept once."""
    starts: dict[int, int] = {}
    known: dict[bytes, int] = {}
    with path.open("wb") as file:
        for array in constants:
            content = np.ascontiguousarray(array).tobytes()
            if content not in known:
                file.write(b"\0" * (-file.tell() % memory.ALIGNED))
                known[content] = file.tell()
                file.write(content)
            starts[id(array)] = known[content]
        return starts, file.tell()


def _tables(
    plan: Plan, names: Sequence[str], values: tuple[dict[Value, int], int], constants: tuple[dict[int, int], int]
) -> str:
    """values, constants: (where each begins, bytes of all)."""
    (arena, arena_bytes), (starts, weight_bytes) = values, constants
    inputs = {value: number for number, value in enumerate(plan.inputs)}
    outputs = {value.place: number for number, value in enumerate(plan.outputs)}
    places: dict[Any, int] = {}
    rows: list[str] = []
    shapes: list[str] = []
    steps: list[str] = []
    lists: list[str] = []

    def place(argument: Value | Array) -> int:
        key: Any = argument.place if isinstance(argument, Value) else id(argument)
        if key in places:
            return places[key]
        shape: tuple[int, ...]
        if not isinstance(argument, Value):
            where, offset, shape, dtype = "WEIGHTS", starts[id(argument)], argument.shape, argument.dtype
        else:
            value = argument.place
            shape, dtype = value.stored, np.dtype(value.dtype)
            if value in inputs:
                where, offset = "INPUT", inputs[value]
            elif value in outputs:
                where, offset = "OUTPUT", outputs[value]
            else:
                where, offset = "ARENA", arena[value]
        number = places[key] = len(rows)
        sizes = ", ".join(map(str, shape)) or "1"
        shapes.append(f"static const int64_t shape{number}[] = {{{sizes}}};")
        rows.append(f"{{{where}, {offset}u, {_CODES[dtype.kind]}, {dtype.itemsize * 8}, {len(shape)}, shape{number}}},")
        return number

    for number, (step, name) in enumerate(zip(plan.steps, names, strict=True)):
        given = [place(argument) for argument in step.arguments]
        lists.append(f"static const int32_t places{number}[] = {{{', '.join(map(str, given))}}};")
        steps.append(f"{{__tvm_ffi_{name}, {len(given)}, places{number}}},")
    most = max(len(step.arguments) for step in plan.steps)
    kernels = [f"int __tvm_ffi_{name}(void *, const Any *, int32_t, Any *);" for name in dict.fromkeys(names)]
    return "\n".join(
        [
            f"#define PLACES {len(rows)}", f"#define STEPS {len(steps)}", f"#define MOST_ARGUMENTS {most}",
            f"#define ARENA_BYTES {arena_bytes}", f"#define WEIGHT_BYTES {weight_bytes}", '#include "types.h"',
            *kernels, *shapes, *lists,
            "static const Place places[] = {", *rows, "};", "static const Step steps[] = {", *steps, "};",
            '#include "driver.c"', "",
        ]
    )  # fmt: skip
