"""TFLite_Detection_PostProcess in the TVM backend, against LiteRT's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from ai_edge_litert import schema_py_generated as schema
from backends.compiled import FAST, compiled
from backends.operators import OneOperator
from flatbuffers import flexbuffers

from edgecompile.backends.litert import REFERENCE, LiteRtRunner
from edgecompile.errors import DeviceError, ModelError, UnsupportedLayerError
from edgecompile.tflite_file.writing import write_tables

Array = npt.NDArray[Any]
NAME = "TFLite_Detection_PostProcess"
OPTIONS: dict[str, Any] = {
    "max_detections": 9, "max_classes_per_detection": 1, "num_classes": 7, "nms_score_threshold": 0.1,
    "nms_iou_threshold": 0.4, "y_scale": 10.0, "x_scale": 10.0, "h_scale": 5.0, "w_scale": 5.0,
}  # fmt: skip
BOXES = 40


def written(
    path: Path, dtype: str = "float32", width: int = 4, background: int = 1, content: bytes = b"",
    anchors: Array | None = None, **more: Any,
) -> Path:  # fmt: skip
    """content: what stands for the options where they are damaged."""
    made, options = OneOperator(), {**OPTIONS, **more}
    whole, rows = dtype != "float32", options["max_detections"] * options["max_classes_per_detection"]
    made.tensor((1, BOXES, width), dtype, [0.05] if whole else [], 120)
    made.tensor((1, BOXES, options["num_classes"] + background), dtype, [1 / 256] if whole else [], 0)
    if anchors is None:
        rng = np.random.default_rng(7)
        anchors = rng.integers(3, 203, (BOXES, 4)) if whole else rng.uniform(0.1, 1, (BOXES, 4))
    made.tensor((BOXES, 4), dtype, [1 / 200] if whole else [], 3, anchors)
    for shape in ((1, rows, 4), (1, rows), (1, rows), (1,)):
        made.tensor(shape, "float32")
    code, call = schema.OperatorCodeT(), schema.OperatorT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = schema.BuiltinOperator.CUSTOM, 32, 1
    code.customCode = NAME.encode()
    call.inputs, call.outputs, call.opcodeIndex = [0, 1, 2], [3, 4, 5, 6], 0
    call.customOptions = np.frombuffer(content or bytes(flexbuffers.Dumps(options)), np.uint8)
    graph = schema.SubGraphT()
    graph.tensors, graph.inputs, graph.outputs = made.tensors, [0, 1], call.outputs
    graph.operators = [call]
    model = schema.ModelT()
    model.version, model.subgraphs, model.buffers, model.operatorCodes = 3, [graph], made.buffers, [code]
    return write_tables(model, path)


def samples(dtype: str, width: int = 4, columns: int = 8, seed: int = 0) -> dict[str, Array]:
    """Few different scores, so that many are equal, and boxes without any that is a number."""
    rng = np.random.default_rng(seed)
    if dtype == "uint8":
        found = rng.integers(60, 180, (1, BOXES, width)), rng.integers(0, 256, (1, BOXES, columns)) // 32 * 32
    else:
        found = 2 * rng.normal(size=(1, BOXES, width)), rng.integers(0, 9, (1, BOXES, columns)) / 8
        found[1][:, seed::7] = np.nan
    return {f"t{number}": array.astype(dtype) for number, array in enumerate(found)}


def detected(outputs: dict[str, Array], each: int = 1, classes: int = 7) -> list[Array]:
    """Boxes, classes and scores of the detections that there are, and how many."""
    boxes, kinds, scores, count = outputs.values()
    many, held = int(count.item()), min(each, classes)
    parts = [boxes.reshape(-1, each, 4), kinds.reshape(-1, each), scores.reshape(-1, each)]
    return [*(part[:many, :held] for part in parts), count]


@pytest.mark.parametrize(
    ("dtype", "width", "background", "more"),
    [
        ("float32", 4, 1, {}),
        ("uint8", 4, 1, {}),
        ("float32", 6, 0, {"max_classes_per_detection": 3}),
        ("uint8", 5, 0, {"max_classes_per_detection": 9, "max_detections": 60}),  # more than there are
        ("float32", 4, 1, {"use_regular_nms": True, "detections_per_class": 5}),
        ("uint8", 4, 0, {"use_regular_nms": True, "max_detections": 50}),
        ("uint8", 4, 1, {"use_regular_nms": True, "max_detections": 1}),
        ("uint8", 4, 1, {"nms_score_threshold": 0.99}),  # none
    ],
)  # fmt: skip
def test_the_same_detections(dtype: str, width: int, background: int, more: dict[str, Any], tmp_path: Path) -> None:
    """In LiteRT's order, where scores are equal too. Behind those that there are all is 0."""
    path = written(tmp_path / "m.tflite", dtype, width, background, **more)
    reference, ours = LiteRtRunner(path, REFERENCE), compiled(path, FAST)
    each = more.get("max_classes_per_detection", 1)
    for seed in range(6):
        x = samples(dtype, width, 7 + background, seed)
        expected, found = reference.run(x), ours.run(x)
        for a, b in zip(detected(found, each), detected(expected, each), strict=True):
            assert np.array_equal(a, b, equal_nan=True)
        many = int(next(reversed(found.values())).item())
        assert not found["t4"].reshape(-1, each)[many:].any()


def test_boxes_that_litert_refuses(tmp_path: Path) -> None:
    """With a size below 0."""
    path = written(tmp_path / "m.tflite", anchors=np.where(np.arange(4) == 2, -1, np.ones((BOXES, 1))))
    with pytest.raises(ModelError):
        LiteRtRunner(path, REFERENCE).run(samples("float32"))
    with pytest.raises(DeviceError, match="a box ends before it begins"):
        compiled(path, FAST).run(samples("float32"))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"content": b"\x01"}, "its options are damaged"),
        ({"content": b"\xff" * 40}, "its options are damaged"),
        ({"content": bytes(flexbuffers.Dumps({"max_detections": 3}))}, "no number max_classes_per_detection"),
        ({"num_classes": 3, "background": 4}, r"scores \[1, 40, 7\] and 3 classes"),
        ({"nms_iou_threshold": 0.0}, "an overlap of 0.0"),
        ({"max_detections": 0}, "0 detections"),
        ({"dtype": "int8"}, "of int8"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense(more: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedLayerError, match=f"operator 0 \\({NAME}, 't3'\\): .*{said}"):
        compiled(written(tmp_path / "m.tflite", **more), FAST)
