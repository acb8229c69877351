"""Slimming a .tflite: fewer bytes, the same outputs to the bit, and what can't be written again stays as it is."""

from __future__ import annotations

import itertools
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgecompile.artifact import TFLITE, Artifact, Signature, TensorInfo
from edgecompile.backends.litert import LiteRtRunner
from edgecompile.errors import CompressionGateError
from edgecompile.loaders.base import LoadOptions
from edgecompile.stages import slim as stage
from edgecompile.stages.base import Context
from edgecompile.tflite_file import Slimmed, bytes_by_part, read, slim, with_signature
from edgecompile.tflite_file.layout import CompactBuilder
from edgecompile.tflite_file.structure import _Walk

TINY = "models/mlperf_tiny"
KWS, RESNET = f"{TINY}/kws/kws_ref_model.tflite", f"{TINY}/ic/pretrainedResnet_quant.tflite"
STREAMING = f"{TINY}/sww/str_ww_ref_model.tflite"
WITH_LABELS = "models/detection/coco_ssd_mobilenet_v1_1.0_quant_2018_06_29.tflite"
# Each with the most bytes it may have once slim.
REAL = {
    KWS: 33_200,
    RESNET: 86_500,
    STREAMING: 60_400,
    f"{TINY}/kws/kws_ref_model_float32.tflite": 36_500,
    f"{TINY}/ic/pretrainedResnet.tflite": 313_900,
    f"{TINY}/ad/ad01_int8.tflite": 273_900,
    f"{TINY}/ad/ad01_fp32.tflite": 1_065_600,
    f"{TINY}/vww/vww_96_int8.tflite": 253_900,
    f"{TINY}/vww/vww_96_float.tflite": 849_900,
    WITH_LABELS: 4_166_100,
    "models/imagenet/tf2_mobilenet_v2_1.0_224_ptq.tflite": 3_768_400,
    "models/text/sst2_transformer_fp32.tflite": 2_432_500,
}
XNNPACK, REFERENCE = OpResolverType.AUTO, OpResolverType.BUILTIN_REF


def drawn(details: Any, rng: np.random.Generator) -> Any:
    if np.issubdtype(details["dtype"], np.floating):
        return rng.normal(size=details["shape"]).astype(details["dtype"])
    small = details["dtype"] in (np.int32, np.int64)  # indices
    info = np.iinfo(np.int8 if small else details["dtype"])
    low, high = (0, 2) if small else (info.min, info.max)
    return rng.integers(low, high, details["shape"], endpoint=True).astype(details["dtype"])


def plain(array: Any) -> Any:
    return array.tolist() if array.dtype == object else array.tobytes()


def observed(path: Path, kernels: Any, module: Any = Interpreter) -> dict[str, Any]:
    """Everything a user of the interpreter sees: outputs, of every signature (twice: state lives on), signatures,
    operators with the delegates that took them, shapes and quantization of inputs and outputs."""
    engine = module(str(path), num_threads=1, experimental_op_resolver_type=kernels)
    engine.allocate_tensors()
    rng = np.random.default_rng(0)
    ends = engine.get_input_details() + engine.get_output_details()
    seen: dict[str, Any] = {
        "signatures": engine.get_signature_list(),
        "ends": [(d["index"], d["shape_signature"].tolist(), d["dtype"], d["quantization"]) for d in ends],
    }
    if not seen["signatures"]:
        seen["names"] = [d["name"] for d in ends]
        for details in engine.get_input_details():
            engine.set_tensor(details["index"], drawn(details, rng))
        engine.invoke()
        seen["outputs"] = [plain(engine.get_tensor(d["index"])) for d in engine.get_output_details()]
    for key, turn in itertools.product(seen["signatures"], range(2)):
        runner = engine.get_signature_runner(key)
        given_inputs = {name: drawn(d, rng) for name, d in runner.get_input_details().items()}
        seen[f"{key} {turn}"] = {name: plain(array) for name, array in runner(**given_inputs).items()}
    seen["operators"] = [op["op_name"] for op in engine._get_ops_details()]
    return seen


def slimmed(path: Path, folder: Path) -> Slimmed:
    return slim(read(path), folder / f"slim-{path.name}")


