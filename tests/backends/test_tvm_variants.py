"""The gate for code of several sets of instructions in one library."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

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
from edgecompile.devices.base import Device, DeviceFacts
from edgecompile.devices.benchmark import outputs
from edgecompile.devices.local import LocalDevice
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
    for each, factor in zip(several.candidates, (1, 2), strict=True):  # as a board runs them
        there = outputs(LocalDevice(), each.job(), x, lambda *_: None)["t3"]
        assert np.array_equal(there, factor * x["t0"])
    verdicts, others = {"tvm": found["tvm"]}, several.verdicts(found)
    assert all(verdict["passed"] for verdict in found["tvm"].values())
    assert gates.passed("tvm", verdicts, others) is False
    said = gates.parity(verdicts, others)
    assert said.passed is False
    assert f"left out: tvm's variant {weaker.name} differs by 15, allowed" in said.text


@dataclass(frozen=True)
class Board:
    """What is asked of a board that no machine here is."""

    machine: str
    features: tuple[str, ...]

    def facts(self) -> DeviceFacts:
        return DeviceFacts("a", "Mine", {"machine": self.machine, "features": list(self.features)})


def test_a_board_checks_what_it_runs_and_the_others_are_named() -> None:
    """Two variants for a processor that this machine isn't."""
    other = "x86_64" if platform.machine() == "aarch64" else "aarch64"
    needs = {"better": ["asimddp", "atomics"], "plain": []}  # of `atomics` a board says nothing
    both = Candidate("tvm", "tvm", Path("tvm.so"), 1, {"arch": other, "needs": [], VARIANTS: needs})
    alone = variants([both, Candidate("litert-xnnpack", "litert", Path("m.tflite"), 1)], None)
    here = f"this machine is {platform.machine()}"
    assert (alone.checked, alone.unchecked) == ({"tvm": {}}, {"tvm": dict.fromkeys(needs, here)})
    weak = variants([both], cast(Device, Board(other, ("asimd",))))
    assert list(weak.checked["tvm"]) == ["plain"]
    assert weak.candidates[0].job()["variant"] == "plain"
    assert weak.told() == {"tvm": f"checked plain, not checked: better ({here}, Mine lacks asimddp)"}
    strong = variants([both], cast(Device, Board(other, ("asimd", "asimddp"))))
    assert strong.complete
    assert strong.told() == {"tvm": "checked better, plain"}
