"""Models that LiteRT's reference kernels can't judge: what stands for them, and that it is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from backends.operators import OneOperator
from running import run_cli

from edgecompile.backends.litert import BUILTIN, REFERENCE, named_kernels, reference_kernels
from edgecompile.tflite_file import read


def written(path: Path, name: str, kind: str = "NONE", options: Any = None, dtype: str = "float32") -> Path:
    made, scales = OneOperator(), [0.1] if dtype != "float32" else []
    made.tensor((1, 4), dtype, scales, 3)
    if name == "SUM":
        made.tensor((1,), "int32", constant=np.array([1]))
    made.tensor((1,) if name == "SUM" else (1, 4), dtype, scales, 3)
    return made.write(name, kind, options, path, version=1)


@pytest.mark.parametrize(
    ("name", "kind", "dtype", "why"),
    [
        ("ELU", "NONE", "float32", "lack ELU"),
        ("CEIL", "NONE", "float32", "lack CEIL"),
        ("ROUND", "NONE", "float32", "lack ROUND"),
        ("SUM", "ReducerOptions", "int8", "add int8 up wrongly"),
        ("SUM", "ReducerOptions", "float32", ""),
        ("FLOOR", "NONE", "float32", ""),
    ],
)  # fmt: skip
def test_what_stands_for_them(name: str, kind: str, dtype: str, why: str, tmp_path: Path) -> None:
    options = schema.ReducerOptionsT() if name == "SUM" else None
    model = read(written(tmp_path / "m.tflite", name, kind, options, dtype))
    assert reference_kernels(model) == (BUILTIN if why else REFERENCE)
    named = f"LiteRT's default kernels (its reference kernels {why})" if why else "LiteRT's reference kernels"
    assert named_kernels(model) == named


def test_a_model_that_no_kernels_take(tmp_path: Path) -> None:
    """It is LiteRT's refusal by its reference kernels that is told then."""
    assert reference_kernels(read(written(tmp_path / "m.tflite", "CEIL", dtype="int8"))) == REFERENCE


@pytest.mark.slow
def test_a_build_of_an_operator_that_they_lack(tmp_path: Path) -> None:
    model = written(tmp_path / "elu.tflite", "ELU")
    np.savez(tmp_path / "some.npz", x=np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32))
    words = ("build", model, "--data", "some.npz", "--recipe", "float", "--out", "made", "--backends", "litert")
    built = run_cli(*words, cwd=tmp_path)
    assert built.code == 0, built.err
    assert "agree with LiteRT's default kernels (its reference kernels lack ELU)" in built.err + built.out
    verified = run_cli("verify", "made", cwd=tmp_path)
    assert verified.code == 0, verified.err
    assert "LiteRT's default kernels (its reference kernels lack ELU)" in verified.err + verified.out
    assert "against LiteRT&#39;s default kernels" in (tmp_path / "made/report.html").read_text()