def check(path: Path, folder: Path, kernels: tuple[Any, ...] = (XNNPACK, REFERENCE)) -> Slimmed:
    """Slim the file, and hold the result to all that is promised of it."""
    done = slimmed(path, folder)
    assert done.left is None
    for each in kernels:
        assert observed(done.path, each) == observed(path, each)
    assert done.bytes_before == path.stat().st_size
    assert done.bytes_after == done.path.stat().st_size < done.bytes_before
    assert sum(done.saved.values()) == done.bytes_before - done.bytes_after
    again = slimmed(done.path, folder)
    assert again.path.read_bytes() == done.path.read_bytes()
    assert set(again.saved.values()) == {0}
    content = done.path.read_bytes()
    Aligned(content).model()
    assert len(content) % 4 == 0 or zipfile.is_zipfile(done.path)
    before, after = read(path), read(done.path)
    assert after.signature == before.signature
    for old, new in zip(before.subgraphs, after.subgraphs, strict=True):
        assert (new.inputs, new.outputs, new.operators) == (old.inputs, old.outputs, old.operators)
        for a, b in zip(old.tensors, new.tensors, strict=True):
            assert (b.shape, b.shape_signature, b.dtype, b.quantization) == (
                a.shape, a.shape_signature, a.dtype, a.quantization,
            )  # fmt: skip
            assert before.buffers[a.buffer].tobytes() == after.buffers[b.buffer].tobytes()
    return done


class Aligned(_Walk):
    """As the verifier of FlatBuffers has it: everything at a multiple of its size, constants at a multiple of 16."""

    def number(self, code: str, at: int, what: str) -> int:
        assert at % struct.calcsize(code) == 0 or code == "<B", what
        return super().number(code, at, what)

    def vector(self, at: int, width: int, what: str) -> tuple[int, int]:
        start, count = super().vector(at, width, what)
        assert start % (16 if what.startswith("Buffer,") else width) == 0, what
        return start, count


@pytest.mark.parametrize("name", REAL)
def test_real_models_lose_bytes_and_nothing_else(data: Path, tmp_path: Path, name: str) -> None:
    large = name in (WITH_LABELS, "models/imagenet/tf2_mobilenet_v2_1.0_224_ptq.tflite")
    done = check(data / name, tmp_path, (XNNPACK,) if large else (XNNPACK, REFERENCE))
    assert done.bytes_after <= REAL[name]
    assert done.saved["names"] > 1000


def test_where_the_bytes_were(data: Path, tmp_path: Path) -> None:
    before = bytes_by_part(data / KWS)
    done = slimmed(data / KWS, tmp_path)
    after = bytes_by_part(done.path)
    assert sum(before.values()) == 53_936
    assert before["buffers"] == after["buffers"] == 24_376 + 84  # constants, and the length before each of 21
    assert before["names"] >= 5_459
    # One name a tensor: those of the signature, and one letter for each of the others.
    assert after["names"] == sum(4 + len(name) + 1 for name in ("input_1", "Identity", *("x" for _ in range(33))))
    # 2 x 4 bytes of scale for each of 577 channels of the weights and biases stay; zero points are stored once.
    assert before["quantization"] > 18_736
    assert 4_500 < after["quantization"] < 6_000
    assert after["metadata"] == 0


def test_names_are_short_and_unique(data: Path, tmp_path: Path) -> None:
    slimmed = read(slim(read(data / f"{TINY}/vww/vww_96_int8.tflite"), tmp_path / "model.tflite").path)
    edges = {*slimmed.main.inputs, *slimmed.main.outputs}
    names = [tensor.name for graph in slimmed.subgraphs for tensor in graph.tensors]
    assert len(set(names)) == len(names)
    assert {slimmed.main.tensors[i].name for i in edges} == {
        t.name for t in (*slimmed.signature.inputs, *slimmed.signature.outputs)
    }
    inner = [t.name for i, t in enumerate(slimmed.main.tensors) if i not in edges]
    assert all(re.fullmatch(r"[0-9a-z]{1,2}", name) for name in inner)


