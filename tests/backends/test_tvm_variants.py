"""The gate for code of several sets of instructions in one library."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from backends.compiled import own_isa
from backends.operators import OneOperator

from edgecompile import gates
from edgecompile.backends import BACKENDS
from edgecompile.backends.base import VARIANTS, Candidate
from edgecompile.backends.litert import REFERENCE, LiteRtRunner
from edgecompile.backends.tvm import library
from edgecompile.backends.tvm.arithmetic import FAST
from edgecompile.backends.tvm.isa import INSTRUCTION_SETS
from edgecompile.backends.tvm.planner import Planner
from edgecompile.backends.variants import variants
from edgecompile.compare import parity
from edgecompile.loaders.interpreter import own_signature
from edgecompile.ondevice import runner
from edgecompile.tflite_file import read


def test_a_variant_that_computes_something_else_leaves_the_library_out(tmp_path: Path) -> None:
    """Though the CPU takes another one: LiteRT's outputs are not those of the network whose code lies in its place."""
    isa = own_isa()
    weaker = next(
        (each for each in reversed(INSTRUCTION_SETS) if each.arch == isa.arch and each.name != isa.name), None
    )
    if weaker is None or not set(weaker.features) <= runner.cpu_flags(Path("/proc")):
        pytest.skip(f"this CPU runs nothing beside {isa.name}")
    paths, works = [tmp_path / f"{factor}.tflite" for factor in (1, 2)], tmp_path / "work"
    for factor, path in enumerate(paths, 1):
        made = OneOperator()
        made.tensor((1, 8), "float32")
        made.tensor((8, 8), "float32", constant=factor * np.eye(8))
        made.tensor((8,), "float32", constant=np.zeros(8))
        made.tensor((1, 8), "float32")
        made.write("FULLY_CONNECTED", "FullyConnectedOptions", schema.FullyConnectedOptionsT(), path, 12)
    works.mkdir()
    model, other = map(read, paths)
    plans = {isa: Planner(model, isa, FAST, 1).run(), weaker: Planner(other, weaker, FAST, 1).run()}
    linked = library.build(plans, own_signature(model), tmp_path / "m.so", works)
    config = {"arch": isa.arch, "needs": list(weaker.needs), VARIANTS: {each.name: each.features for each in plans}}
    several = variants([Candidate("tvm", "tvm", linked.path, 1, config)], None)
    assert several.complete
    x = {"t0": np.arange(16, dtype=np.float32).reshape(2, 8)}
    expected = LiteRtRunner(paths[0], REFERENCE).run(x)["t3"]
    found = {
        each.id: {"t3": asdict(parity(BACKENDS["tvm"].open(each).run(x)["t3"], expected, expected, None))}
        for each in (Candidate("tvm", "tvm", linked.path, 1, config), *several.candidates)
    }
    verdicts, others = {"tvm": found["tvm"]}, several.verdicts(found)
    assert all(verdict["passed"] for verdict in found["tvm"].values())
    assert gates.passed("tvm", verdicts, others) is False
    said = gates.parity(verdicts, others)
    assert said.passed is False
    assert f"left out: tvm's variant {weaker.name} differs by 15, allowed" in said.text
