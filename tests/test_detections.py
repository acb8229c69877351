"""Lists of detections are judged by the objects in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from backends.networks import real_inputs
from hypothesis import given, settings
from hypothesis import strategies as st
from running import run_cli

from edgecompile.backends.onnx.graph import export
from edgecompile.compare import Parity
from edgecompile.detections import Lists, lists_of
from edgecompile.errors import UnsupportedLayerError
from edgecompile.parity import Outputs, verdicts
from edgecompile.tflite_file import read

Array = npt.NDArray[Any]
LISTS = Lists("boxes", "classes", "scores", "count")
SSD = "models/detection/coco_ssd_mobilenet_v1_1.0_quant_2018_06_29.tflite"
SAMPLES, MOST = 4, 10


def objects(seed: int = 0) -> dict[str, Array]:
    """Boxes far enough apart to be told from each other, the best scores first."""
    rng = np.random.default_rng(seed)
    corners = np.stack(np.meshgrid(np.arange(5), np.arange(2)), -1).reshape(-1, 2)[None] / 5
    corners = corners + rng.uniform(0, 0.05, (SAMPLES, MOST, 2))
    return {
        "boxes": np.concatenate([corners, corners + 0.15], -1).astype(np.float32),
        "classes": rng.integers(0, 5, (SAMPLES, MOST)).astype(np.float32),
        "scores": -np.sort(-rng.uniform(0.2, 0.9, (SAMPLES, MOST))).astype(np.float32),
        "count": np.full(SAMPLES, MOST, np.float32),
    }


def judged(found: dict[str, Array], of: dict[str, Array], known: dict[str, Array]) -> dict[str, Parity]:
    return verdicts(found, of, known, Outputs({}, {}, {}, floats=False, lists=LISTS))


def passed(found: dict[str, Array], of: dict[str, Array], known: dict[str, Array]) -> bool:
    return all(verdict.passed for verdict in judged(found, of, known).values())


def with_others(of: dict[str, Array], count: int) -> dict[str, Array]:
    """The last of each list are other objects."""
    made = {name: array.copy() for name, array in of.items()}
    made["boxes"][:, MOST - count :] = [0.9, 0.9, 1.0, 1.0]
    return made


@settings(deadline=None)
@given(st.integers(0, 100), st.permutations(range(MOST)))
def test_the_order_is_nothing(seed: int, order: list[int]) -> None:
    of = objects(seed)
    found = {name: array[:, order] if array.ndim > 1 else array for name, array in of.items()}
    for verdict in judged(found, of, of).values():
        assert verdict.passed
        assert verdict.max_abs == 0


def test_as_many_others_as_three_times_those_of_xnnpack() -> None:
    of = objects()
    assert passed(with_others(of, 1), of, with_others(of, 1))
    assert passed(with_others(of, 2), of, with_others(of, 1))
    assert not passed(with_others(of, 1), of, of)
    assert not passed(with_others(of, 3), of, with_others(of, 3)), "a quarter at most"


@pytest.mark.parametrize("most", [13, 14, 22, 23])
def test_three_times_is_allowed_whatever_the_length(most: int) -> None:
    """Which rounding made more of in shares."""
    of = objects()
    of = {
        name: np.concatenate([array, array, array], 1)[:1, :most] if array.ndim > 1 else array[:1]
        for name, array in of.items()
    }
    of["boxes"] = of["boxes"] + 2 * np.arange(most, dtype=np.float32)[None, :, None]
    of["count"] = np.full(1, most, np.float32)

    def others(count: int) -> dict[str, Array]:
        made = {name: array.copy() for name, array in of.items()}
        made["boxes"][:, most - count :] += 500
        return made

    assert passed(others(3), of, others(1))
    assert not passed(others(4), of, others(1))


@pytest.mark.parametrize(("name", "by"), [("scores", 0.4), ("boxes", 0.02), ("classes", 1.0)])
def test_objects_that_are_wrong(name: str, by: float) -> None:
    of = objects()
    wrong = {**of, name: of[name] + np.float32(by)}
    assert not passed(wrong, of, of)
    slightly = {**of, name: of[name] + np.float32(by / 4)}
    if name != "classes":
        assert passed(slightly, of, {**of, name: of[name] - np.float32(by / 4)})


def test_what_is_more_than_the_count_is_none() -> None:
    of = {**objects(), "count": np.array([0, 3, 10, 1], np.float32)}
    found = {name: array.copy() for name, array in of.items()}
    for name in ("boxes", "classes", "scores"):
        found[name][0], found[name][1, 3:] = 7, 7
        of[name][0] = 1e6  # no part of the range that differences are a share of
    assert passed(found, of, of)
    wrong = {**found, "scores": found["scores"] + np.float32(0.4)}
    assert not passed(wrong, of, of)
    one_more = {**found, "count": np.array([0, 4, 10, 1], np.float32)}
    assert not passed(one_more, of, found)
    assert passed(one_more, of, one_more)
    assert passed(wrong, wrong, of), "equal"
    none = {**of, "count": np.zeros(SAMPLES, np.float32)}
    assert passed(none, none, none)
    assert not passed(of, none, none)


def test_a_detector_keeps_its_fast_engines(data: Path, cache_folder: Path, tmp_path: Path) -> None:
    """XNNPACK's lists differ from the reference kernels' in places that say nothing."""
    del cache_folder
    assert lists_of(read(data / SSD)) is not None
    np.savez(tmp_path / "coco.npz", x=real_inputs("coco", data, 12))
    options = ("--recipe", "float", "--data", "coco.npz", "--backends", "litert", "--out", "b")
    done = run_cli("build", str(data / SSD), *options, cwd=tmp_path)
    assert done.code == 0, done.err
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    found = {c["id"]: c for c in manifest["candidates"]}
    assert {name: c["passed"] for name, c in found.items()} == {"litert-xnnpack": True, "litert-builtin": True}
    assert not all(p["exact"] for p in found["litert-xnnpack"]["parity"].values())
    assert run_cli("verify", "b", cwd=tmp_path).code == 0


def test_onnx_names_what_it_can_not_take(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedLayerError, match=r"\d dimensions in the graph of tf2onnx and \d in the file"):
        export(data / SSD, tmp_path / "model.onnx", opset=17, symmetric=False)