def test_tensorflows_own_interpreter_takes_it(data: Path, tmp_path: Path) -> None:
    import tensorflow as tf

    for name in (RESNET, STREAMING):
        done = slimmed(data / name, tmp_path)
        kernels = tf.lite.experimental.OpResolverType.AUTO
        assert observed(done.path, kernels, tf.lite.Interpreter) == observed(data / name, kernels, tf.lite.Interpreter)


def test_labels_appended_to_a_model_are_still_found(data: Path, tmp_path: Path) -> None:
    done = slimmed(data / WITH_LABELS, tmp_path)
    with zipfile.ZipFile(data / WITH_LABELS) as old, zipfile.ZipFile(done.path) as new:
        assert new.namelist() == old.namelist() == ["labelmap.txt"]
        assert new.read("labelmap.txt") == old.read("labelmap.txt")
        assert new.testzip() is None
    content = done.path.read_bytes()
    directory = struct.unpack_from("<I", content, len(content) - 6)[0]
    assert content[directory : directory + 4] == b"PK\x01\x02"
    entry = struct.unpack_from("<I", content, directory + 42)[0]
    assert content[entry : entry + 4] == b"PK\x03\x04"
    assert "TFLITE_METADATA" in read(done.path).metadata


# Kinds of models --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small models with what the real ones lack."""
    import tensorflow as tf
    import tf_keras
    from ai_edge_quantizer import quantizer, recipe

    folder = tmp_path_factory.mktemp("kinds")
    rng = np.random.default_rng(0)
    weights = tf.constant(rng.normal(size=(8, 8)).astype(np.float32))

    def loop(x: Any) -> Any:
        def body(i: Any, y: Any) -> Any:
            return i + 1, tf.tanh(y @ weights) + x

        return {"y": tf.while_loop(lambda i, _: i < 5, body, [0, x])[1]}

    def branch(x: Any) -> Any:
        return {"y": tf.cond(tf.reduce_sum(x) > 0, lambda: x @ weights, lambda: x * 2)}

    lstm = tf_keras.Sequential([tf_keras.layers.Input((6, 4), batch_size=1), tf_keras.layers.LSTM(8)])
    dense = tf_keras.Sequential([tf_keras.layers.Input((64,), batch_size=1), tf_keras.layers.Dense(32)])
    sparse = tf_keras.Sequential([tf_keras.layers.Input((8, 8, 64), batch_size=1), tf_keras.layers.Conv2D(64, 1)])
    kernel = rng.normal(size=(1, 1, 64, 64)) * (rng.uniform(size=(1, 1, 64, 64)) < 0.1)
    sparse.set_weights([kernel, np.zeros(64)])
    holder = tf.Module()
    holder.state = tf.Variable(tf.zeros((1, 8)))

    def samples() -> Any:
        return ({"x": rng.normal(size=(1, 6, 4)).astype(np.float32)} for _ in range(4))

    def write(name: str, call: Any, shape: tuple[Any, ...], owner: Any = holder, **options: Any) -> None:
        dtype = options.pop("dtype", tf.float32)
        function = tf.function(call, input_signature=[tf.TensorSpec(shape, dtype, name="x")])
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], owner)
        for option, value in options.items():
            setattr(converter, option, value)
        (folder / f"{name}.tflite").write_bytes(converter.convert())

    write("loop", loop, (1, 8))
    write("branch", branch, (1, 8))
    write("variable", lambda x: {"y": holder.state.assign_add(x) @ weights}, (1, 8))
    write("free batch", lambda x: {"y": tf.nn.relu(x @ weights)}, (None, 8))
    write("strings", lambda x: {"y": tf.gather(tf.constant(["a", "bcd", ""]), x)}, (1, 3), dtype=tf.int32)
    write("lstm", lambda x: {"y": lstm(x)}, (1, 6, 4), lstm)
    integer = {"optimizations": [tf.lite.Optimize.DEFAULT], "representative_dataset": samples}
    write("int8 lstm", lambda x: {"y": lstm(x)}, (1, 6, 4), lstm, **integer)
    scattered = {"optimizations": [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]}
    write("sparse", lambda x: {"y": sparse(x)}, (1, 8, 8, 64), sparse, **scattered)
    write("dense", lambda x: {"y": dense(x)}, (1, 64), dense)
    wide = tf_keras.Sequential([tf_keras.layers.Input((512,), batch_size=1), tf_keras.layers.Dense(520)])
    write("wide", lambda x: {"y": wide(x)}, (1, 512), wide)
    schemes = {("dense", "int4"): recipe.dynamic_wi4_afp32(), ("wide", "outside"): recipe.dynamic_wi8_afp32()}
    for (name, quantized), scheme in schemes.items():
        engine = quantizer.Quantizer(str(folder / f"{name}.tflite"))
        engine.load_quantization_recipe(scheme)
        engine.quantize().export_model(str(folder / f"{quantized}.tflite"), overwrite=True)
    # Hardly any bytes but those of equal tables: what shared parts may cost a reader is bounded.
    write("deep", lambda x: {"y": [x := tf.sin(x) if i % 2 else tf.abs(x) for i in range(300)][-1]}, (1, 8))
    return {path.stem: path for path in folder.glob("*.tflite")}


