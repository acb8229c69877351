"""The .tflite reader: what it says of real models, and that damage is always a ModelError."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgecompile.errors import ModelError
from edgecompile.tflite_file import TfliteModel, read
from edgecompile.tflite_file.graph import BITS, UNSIZED
from edgecompile.tflite_file.reading import dtypes

KWS = "models/mlperf_tiny/kws/kws_ref_model.tflite"
RESNET = "models/mlperf_tiny/ic/pretrainedResnet_quant.tflite"
RESNET_FLOAT = "models/mlperf_tiny/ic/pretrainedResnet.tflite"
WITH_LABELS = "models/detection/coco_ssd_mobilenet_v1_1.0_quant_2018_06_29.tflite"
TEXT = "models/text/sst2_transformer_fp32.tflite"


@pytest.mark.parametrize(
    ("name", "macs"),
    [
        (RESNET, 12_501_632),
        (RESNET_FLOAT, 12_501_632),
        (KWS, 2_656_768),
        ("models/mlperf_tiny/ad/ad01_int8.tflite", 264_192),
        ("models/mlperf_tiny/vww/vww_96_int8.tflite", 7_489_664),
    ],
)
def test_macs_are_those_published(data: Path, name: str, macs: int) -> None:
    assert read(data / name).macs == macs


def test_all_real_models_are_read_as_litert_reads_them(data: Path) -> None:
    """Shapes, names and dtypes against LiteRT's own view; constants too, where it can show them."""
    paths = sorted((data / "models").rglob("*.tflite"))
    assert len(paths) >= 10
    for path in paths:
        graph = read(path).main
        interpreter = Interpreter(str(path), num_threads=1)
        for details in interpreter.get_tensor_details()[: len(graph.tensors)]:
            tensor = graph.tensors[details["index"]]
            assert tensor.name == details["name"]
            assert list(tensor.shape) == details["shape"].tolist()
            assert np.dtype(tensor.dtype) == np.dtype(details["dtype"])
            scales = details["quantization_parameters"]["scales"].tolist()
            assert list(tensor.quantization.scales if tensor.quantization else ()) == scales
        assert list(graph.inputs) == [d["index"] for d in interpreter.get_input_details()]
        assert [op.name for op in graph.operators if not op.custom] == [
            d["op_name"] for d in interpreter._get_ops_details()[: len(graph.operators)] if d["op_name"] != "CUSTOM"
            and not d["op_name"].startswith("TFLite_")
        ]  # fmt: skip


def test_constants_have_the_values_litert_has(data: Path) -> None:
    model = read(data / RESNET)
    interpreter = Interpreter(str(data / RESNET), num_threads=1)
    interpreter.allocate_tensors()
    constants = [tensor for tensor in model.main.tensors if tensor.is_constant]
    assert len(constants) > 10
    for tensor in constants:
        np.testing.assert_array_equal(model.data(tensor), interpreter.get_tensor(tensor.index))


def test_signature_names_come_from_the_signature_else_from_the_tensors(data: Path) -> None:
    text = read(data / TEXT).signature
    assert [(i.name, i.shape, i.dtype) for i in text.inputs] == [("input_ids", (-1, 32), "int32")]
    assert [o.name for o in text.outputs] == ["logits"]
    kws = read(data / KWS).signature
    (given_input,) = kws.inputs
    assert (given_input.name, given_input.zero_point) == ("input_1", 83)
    assert given_input.scale == pytest.approx(0.584703, rel=1e-5)


def test_options_are_plain_names_and_custom_operators_have_their_code(data: Path) -> None:
    first = read(data / RESNET).main.operators[0]
    assert first.name == "CONV_2D"
    assert first.options["padding"] == "SAME"
    assert first.options["fused_activation_function"] == "RELU"
    assert (first.options["stride_w"], first.options["dilation_w_factor"]) == (1, 1)
    custom = [op for op in read(data / WITH_LABELS).main.operators if op.custom]
    assert [op.name for op in custom] == ["TFLite_Detection_PostProcess"]


