"""Gates that judge what others found: types of inputs and outputs, parity."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from edgecompile import compare, gates
from edgecompile.artifact import Signature, TensorInfo
from edgecompile.errors import ConversionError, ParityGateError


def signature(*outputs: TensorInfo) -> Signature:
    return Signature((TensorInfo("x", (1, 4), "float32"),), outputs)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_quantized_outputs_are_not_float(dtype: str) -> None:
    with pytest.raises(ConversionError, match=f"--io float was asked for, and 'y' of the result is {dtype}"):
        gates.check_io(signature(TensorInfo("y", (1, 4), dtype, 0.5, 0)), "float")


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "bool"])
def test_integers_without_a_scale_are_of_either_io(dtype: str) -> None:
    plain = TensorInfo("y", (1,), dtype)
    gates.check_io(signature(plain), "float")
    gates.check_io(Signature((TensorInfo("x", (1,), "int8", 0.5, 0),), (plain,)), "int8")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_float_outputs_are_no_int8(dtype: str) -> None:
    inputs = (TensorInfo("x", (1,), "int8", 0.5, 0),)
    with pytest.raises(ConversionError, match=f"--io int8 was asked for, and 'y' of the result is {dtype}"):
        gates.check_io(Signature(inputs, (TensorInfo("y", (1,), dtype),)), "int8")


def test_parity_fails_where_xnnpack_is_wrong_and_nothing_else_is_there() -> None:
    reference = np.random.default_rng(0).uniform(size=(16, 10)).astype(np.float32)
    wrong = np.roll(reference, 1, axis=0)
    for floats in (True, False):
        verdict = compare.parity(wrong, reference, wrong, None, floats=floats)
        check = gates.parity({"litert-xnnpack": {"y": asdict(verdict)}}, {})
        with pytest.raises(ParityGateError, match="litert-xnnpack"):
            gates.enforce([check])
    assert "85 of 160 values that differ by more than" in check.text


def test_parity_passes_with_the_candidate_that_is_right() -> None:
    reference = np.random.default_rng(0).integers(-128, 128, (16, 10)).astype(np.int8)
    wrong = reference[::-1].copy()
    verdicts = {
        name: {"y": asdict(compare.parity(given, reference, wrong, 0.1, 0))}
        for name, given in (("litert-xnnpack", wrong), ("litert-builtin", reference))
    }
    check = gates.parity(verdicts, {})
    assert check.passed
    assert "1 of 2" in check.text
    assert "left out; litert-xnnpack" in check.text.replace(":", ";")


def test_tolerance_is_judged_on_the_worst_output() -> None:
    distance = {"a": {"relative": 0.01}, "b": {"relative": 0.2}}
    assert gates.tolerance(distance, 0.2).passed
    assert not gates.tolerance(distance, 0.1).passed