KINDS = {
    "loop": lambda m: len(m.subgraphs) == 3,
    "branch": lambda m: len(m.subgraphs) == 3,
    "variable": lambda m: any(op.name == "ASSIGN_VARIABLE" for op in m.main.operators),
    "free batch": lambda m: m.signature.inputs[0].shape == (-1, 8),
    "strings": lambda m: any(t.dtype == "string" and t.is_constant for t in m.main.tensors),
    "lstm": lambda m: any(t.is_variable for t in m.main.tensors),
    "int8 lstm": lambda m: any(op.name == "UNIDIRECTIONAL_SEQUENCE_LSTM" for op in m.main.operators),
    "sparse": lambda m: any(t.is_sparse for t in m.main.tensors),
    "int4": lambda m: any(t.dtype == "int4" for t in m.main.tensors),
    "outside": lambda m: any(t.dtype == "int8" and t.is_constant for t in m.main.tensors),
    "deep": lambda m: len(m.main.operators) == 300,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_survives(kinds: dict[str, Path], tmp_path: Path, kind: str) -> None:
    holds: Callable[[Any], bool] = KINDS[kind]
    assert holds(read(kinds[kind]))  # the model is of the kind at all
    assert holds(read(check(kinds[kind], tmp_path).path))


def test_constants_behind_the_model_are_taken_in(kinds: dict[str, Path], tmp_path: Path) -> None:
    """ai-edge-quantizer puts them there from 256 KiB on."""

    def places(path: Path) -> list[int]:
        return [buffer.offset for buffer in schema.ModelT.InitFromPackedBuf(path.read_bytes()).buffers]

    before = kinds["outside"]
    assert max(places(before)) > 1000
    assert bytes_by_part(before)["buffers"] >= 512 * 520
    done = slimmed(before, tmp_path)
    assert set(places(done.path)) == {0}
    assert done.saved["names"] > 0


def test_a_new_signature_takes_constants_along(kinds: dict[str, Path], tmp_path: Path) -> None:
    before = read(kinds["outside"])
    names = Signature((TensorInfo("sound", (1, 512), "float32"),), (TensorInfo("class", (1, 520), "float32"),))
    x = np.random.default_rng(0).normal(size=(3, 512)).astype(np.float32)
    received = LiteRtRunner(with_signature(before, names, tmp_path / "named.tflite")).run({"sound": x})
    np.testing.assert_array_equal(received["class"], LiteRtRunner(before.path).run({"x": x})["y"])


# What is noise, and what is not -----------------------------------------------------------------


def repacked(source: Path, path: Path, change: Callable[[Any], None], builder: Any = None) -> Path:
    tables = schema.ModelT.InitFromPackedBuf(source.read_bytes())
    change(tables)
    if builder is None:
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(tables.Pack(builder), b"TFL3")
        path.write_bytes(builder.Output())
    else:
        path.write_bytes(builder.finish(tables.Pack(builder), b"TFL3"))
    return path


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1), name=st.text(max_size=20))
def test_noise_goes_without_a_trace(data: Path, tmp_path: Path, seed: int, share: float, name: str) -> None:
    """Files that differ in what inference doesn't read become the same bytes."""
    rng = np.random.default_rng(seed)

    def chosen() -> bool:
        return bool(rng.uniform() < share)

    def change(tables: Any) -> None:
        graph = tables.subgraphs[0]
        ends = {*graph.inputs, *graph.outputs}
        tables.description = name
        order = rng.permutation(len(tables.buffers) - 1) + 1  # buffers in another order, each perhaps twice
        places = {0: 0} | {int(old): new + 1 for new, old in enumerate(order)}
        tables.buffers = [tables.buffers[0], *(tables.buffers[i] for i in order)]
        for entry in tables.metadata:
            entry.buffer = places[entry.buffer]
        for index, tensor in enumerate(graph.tensors):
            tensor.buffer = places[tensor.buffer]
            if chosen():
                tables.buffers.append(tables.buffers[tensor.buffer])
                tensor.buffer = len(tables.buffers) - 1
            if chosen() and index not in ends:
                tensor.name = name
            if chosen() and tensor.quantization is not None:
                tensor.quantization.min, tensor.quantization.max = [float(seed)], [1.0]
            if chosen() and tensor.shapeSignature is None:
                tensor.shapeSignature = np.array(tensor.shape)
        for operator in graph.operators:
            if chosen():
                tables.operatorCodes.append(tables.operatorCodes[operator.opcodeIndex])
                operator.opcodeIndex = len(tables.operatorCodes) - 1
            if chosen():
                operator.mutatingVariableInputs = [False] * len(operator.inputs)

    noisy = repacked(data / KWS, tmp_path / "noisy.tflite", change)
    done = slimmed(noisy, tmp_path)
    assert done.path.read_bytes() == slimmed(data / KWS, tmp_path).path.read_bytes()
    assert sum(done.saved.values()) == done.bytes_before - done.bytes_after


