"""What code of TVM's backend computes, beside LiteRT's reference kernels."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from backends.sums import one_sum
from hypothesis import HealthCheck, settings

from edgecompile.backends.litert import REFERENCE, XNNPACK, LiteRtRunner
from edgecompile.backends.tvm import library
from edgecompile.backends.tvm.arithmetic import FAST
from edgecompile.backends.tvm.arithmetic import REFERENCE as EXACT
from edgecompile.backends.tvm.isa import InstructionSet, of_host
from edgecompile.backends.tvm.planner import Planner
from edgecompile.backends.tvm.runner import TvmRunner
from edgecompile.compare import parity
from edgecompile.devices.local import LocalDevice
from edgecompile.loaders.interpreter import own_signature
from edgecompile.tflite_file import read

Array = npt.NDArray[Any]
quick = settings(max_examples=16, deadline=None, suppress_health_check=list(HealthCheck))


def own_isa() -> InstructionSet:
    found = of_host()
    if not found:
        facts = LocalDevice().facts().details
        pytest.skip(f"there is no code of ours for {facts['machine']} with {facts['features']}")
    return found[0]


def compiled(model: Path, mode: str, threads: int = 1, isa: InstructionSet | None = None) -> TvmRunner:
    """What the code for this machine computes, in its best instruction set or in another that it has."""
    isa, file = isa or own_isa(), read(model)
    plan = Planner(file, isa, mode, threads).run()
    with tempfile.TemporaryDirectory() as work:
        made = library.build({isa: plan}, own_signature(file), Path(work, "model.so"), Path(work))
        return TvmRunner(made.path, threads)


def as_reference(
    model: Path, x: dict[str, Array], threads: int = 1, of: Path | None = None, isa: InstructionSet | None = None
) -> None:
    """A whole network: integers to the bit in LiteRT's own rounding, and what is fast by the rule of a build's gate, or
    to the bit as XNNPACK: two detections that change places in a list are as far apart as any.

    of: the model that LiteRT runs, where it isn't this one.
    """
    expected = LiteRtRunner(of or model, REFERENCE).run(x)
    xnnpack = LiteRtRunner(of or model, XNNPACK)
    known, specs = xnnpack.run(x), {spec.name: spec for spec in xnnpack.outputs}
    floats = not has_integers(model)
    if not floats:
        exact = compiled(model, EXACT, threads, isa).run(x)
        differing = {name: int(np.count_nonzero(exact[name] != array)) for name, array in expected.items()}
        assert not any(differing.values()), differing
    found = compiled(model, FAST, threads, isa).run(x)
    for name, array in expected.items():
        spec = specs[name]
        if np.array_equal(found[name], known[name]):
            continue
        verdict = parity(found[name], array, known[name], spec.scale, spec.zero_point, floats=floats)
        assert verdict.passed, (name, verdict)


def has_integers(model: Path) -> bool:
    """Whether it computes with quantized integers, as its weights alone don't say."""
    tensors = read(model).main.tensors
    return any(t.dtype in ("int8", "uint8") for t in tensors if not t.is_constant)


def agree(
    model: Path, x: dict[str, Array], threads: int = 1, kernels: str = REFERENCE, isa: InstructionSet | None = None
) -> None:
    """Bytes in LiteRT's own rounding to the bit, and in XNNPACK's within one step, as one operator rounds once. Floats
    within 1e-5 of the range. kernels: of LiteRT, others where the reference ones lack the operator."""
    expected = LiteRtRunner(model, kernels).run(x)
    floats = all(array.dtype == np.float32 for array in (*expected.values(), *x.values()))
    for mode in (FAST,) if floats else (EXACT, FAST):
        found = compiled(model, mode, threads, isa).run(x)
        for name, array in expected.items():
            if array.dtype == np.float32:
                assert np.abs(found[name] - array).max() <= 1e-5 * max(np.ptp(array), 1.0)
                continue
            apart = np.abs(found[name].astype(np.int64) - array.astype(np.int64))
            assert apart.max() <= (mode == FAST), (mode, apart.max())


def summed(
    name: str, dtype: str, window: dict[str, Any], channels: int, outputs: int, batch: int = 1, threads: int = 1,
    isa: InstructionSet | None = None,
) -> None:  # fmt: skip
    """One operator of KINDS in sums.py."""
    with tempfile.TemporaryDirectory() as folder:
        model, x = one_sum(name, dtype, window, channels, outputs, batch, Path(folder))
        agree(model, x, threads, isa=isa)
