"""Plans as a shared library with a C interface: kernels by TVM, and driver.c with the model's tables."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm.target import Target

from edgecompile.artifact import Signature, TensorInfo
from edgecompile.backends.tvm import memory
from edgecompile.backends.tvm.isa import InstructionSet
from edgecompile.backends.tvm.plan import Plan, Source, Step, Value
from edgecompile.backends.tvm.toolchain import FLAGS, check_processor, compiler
from edgecompile.errors import ConversionError
from edgecompile.task import Array

_SOURCES = ("edgecompile.h", "variants.h", "types.h", "driver.c", "peaks.c")
_CODES = {"i": 0, "u": 1, "f": 2}  # of DLPack


# Nothing else is seen from outside: a program may hold several models.
_EXPORTS = "{ global: edgecompile_*; local: *; };\n"


@dataclass(frozen=True)
class Library:
    """kernels: how many different ones. arena_bytes: between the layers, of the variant that takes the most.
    weight_bytes: constants of all variants; what is equal is kept once."""

    path: Path
    kernels: int
    arena_bytes: int
    weight_bytes: int


@dataclass(frozen=True)
class _Tables:
    """What model.c has of one variant. starts: {id of a constant: its first byte}. arena: where values begin in it, and
    its bytes."""

    name: str
    isa: InstructionSet
    plan: Plan
    kernels: Sequence[str]
    starts: Mapping[int, int]
    arena: tuple[Mapping[Value, int], int]
    told: str


def build(plans: Mapping[InstructionSet, Plan], signature: Signature, out: Path, work: Path) -> Library:
    """Write the library to `out`; `work` is an empty folder. plans: of one architecture, the best instruction set
    first; a CPU runs the first of which it has all instructions. ToolchainError without a C compiler, TargetError for
    a processor that LLVM doesn't know."""
    cc = compiler(next(iter(plans)).arch)
    for isa in plans:
        check_processor(isa)
    constants = [
        a for plan in plans.values() for step in plan.steps for a in step.arguments if isinstance(a, np.ndarray)
    ]
    starts, weight_bytes = _write(constants, work / "weights.bin")
    common = [cc, *FLAGS]
    for name in _SOURCES:
        shutil.copy(Path(__file__).with_name(name), work)
    variants, objects, count = [], [], 0
    for number, (isa, plan) in enumerate(plans.items()):
        name = f"v{number}"
        functions, names = _distinct(plan, name)
        _compile(functions, isa, work / f"{name}-kernels.o")
        _run([*common, *isa.cflags, f"-DMEASURE={name}_measure", "-c", "-o", f"{name}-peaks.o", "peaks.c"], work)
        objects += [f"{name}-kernels.o", f"{name}-peaks.o"]
        told = json.dumps(_told(plan, signature, isa))
        variants.append(_Tables(name, isa, plan, names, starts, memory.offsets(plan), told))
        count += len(functions)
    sources = {s.function.file for plan in plans.values() for s in plan.steps if isinstance(s.function, Source)}
    for name in sorted(sources):
        shutil.copy(Path(__file__).with_name(name), work)
        # Products and sums are rounded one by one, as LiteRT's are.
        _run([*common, "-ffp-contract=off", "-c", "-o", f"{name}.o", name], work)
        objects.append(f"{name}.o")
    (work / "model.c").write_text(_model(variants), encoding="ascii")
    (work / "weights.S").write_text(
        ".section .rodata\n.balign 64\n.global edgecompile_weights\n.hidden edgecompile_weights\nedgecompile_weights:\n"
        '.incbin "weights.bin"\n.byte 0\n.section .note.GNU-stack,"",%progbits\n',
        encoding="ascii",
    )
    (work / "exports").write_text(_EXPORTS, encoding="ascii")
    _run(
        [*common, "-shared", "-Wl,--exclude-libs,ALL", "-Wl,--version-script=exports", "-Wl,-s",
         "-o", str(out.absolute()), "model.c", "weights.S", *objects, "-lm"],
        work,
    )  # fmt: skip
    return Library(out, count, max(each.arena[1] for each in variants), weight_bytes)


