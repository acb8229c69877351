"""Instruction sets other than the best that this machine has, as far as it runs them."""

from __future__ import annotations

import ctypes
import dataclasses
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from backends.compiled import agree, as_reference, quick, summed
from backends.networks import FILES, real_inputs
from backends.sums import KINDS, one_sum
from backends.windows import windows
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompile.backends.tvm.arithmetic import FAST, REFERENCE
from edgecompile.backends.tvm.isa import INSTRUCTION_SETS, InstructionSet, of_host
from edgecompile.backends.tvm.planner import Planner
from edgecompile.backends.tvm.schedules.convolution import tile
from edgecompile.loaders.interpreter import own_signature
from edgecompile.ondevice import runner
from edgecompile.tflite_file import read

SETS = {each.name: each for each in INSTRUCTION_SETS}
HAS = set(runner.cpu_features(Path("/proc")))
pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="these are instruction sets of x86-64")


def runnable(name: str) -> InstructionSet:
    """The set; AVX-VNNI's instruction as AVX512-VNNI spells it, where the CPU has that alone."""
    isa = SETS[name]
    if name == "avx-vnni" and "avx_vnni" not in HAS and "avx512_vnni" in HAS:
        spelt = ("-avxvnni", "+avx512f", "+avx512bw", "+avx512vl", "+avx512vnni")
        cflags = ("-mavx2", "-mfma", "-mavx512f", "-mavx512vl", "-mavx512vnni")
        return dataclasses.replace(isa, mattr=spelt, needs=("avx512_vnni",), cflags=cflags)
    if not HAS.issuperset(isa.needs):
        pytest.skip(f"this CPU lacks {', '.join(sorted(set(isa.needs) - HAS))}")
    return isa


@pytest.mark.parametrize("name", ["avx512", "avx-vnni", "avx2"])
@settings(quick, max_examples=5)
@given(
    st.sampled_from(KINDS), st.sampled_from(("float32", "int8", "uint8")), windows(dilated=True), st.integers(1, 21),
    st.integers(1, 35),
)  # fmt: skip
def test_sums_in_other_instruction_sets(
    name: str, kind: str, dtype: str, window: dict[str, Any], channels: int, outputs: int
) -> None:
    summed(kind, dtype, window, channels, outputs, threads=window["threads"], isa=runnable(name))


@settings(quick, max_examples=8)
@given(
    st.sampled_from(("CONV_2D", "FULLY_CONNECTED")), windows(), st.sampled_from(((14, 14), (16, 16), (6, 6), (5, 5))),
    st.sampled_from((3, 16, 150)), st.sampled_from((8, 16, 24, 48, 64, 72)),
)  # fmt: skip
def test_sums_of_a_cpu_that_takes_registers_in_halves(
    kind: str, window: dict[str, Any], size: tuple[int, int], channels: int, outputs: int
) -> None:
    isa = dataclasses.replace(runnable("avx512"), halves=True)
    summed(kind, "float32", {**window, "input": size}, channels, outputs, threads=window["threads"], isa=isa)


def test_half_registers_and_small_tiles_are_what_such_a_cpu_gets(tmp_path: Path) -> None:
    window = {
        "size": (1, 1), "stride": (1, 1), "dilation": (1, 1), "padding": "SAME", "input": (16, 16),
        "activation": "RELU6", "seed": 0, "zeros": (0, 0), "scales": (0.5, 0.5),
    }  # fmt: skip

    def note(isa: InstructionSet, channels: int, outputs: int) -> str:
        model, _ = one_sum("CONV_2D", "float32", window, channels, outputs, 1, tmp_path)
        return Planner(read(model), isa, FAST, 1).run().steps[0].note

    whole = SETS["avx512"]
    halves = dataclasses.replace(whole, halves=True)
    assert note(whole, 32, 24).endswith("x32 tile")
    assert note(halves, 32, 24) == "8x24 tile"
    assert note(halves, 32, 64) == "8x16 tile"
    assert note(halves, 512, 64) == note(whole, 512, 64) != "8x16 tile"


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(1, 80), st.sampled_from((7, 12, 15, 28)), st.booleans())
def test_tiles_fit_the_registers(width: int, blocks: int, accumulators: int, uneven: bool) -> None:
    columns, wide = tile(width, blocks, accumulators, 4, uneven=uneven)
    assert columns * wide <= accumulators
    assert columns <= width
    assert blocks % wide == 0
    assert uneven or width % columns == 0