def set_scale(tables: Any) -> None:
    tables.subgraphs[0].tensors[0].quantization.scale = np.array([0.25], np.float32)


def set_weight(tables: Any) -> None:
    buffer = max(tables.buffers, key=lambda b: 0 if b.data is None else len(b.data))
    buffer.data = buffer.data.copy()
    buffer.data[100] ^= 1


def invert_weights(tables: Any) -> None:
    buffer = max(tables.buffers, key=lambda b: 0 if b.data is None else len(b.data))
    buffer.data = ~buffer.data


def set_stride(tables: Any) -> None:
    tables.subgraphs[0].operators[1].builtinOptions.strideW = 2


def set_metadata(tables: Any) -> None:
    tables.metadata[0].name = b"labels"


def set_version(tables: Any) -> None:
    tables.operatorCodes[0].version = 0  # not the default, which is 1


@pytest.mark.parametrize("change", [set_scale, set_weight, set_stride, set_metadata, set_version])
def test_what_is_read_is_kept(data: Path, tmp_path: Path, change: Callable[[Any], None]) -> None:
    changed = repacked(data / KWS, tmp_path / "changed.tflite", change)
    done = slimmed(changed, tmp_path)
    assert done.left is None
    content = done.path.read_bytes()
    assert content != slimmed(data / KWS, tmp_path).path.read_bytes()
    assert (b"labels" in content) == (change is set_metadata)


def test_a_constant_without_elements_is_still_a_constant(data: Path, tmp_path: Path) -> None:
    """The shape of a scalar, say: a vector of no bytes, which is not the same as no vector."""

    def change(tables: Any) -> None:
        tables.buffers.append(schema.BufferT(data=np.zeros(0, np.uint8)))
        for buffer, name in ((len(tables.buffers) - 1, b"empty"), (0, b"none")):
            tensor = schema.TensorT(shape=np.zeros(1, np.int32), type=schema.TensorType.INT32, buffer=buffer, name=name)
            tables.subgraphs[0].tensors.append(tensor)

    content = slimmed(repacked(data / KWS, tmp_path / "changed.tflite", change), tmp_path).path.read_bytes()
    tables = schema.ModelT.InitFromPackedBuf(content)
    empty, none = tables.subgraphs[0].tensors[-2:]
    assert len(tables.buffers[empty.buffer].data) == 0
    assert (none.buffer, tables.buffers[0].data) == (0, None)


# What can't be written again --------------------------------------------------------------------


