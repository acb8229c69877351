"""Slimmed files as other tools read them: the same operators and shapes as before."""

from __future__ import annotations

import csv
import subprocess
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from ai_edge_litert import schema_py_generated as schema

from edgecompile.tflite_file import read, slim

pytestmark = pytest.mark.slow

TINY = "models/mlperf_tiny"
INTEGER = (
    f"{TINY}/kws/kws_ref_model.tflite",
    f"{TINY}/ic/pretrainedResnet_quant.tflite",
    f"{TINY}/ad/ad01_int8.tflite",
)
MODELS = (*INTEGER, f"{TINY}/ic/pretrainedResnet.tflite")
MNN, TOSA, VELA = "MNN==3.6.1", "tosa-converter-for-tflite==2026.2.0", "ethos-u-vela==5.2.0"

MNN_GRAPH = """
import sys, MNN.expr
graph = MNN.expr.load_as_dict(sys.argv[1])
for row in sorted(f"{v.op_type} {list(v.shape)}" for v in graph.values()):
    print("row", row)
"""


def run(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The programs' folder of an environment of its own, with one package: these want other NumPys than we do."""

    def install(package: str) -> Path:
        folder = tmp_path_factory.mktemp("tool")
        venv.create(folder, with_pip=True)
        run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", package)
        return folder / "bin"

    return install


def by_mnn(programs: Path, model: Path, out: Path) -> list[str]:
    run(programs / "mnnconvert", "-f", "TFLITE", "--modelFile", model, "--MNNModel", out, "--bizCode", "test")
    told = run(programs / "python", "-c", MNN_GRAPH, out)
    return [line for line in told.splitlines() if line.startswith("row")]


def by_tosa(programs: Path, model: Path, out: Path) -> list[str]:
    run(programs / "tosa-converter-for-tflite", model, "--text", "-o", out)
    # What is said of the whole file (its description, the version it needs) is left out of a slimmed one.
    return [line for line in out.read_text().splitlines() if not line.startswith("module")]


def by_vela(programs: Path, model: Path, out: Path) -> list[str]:
    """The compiled file's operators and shapes, and the summary's numbers."""
    run(programs / "vela", model, "--accelerator-config", "ethos-u55-128", "--output-dir", out)
    (made,), (summary,) = out.glob("*_vela.tflite"), out.glob("*_summary_*.csv")
    tables = schema.ModelT.InitFromPackedBuf(made.read_bytes(), 0)
    (graph,) = tables.subgraphs
    codes = [(code.builtinCode, code.customCode) for code in tables.operatorCodes]
    rows = [
        f"{codes[op.opcodeIndex]} {[list(graph.tensors[i].shape) for i in (*op.inputs, *op.outputs)]}"
        for op in graph.operators
    ]
    with summary.open() as file:
        (facts,) = csv.DictReader(file)
    return rows + [f"{key} {value}" for key, value in facts.items() if key != "network"]


@pytest.mark.parametrize(
    ("package", "rows", "models"),
    [(MNN, by_mnn, MODELS), (TOSA, by_tosa, MODELS), (VELA, by_vela, INTEGER)],
    ids=["MNN", "TOSA", "vela"],
)
def test_other_readers_see_what_they_saw_before(
    data: Path,
    tmp_path: Path,
    tool: Callable[[str], Path],
    package: str,
    rows: Callable[[Path, Path, Path], list[str]],
    models: tuple[str, ...],
) -> None:
    programs = tool(package)
    for name in models:
        slimmed = slim(read(data / name), tmp_path / "model.tflite")
        assert slimmed.left is None
        before, after = (
            rows(programs, path, tmp_path / f"{Path(name).stem}-{kind}")
            for kind, path in (("before", data / name), ("after", slimmed.path))
        )
        assert len(before) > 10
        assert after == before, name
