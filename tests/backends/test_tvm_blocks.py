"""Products of blocks of bytes: where they are taken, and that each product goes to its sum.

What the instruction itself computes, the emulated board shows (devices/test_arm_i8mm.py). Here its description stands
for it, on any machine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from backends.blocks import BLOCKS
from backends.compiled import EXACT, compiled, own_isa
from backends.sums import one_sum

from edgecompile.backends.litert import REFERENCE, LiteRtRunner
from edgecompile.backends.tvm import intrinsics
from edgecompile.backends.tvm.intrinsics import smmla
from edgecompile.backends.tvm.isa import INSTRUCTION_SETS, InstructionSet
from edgecompile.backends.tvm.planner import Planner
from edgecompile.tflite_file import read

I8MM = next(each for each in INSTRUCTION_SETS if each.matrix == "smmla")


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> Iterator[InstructionSet]:
    """This machine's instructions, with blocks."""
    monkeypatch.setattr(smmla, "_implementation", smmla._description)
    intrinsics.register.cache_clear()
    yield dataclasses.replace(own_isa(), lanes=4, unsigned=False, matrix="smmla")
    intrinsics.register.cache_clear()


@pytest.mark.parametrize("name", BLOCKS)
def test_sums_are_the_reference_kernels_own(name: str, described: InstructionSet, tmp_path: Path) -> None:
    model, x = one_sum(*BLOCKS[name], tmp_path)
    (expected,) = LiteRtRunner(model, REFERENCE).run(x).values()
    (found,) = compiled(model, EXACT, 2, described).run(x).values()
    assert np.array_equal(found, expected)
    assert expected.std() > 10


def notes(name: str, data: Path) -> list[str]:
    """Of a network's sums of products that go over channels."""
    plan = Planner(read(data / "models" / "mlperf_tiny" / f"{name}.tflite"), I8MM, EXACT, 1).run()
    kinds = {"CONV_2D", "FULLY_CONNECTED"}
    return [s.note for s in plan.steps if kinds & {plan.operators[index][0] for index in s.operators}]


def test_few_channels_and_a_single_row_are_left_to_dot_products(data: Path) -> None:
    first, *convolutions, dense = notes("ic/pretrainedResnet_quant", data)
    assert "sdot" in first
    assert "sdot" in dense
    assert all("smmla" in note for note in convolutions)
