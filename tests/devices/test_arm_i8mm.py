"""On an emulated ARM board whose processor has i8mm: what products of blocks compute, and which variant runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from backends.blocks import BLOCKS
from backends.sums import one_sum
from backends.windows import integers
from devices.armboard import ArmBoard

from edgecompile.backends.litert import REFERENCE, LiteRtRunner
from edgecompile.backends.tvm import library
from edgecompile.backends.tvm.arithmetic import REFERENCE as EXACT
from edgecompile.backends.tvm.isa import INSTRUCTION_SETS
from edgecompile.backends.tvm.planner import Planner
from edgecompile.loaders.interpreter import own_signature
from edgecompile.tflite_file import read

pytestmark = pytest.mark.board
SET = "neon-i8mm"


@pytest.fixture(scope="module")
def newest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArmBoard]:
    """With all extensions that qemu knows."""
    board = ArmBoard(tmp_path_factory.mktemp("newest"), "max")
    yield board
    board.down()


@pytest.mark.parametrize("name", ["overlapping", "dilated", "uint8"])
def test_sums_there_are_the_reference_kernels_own(
    name: str, newest: ArmBoard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = one_sum(*BLOCKS[name], tmp_path)
    (expected,) = LiteRtRunner(model, REFERENCE).run(x).values()
    assert np.array_equal(newest.computed(model, x, SET, tmp_path, monkeypatch), expected)


@pytest.mark.parametrize("name", ["ic/pretrainedResnet_quant", "vww/vww_96_int8"])
def test_networks_compute_the_same_there(
    name: str, newest: ArmBoard, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = data / "models" / "mlperf_tiny" / f"{name}.tflite"
    (spec,) = own_signature(read(model)).inputs
    x = {spec.name: integers(np.random.default_rng(0), 5, *spec.shape[1:])}
    (expected,) = LiteRtRunner(model, REFERENCE).run(x).values()
    assert np.array_equal(newest.computed(model, x, SET, tmp_path, monkeypatch), expected)


def test_a_generic_library_takes_the_best_variant_there(newest: ArmBoard, data: Path, tmp_path: Path) -> None:
    model = read(data / "models/mlperf_tiny/kws/kws_ref_model.tflite")
    plans = {isa: Planner(model, isa, EXACT, 1).run() for isa in INSTRUCTION_SETS if isa.arch == "aarch64"}
    (tmp_path / "work").mkdir()
    made = library.build(plans, own_signature(model), tmp_path / "generic.so", tmp_path / "work")
    newest.send(made.path, "/root")
    code = """import ctypes
told = ctypes.CDLL("/root/generic.so").edgecompile_signature
told.restype = ctypes.c_char_p
print(told().decode())"""
    assert f'"instructions": "{SET}"' in newest.shell("python3 -", code.encode())