def test_columns_leave_a_rest_where_those_that_divide_are_few() -> None:
    """As 19x19 of SSDs, 13x13 of YOLO and 7x7 of MobileNets."""
    assert [tile(width, 12, 12, 4, uneven=True) for width in (19, 13, 49)] == [(4, 3)] * 3
    assert [tile(width, 12, 12, 4, uneven=False) for width in (19, 13, 49)] == [(1, 4), (1, 4), (7, 1)]
    assert tile(56, 12, 12, 4, uneven=True) == tile(56, 12, 12, 4)


@pytest.mark.parametrize(
    ("flags", "halves"),
    [
        ("avx2 fma avx512f avx512bw avx512_vnni clzero", True),  # Zen 4
        ("avx2 fma avx512f avx512bw avx512_vnni avx_vnni clzero", False),  # Zen 5
        ("avx2 fma avx512f avx512bw avx512_vnni", False),
        ("avx2 fma clzero", False),
    ],
)
def test_which_cpus_take_registers_in_halves(flags: str, halves: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "machine", lambda: "x86_64")
    monkeypatch.setattr(runner, "cpu_flags", lambda _: set(flags.split()))
    (found,) = of_host()
    assert found.halves == halves


@contextmanager
def tiles(folder: Path) -> Iterator[InstructionSet]:
    """AMX, which amx.c does where the CPU doesn't."""
    isa = SETS["avx512-amx"]
    if HAS.issuperset(isa.needs):
        yield isa
        return
    without = runnable("avx512-vnni")
    library = folder / "amx.so"
    command = ["gcc", "-O2", "-shared", "-fPIC", "-o", library, Path(__file__).with_name("amx.c")]
    subprocess.run(command, check=True)
    emulation = ctypes.CDLL(str(library))
    emulation.restore.restype = ctypes.c_ulong
    emulation.install()
    try:
        yield dataclasses.replace(isa, needs=without.needs, cflags=without.cflags)
    finally:
        assert emulation.restore() > 0


@st.composite
def pixels(draw: st.DrawFn) -> dict[str, Any]:
    """Windows of one pixel on inputs of many."""
    size = draw(st.sampled_from(((7, 7), (14, 14), (19, 19), (8, 12), (17, 2), (1, 64))))
    return {
        **draw(windows()), "size": (1, 1), "stride": (1, 1), "dilation": (1, 1), "padding": "VALID", "input": size,
    }  # fmt: skip


def test_tiles(tmp_path: Path) -> None:
    with tiles(tmp_path) as isa:

        @settings(quick, max_examples=6)
        @given(
            st.sampled_from(("int8", "uint8")), pixels(), st.sampled_from((64, 72, 96, 160, 192)),
            st.sampled_from((16, 40, 64, 96)), st.integers(1, 2),
        )  # fmt: skip
        def on(dtype: str, window: dict[str, Any], channels: int, outputs: int, batch: int) -> None:
            summed("CONV_2D", dtype, window, channels, outputs, batch, window["threads"], isa)

        on()


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("name", KINDS)
def test_an_activation_that_leaves_one_number_leaves_no_sums(name: str, dtype: str, tmp_path: Path) -> None:
    """RELU with the zero point at the end of the range. TVM would see that nothing reads the sums: kernels made for
    them took minutes to compile, or failed."""
    window = {
        "size": (3, 3), "stride": (1, 1), "dilation": (1, 1), "padding": "SAME", "input": (14, 14),
        "activation": "RELU", "seed": 0, "zeros": (0, 127), "scales": (0.5, 0.5),
    }  # fmt: skip
    model, x = one_sum(name, dtype, window, 32, 32, 2, tmp_path)
    agree(model, x)
    for isa in INSTRUCTION_SETS:
        for mode in (FAST, REFERENCE):
            notes = [step.note for step in Planner(read(model), isa, mode, 1).run().steps]
            assert any(note.startswith("one number") for note in notes), (isa.name, notes)


@pytest.mark.slow
def test_tiles_in_a_whole_network(data: Path, tmp_path: Path) -> None:
    model = data / "models/imagenet/tf2_mobilenet_v2_1.0_224_ptq.tflite"
    (spec,) = own_signature(read(model)).inputs
    with tiles(tmp_path) as isa:
        as_reference(model, {spec.name: real_inputs(FILES["imagenet/" + model.name], data, 3)}, 2, isa=isa)