def _run(command: Sequence[str], work: Path) -> None:
    done = subprocess.run(command, cwd=work, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConversionError(
            f"{Path(command[0]).name} could not link the model: {done.stderr.strip()[-500:]}",
            hint="report it with the model; --backends litert leaves TVM out",
        )


def tidy(work: Path) -> None:
    """Remove what a build wrote to its folder."""
    shutil.rmtree(work)


def _told(plan: Plan, signature: Signature, isa: InstructionSet) -> dict[str, Any]:
    """What the library says of itself, ASCII when it is JSON."""

    def described(specs: Sequence[TensorInfo], values: Sequence[Value]) -> list[dict[str, Any]]:
        return [{**asdict(spec), "shape": list(value.shape)} for spec, value in zip(specs, values, strict=True)]

    return {
        "inputs": described(signature.inputs, plan.inputs),
        "outputs": described(signature.outputs, plan.outputs),
        "arch": isa.arch,
        "instructions": isa.name,
        "needs": list(isa.features),
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


def _distinct(plan: Plan, variant: str) -> tuple[dict[str, Any], list[str]]:
    """({name: function} of TVM's, the name for each step): layers of one shape share a function."""
    functions: dict[str, Any] = {}
    by_structure: dict[int, list[str]] = {}
    names = []
    for step in plan.steps:
        if isinstance(step.function, Source):
            names.append(step.function.name)
            continue
        alike = by_structure.setdefault(tvm_ffi.structural_hash(step.function), [])
        name = next((each for each in alike if tvm_ffi.structural_equal(functions[each], step.function)), None)
        if name is None:
            name = f"{variant}_k{len(functions)}"
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


def _model(variants: Sequence[_Tables]) -> str:
    """model.c"""
    rows = []
    lines = ['#include "types.h"']
    for each in variants:
        lines += _tables(each)
        weights = {id(a): a.nbytes for step in each.plan.steps for a in step.arguments if isinstance(a, np.ndarray)}
        name = each.name
        rows.append(
            f"{{{name}_signature, {name}_needs, sizeof {name}_places / sizeof *{name}_places, "
            f"sizeof {name}_steps / sizeof *{name}_steps, {name}_places, {name}_steps, {each.arena[1]}u, "
            f"{sum(weights.values())}u, {name}_measure}},"
        )
    return "\n".join([*lines, "static const Variant variants[] = {", *rows, "};", '#include "driver.c"', ""])


def _tables(variant: _Tables) -> list[str]:
    plan, name, (arena, _) = variant.plan, variant.name, variant.arena
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
            where, offset, shape, dtype = "WEIGHTS", variant.starts[id(argument)], argument.shape, argument.dtype
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
        own = f"{name}_shape{number}"
        shapes.append(f"static const int64_t {own}[] = {{{sizes}}};")
        rows.append(f"{{{where}, {offset}u, {_CODES[dtype.kind]}, {dtype.itemsize * 8}, {len(shape)}, {own}}},")
        return number

    for number, (step, kernel) in enumerate(zip(plan.steps, variant.kernels, strict=True)):
        given = [place(argument) for argument in step.arguments]
        lists.append(f"static const int32_t {name}_arguments{number}[] = {{{', '.join(map(str, given))}}};")
        steps.append(f"{{__tvm_ffi_{kernel}, {len(given)}, {name}_arguments{number}}},")
    isa = variant.isa
    needs = ", ".join([*(json.dumps(each) for each in isa.features), "NULL"])
    return [
        f"void {name}_measure(const uint8_t *memory, size_t bytes, double *found);",
        f"static const char {name}_signature[] = {json.dumps(variant.told)};",
        f"static const char *const {name}_needs[] = {{{needs}}};",
        *(f"int __tvm_ffi_{each}(void *, const Any *, int32_t, Any *);" for each in dict.fromkeys(variant.kernels)),
        *shapes, *lists,
        f"static const Place {name}_places[] = {{", *rows, "};",
        f"static const Step {name}_steps[] = {{", *steps, "};",
    ]  # fmt: skip