def test_sparsity_counts_the_zero_point_of_each_channel(data: Path, tmp_path: Path) -> None:
    model = read(data / RESNET)
    index = next(t.index for t in model.main.tensors if t.is_constant and len(t.shape) == 4)
    values = model.data(model.main.tensors[index]).copy()
    channels = values.shape[0]
    points = [3 * (c % 2) for c in range(channels)]
    values[...] = 7
    values[: channels // 2] = np.array(points[: channels // 2]).reshape(-1, 1, 1, 1)

    def change(packed: Any) -> None:
        tensor = packed.subgraphs[0].tensors[index]
        packed.buffers[tensor.buffer].data = np.frombuffer(values.astype(np.int8).tobytes(), np.uint8)
        tensor.quantization.zeroPoint = points

    changed = read(write(data / RESNET, tmp_path, change))
    found = changed.sparsity(changed.main.tensors[index])
    assert (found.zeros, found.unique, found.elements) == (0.5, 3, values.size)


@pytest.mark.parametrize(
    ("dtype", "stored", "expected"),
    [
        ("INT4", [0x21, 0xF8, 0x07], [1, 2, -8, -1, 7]),
        ("UINT4", [0x21, 0xF8, 0x07], [1, 2, 8, 15, 7]),
        ("INT2", [0b11100100, 0b00000010], [0, 1, -2, -1, -2]),
        ("BFLOAT16", [0x80, 0x3F, 0x00, 0xC0, 0, 0, 0x80, 0x3F, 0x80, 0x3F], [1.0, -2.0, 0.0, 1.0, 1.0]),
    ],
)
def test_packed_constants(data: Path, tmp_path: Path, dtype: str, stored: list[int], expected: list[float]) -> None:
    def change(packed: Any) -> None:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = b"packed", [5], getattr(schema.TensorType, dtype)
        buffer = schema.BufferT()
        buffer.data = np.array(stored, np.uint8)
        tensor.buffer = len(packed.buffers)
        packed.buffers.append(buffer)
        packed.subgraphs[0].tensors.append(tensor)

    model = read(write(data / KWS, tmp_path, change))
    assert model.data(model.main.tensors[-1]).tolist() == expected


def test_every_type_of_the_schema_has_a_size() -> None:
    assert {*BITS, *UNSIZED} == set(dtypes().values())


# Damage ------------------------------------------------------------------------------------------


def write(source: Path, folder: Path, change: Callable[[Any], None]) -> Path:
    """A copy of a model with its parts changed."""
    packed = schema.ModelT.InitFromPackedBuf(source.read_bytes())
    change(packed)
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(packed.Pack(builder), b"TFL3")
    path = folder / "changed.tflite"
    path.write_bytes(builder.Output())
    return path


def set_quantization(**fields: Any) -> Callable[[Any], None]:
    """Of the first convolution's weights: the first tensor of rank 4 with many scales."""

    def change(packed: Any) -> None:
        tensors = packed.subgraphs[0].tensors
        chosen = next(t for t in tensors if len(t.shape) == 4 and np.size(getattr(t.quantization, "scale", None)) > 1)
        for field, value in fields.items():
            setattr(chosen.quantization, field, value)

    return change


def set_scale(value: float) -> Callable[[Any], None]:
    def change(packed: Any) -> None:
        packed.subgraphs[0].tensors[0].quantization.scale = [value]

    return change


def on_graph(change: Callable[[Any], None]) -> Callable[[Any], None]:
    return lambda packed: change(packed.subgraphs[0])


def in_operator(field: str, value: list[int], index: int = 3) -> Callable[[Any], None]:
    return on_graph(lambda graph: setattr(graph.operators[index], field, value))


def add_signature(packed: Any) -> None:
    signature, entry = schema.SignatureDefT(), schema.TensorMapT()
    entry.name, entry.tensorIndex = b"x", 9999
    signature.signatureKey, signature.inputs, signature.outputs = b"serving_default", [entry], []
    packed.signatureDefs = [signature]


def cut_constant(packed: Any) -> None:
    buffer = max(packed.buffers, key=lambda b: 0 if b.data is None else len(b.data))
    buffer.data = buffer.data[:-1]


DAMAGE: dict[str, tuple[Callable[[Any], None], str]] = {
    "operator input": (in_operator("inputs", [9999, 1, 2]), r"inputs: expected tensors below \d+, received index 9999"),
    "operator input below -1": (in_operator("inputs", [-2, 1, 2]), "received index -2"),
    "operator output": (in_operator("outputs", [12345]), "outputs: expected tensors below .* received index 12345"),
    "graph input": (on_graph(lambda g: setattr(g, "inputs", [777])), "inputs: expected tensors below .* 777"),
    "graph output": (on_graph(lambda g: setattr(g, "outputs", [777])), "outputs: expected tensors below .* 777"),
    "buffer": (on_graph(lambda g: setattr(g.tensors[1], "buffer", 4000)), "expected a buffer below .* received 4000"),
    "operator code": (on_graph(lambda g: setattr(g.operators[0], "opcodeIndex", 99)), "operator code below .* 99"),
    "dimension": (set_quantization(quantizedDimension=4), "quantized dimension from 0 to 3, received 4"),
    "negative dimension": (set_quantization(quantizedDimension=-1), "quantized dimension from 0 to 3, received -1"),
    "scales": (set_quantization(scale=[0.1] * 5, zeroPoint=[0] * 5), r"expected 1 or 64 scales .*, received 5"),
    "zero points": (set_quantization(zeroPoint=[0] * 3), "expected 64 zero points, .* received 3"),
    "zero point's range": (set_quantization(zeroPoint=[128] * 64), "zero points from -128 to 127, received 128"),
    "scale 0": (set_scale(0.0), "expected finite scales above 0, received 0"),
    "scale below 0": (set_scale(-0.5), "expected finite scales above 0, received -0.5"),
    "scale NaN": (set_scale(math.nan), "expected finite scales above 0, received nan"),
    "scale infinite": (set_scale(math.inf), "expected finite scales above 0, received inf"),
    "constant": (cut_constant, r"expected 4096 bytes for int8\[64, 1, 1, 64\], received 4095"),
    "type": (on_graph(lambda g: setattr(g.tensors[1], "type", 99)), "expected a type from 0 to .*, received 99"),
    "shape": (on_graph(lambda g: setattr(g.tensors[0], "shape", [1, -5, 10, 1])), "sizes of -1 .* or more"),
    "gigabytes": (on_graph(lambda g: setattr(g.tensors[-1], "shape", [2, 2**31 - 1])), "expected 2 GiB at most"),
    "order": (on_graph(lambda g: g.operators.reverse()), "which nothing before it produces"),
    "unproduced output": (on_graph(lambda g: g.operators.pop()), "is produced by no operator"),
    "weights' rank": (in_operator("inputs", [0, 0, 0], 11), "expected input 1 of rank 2"),
    "no weights": (in_operator("inputs", [0, -1], 11), "expected 2 inputs or more"),
    "signature": (add_signature, "signature 'serving_default', input 'x': .* received tensor 9999"),
    "no subgraph": (lambda packed: setattr(packed, "subgraphs", []), "at least one subgraph, received none"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named(data: Path, tmp_path: Path, damage: str) -> None:
    change, message = DAMAGE[damage]
    path = write(data / KWS, tmp_path, change)
    with pytest.raises(ModelError, match=message) as caught:
        read(path)
    assert str(path) in caught.value.message


def test_a_rewritten_model_is_still_sound(data: Path, tmp_path: Path) -> None:
    """What the table above changes is what makes it fail, not the rewriting."""
    copy = read(write(data / KWS, tmp_path, lambda _: None))
    assert copy.subgraphs == read(data / KWS).subgraphs


def test_what_is_no_model_at_all(tmp_path: Path) -> None:
    empty, other = tmp_path / "empty.tflite", tmp_path / "other.tflite"
    empty.touch()
    other.write_bytes(b"PK\x03\x04 this is an archive, say")
    for path, message in (
        (tmp_path / "none.tflite", "no such file"),
        (tmp_path, "received a folder"),
        (empty, "received an empty file"),
        (other, "expected a .tflite file .*TFL3.* received b' thi'"),
    ):
        with pytest.raises(ModelError, match=message):
            read(path)


@pytest.mark.parametrize("name", [KWS, TEXT, WITH_LABELS])
def test_a_file_cut_anywhere_is_refused(data: Path, tmp_path: Path, name: str) -> None:
    content = (data / name).read_bytes()
    chosen = random.Random(0)
    lengths = [*range(24), *(len(content) - cut for cut in range(1, 33))]
    lengths += [chosen.randrange(len(content)) for _ in range(60)]
    path = tmp_path / "cut.tflite"
    for length in lengths:
        path.write_bytes(content[:length])
        with pytest.raises(ModelError):
            read(path)


def use(model: TfliteModel) -> None:
    """All that can be asked of a model that was accepted."""
    assert model.macs >= 0
    assert len(model.signature.inputs) == len(model.subgraphs[0].inputs) or model.signatures
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if tensor.is_constant and tensor.dtype not in UNSIZED and not tensor.dtype.startswith("float8"):
                if tensor.is_sparse:
                    continue
                assert model.data(tensor).shape == tensor.shape
                model.sparsity(tensor)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=4)), max_size=8),
    cut=st.one_of(st.just(1.0), st.floats(0, 1)),
    structure=st.booleans(),
)
def test_hostile_bytes_give_a_model_or_a_model_error(
    data: Path, tmp_path: Path, flips: list[tuple[float, bytes]], cut: float, structure: bool
) -> None:
    content = bytearray((data / KWS).read_bytes())
    # Tables lie at both ends of this file, weights between: half of the examples leave the weights alone.
    for place, new in flips:
        at = int(place * len(content))
        if structure:
            at = len(content) - 1 - int(place * 20_000) if at % 2 else int(place * 2_000)
        content[at : at + len(new)] = new[: len(content) - at]
    path = tmp_path / "hostile.tflite"
    path.write_bytes(content[: int(cut * len(content))])
    try:
        model = read(path)
    except ModelError:
        return
    use(model)