class Newer(CompactBuilder):
    """Writes a field that no schema has yet into tables of so many fields."""

    def __init__(self, slots: int) -> None:
        super().__init__()
        self._slots = slots

    def StartObject(self, slots: int) -> None:
        super().StartObject(slots)
        if slots == self._slots:
            self.PrependInt32Slot(slots, 7, 0)  # type: ignore[attr-defined]


def unknown_options(tables: Any) -> None:
    tables.subgraphs[0].operators[1].builtinOptionsType = 200


def large_options(tables: Any) -> None:
    tables.subgraphs[0].operators[1].largeCustomOptionsOffset = 64


def nothing(tables: Any) -> None:
    del tables


@pytest.mark.parametrize(
    ("change", "builder", "why"),
    [
        (large_options, None, "options of custom operators lie outside"),
        (unknown_options, None, "options of operators that this version .* doesn't know"),
        (nothing, Newer(11), r"\(Tensor\) has fields that"),
        (nothing, Newer(14), r"\(Operator\) has fields that"),
        (nothing, Newer(1), r"\(\w+Options\) has fields that"),
    ],
)
def test_what_is_not_understood_is_left(
    data: Path, tmp_path: Path, change: Callable[[Any], None], builder: Any, why: str
) -> None:
    changed = repacked(data / KWS, tmp_path / "changed.tflite", change, builder)
    done = slimmed(changed, tmp_path)
    assert done.path.read_bytes() == changed.read_bytes()
    assert re.search(why, done.left or "")
    assert set(done.saved.values()) == {0}


def test_a_file_beyond_flatbuffers_offsets_is_left(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecompile.tflite_file.slimming._LARGEST", 10_000)
    done = slimmed(data / KWS, tmp_path)
    assert done.path.read_bytes() == (data / KWS).read_bytes()
    assert "53936 bytes, and FlatBuffers' own offsets end at 10000" in (done.left or "")


# The stage --------------------------------------------------------------------------------------


def context(folder: Path) -> Context:
    folder.mkdir()
    return Context(folder, folder, None, "int8", LoadOptions(), 0, None, None, lambda _: None)


def test_the_stage_keeps_the_signature_and_says_what_it_saved(data: Path, tmp_path: Path) -> None:
    model = read(data / STREAMING)
    source = Artifact(TFLITE, {"model": model.path}, model.signature, meta={"io": "int8"})
    outcome = stage.Slim().run(source, context(tmp_path / "out"))
    assert (outcome.kind, outcome.signature, outcome.meta) == (TFLITE, model.signature, {"io": "int8"})
    metrics = outcome.metrics
    assert metrics["bytes"] == metrics["bytes_after"] == outcome.files["model"].stat().st_size <= REAL[STREAMING]
    assert metrics["bytes_before"] - metrics["bytes_after"] == sum(metrics["saved"].values())
    assert list(metrics["saved"]) == ["names", "quantization", "buffers", "metadata", "layout"]
    assert metrics["checked"] >= 2
    assert not outcome.notes


def test_the_stage_says_why_it_left_a_file(data: Path, tmp_path: Path) -> None:
    changed = repacked(data / STREAMING, tmp_path / "changed.tflite", nothing, Newer(11))
    model = read(changed)
    outcome = stage.Slim().run(Artifact(TFLITE, {"model": changed}, model.signature), context(tmp_path / "out"))
    assert outcome.files["model"].read_bytes() == changed.read_bytes()
    assert len(outcome.notes) == 1
    assert "left as it is" in outcome.notes[0]


@pytest.mark.parametrize("broken", [invert_weights, lambda tables: tables.operatorCodes.clear()])
def test_the_stage_refuses_other_outputs(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Callable[[Any], None]
) -> None:
    def loses(model: Any, out: Path) -> Slimmed:
        return Slimmed(repacked(model.path, out, broken), 2, 1, {})

    monkeypatch.setattr(stage, "slim", loses)
    model = read(data / STREAMING)
    with pytest.raises(CompressionGateError, match=r"differs in \d+ of|refuses it slimmed"):
        stage.Slim().run(Artifact(TFLITE, {"model": model.path}, model.signature), context(tmp_path / "out"))
