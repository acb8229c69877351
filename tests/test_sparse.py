"""The sparse form of a .tflite: the same outputs in fewer bytes, and why zeros buy nothing where they don't."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgecompile import sparsifying
from edgecompile.artifact import TFLITE, Artifact
from edgecompile.backends import BACKENDS
from edgecompile.backends.base import Candidate
from edgecompile.backends.litert import REFERENCE, XNNPACK, LiteRtRunner
from edgecompile.devices.base import BenchCandidate, BenchJob
from edgecompile.devices.benchmark import benchmark
from edgecompile.devices.local import LocalDevice
from edgecompile.errors import CompressionGateError
from edgecompile.loaders.base import LoadOptions
from edgecompile.models import read_sprites
from edgecompile.sparse import why_not
from edgecompile.sparse_chain import NoChain, find_chain
from edgecompile.stages.base import Context
from edgecompile.stages.sparse_form import SparseForm
from edgecompile.target import load_target
from edgecompile.tflite_file import read, slim

VWW = "models/mlperf_tiny/vww/vww_96_float.tflite"
names = itertools.count()


def pruned(source: Path, out: Path, share: float, where: Callable[[Any], bool]) -> Path:
    """A slim copy of a float .tflite with the smallest `share` of each weight tensor at zero, where `where(shape)`."""
    model, content = read(source), bytearray(source.read_bytes())
    for tensor in model.main.tensors:
        if tensor.is_constant and tensor.dtype == "float32" and len(tensor.shape) > 1 and where(tensor.shape):
            values = np.array(model.data(tensor))
            kept = np.where(np.abs(values) > np.quantile(np.abs(values), share), values, 0).astype(np.float32)
            at = content.index(values.tobytes())
            content[at : at + values.nbytes] = kept.tobytes()
    out.write_bytes(bytes(content))
    slim(read(out), out.with_suffix(".slim"))
    return out.with_suffix(".slim")


def pointwise(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and shape[1:3] == (1, 1)


def larger(shape: tuple[int, ...]) -> bool:
    return not pointwise(shape)


def network(
    folder: Path,
    size: tuple[int, int] = (32, 24),
    *,
    padding: tuple[str, str] = ("same", "same"),
    kernel: int = 3,
    channels: int = 3,
    stem: int = 2,
    end: str = "mean",
    side: bool = False,
) -> Path:
    """A MobileNet-like float .tflite. padding: of the two layers of stride 2: "same", "valid", or "equal",
    kernel // 2 on all sides as PyTorch's models have; end: how it ends; side: a layer inside has another output."""
    import tensorflow as tf
    import tf_keras

    layers = tf_keras.layers
    tf_keras.utils.set_random_seed(0)
    x = image = layers.Input((*size, channels), batch_size=1, name="image")

    def strided(layer: Any, x: Any, kernel: int, padding: str, **options: Any) -> Any:
        if padding == "equal":
            x, padding = layers.ZeroPadding2D(kernel // 2)(x), "valid"
        return layer(kernel_size=kernel, strides=2, padding=padding, **options)(x)

    if stem == 2:
        x = strided(layers.Conv2D, x, 3, padding[0], filters=8, activation="relu6")
    else:
        x = layers.Conv2D(8, 3, padding="same", activation="relu6")(x)
    x = layers.Conv2D(16, 1, activation="relu6", bias_initializer="random_normal")(x)
    short = layers.Conv2D(16, 1)(layers.DepthwiseConv2D(3, padding="same", activation="relu")(x))
    x = layers.Add()([x, short])
    x = strided(layers.DepthwiseConv2D, x, kernel, padding[1], bias_initializer="random_normal", activation="relu")
    x = layers.Conv2D(24, 1, activation="relu", bias_initializer="random_normal")(x)
    outputs = [layers.MaxPooling2D(2)(x)] if side else []
    if end == "pool":
        x = layers.Flatten()(layers.AveragePooling2D(tuple(x.shape[1:3]))(x))
    elif end == "mean":
        x = layers.GlobalAveragePooling2D()(x)
    else:
        x = layers.Flatten()(layers.MaxPooling2D(2)(x))
    outputs.insert(0, layers.Dense(5, activation="softmax")(x))
    path = folder / f"{next(names)}.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(tf_keras.Model(image, outputs)).convert())
    return path


def form(path: Path, folder: Path) -> sparsifying.SparseFile:
    model = read(path)
    return sparsifying.sparsify(model, find_chain(model), folder / "sparse.tflite")


def same(dense: Path, sparse: Path, x: dict[str, Any], kernels: str) -> None:
    expected, received = (LiteRtRunner(path, kernels).run(x) for path in (dense, sparse))
    for name, array in expected.items():
        assert np.ptp(array) > 0
        np.testing.assert_allclose(received[name], array, atol=1e-5 * np.ptp(array), rtol=0)


def drawn(path: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {t.name: rng.normal(size=(3, *t.shape[1:])).astype(np.float32) for t in read(path).signature.inputs}


@pytest.fixture(scope="module")
def vww(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The person detector with 80% zeros in 1x1 convolutions."""
    return pruned(data / VWW, tmp_path_factory.mktemp("vww") / "pruned.tflite", 0.8, pointwise)


def test_a_real_model_computes_the_same_in_a_third_of_the_bytes(vww: Path, data: Path, tmp_path: Path) -> None:
    done = form(vww, tmp_path)
    assert done.bytes_before == vww.stat().st_size
    assert done.bytes_after == done.path.stat().st_size < done.bytes_before / 3
    assert done.weights == 13
    images = read_sprites(sorted((data / "vww").glob("vww01_*.webp"))[:1], 96)[:20] / np.float32(255)
    x = {read(vww).signature.inputs[0].name: images}
    for kernels in (XNNPACK, REFERENCE):
        same(vww, done.path, x, kernels)


def test_equal_models_give_equal_bytes(vww: Path, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    assert form(vww, tmp_path).path.read_bytes() == form(vww, tmp_path / "again").path.read_bytes()


def strided(path: Path) -> list[tuple[str, list[list[int]]]]:
    """(padding, paddings of the PAD in front) of the operators of stride 2."""
    model = read(path)
    graph, found = model.main, []
    made = {op.outputs[0]: op for op in graph.operators}
    for operator in graph.operators:
        if operator.options.get("stride_h") == 2 and "CONV" in operator.name:
            pad = made[operator.inputs[0]]
            found.append((operator.options["padding"], model.data(graph.tensors[pad.inputs[1]]).tolist()))
    return found


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    height=st.sampled_from((12, 15, 20, 33)),
    width=st.sampled_from((12, 15, 20, 33)),
    padding=st.sampled_from(("same", "equal")),
    kernel=st.sampled_from((3, 5)),
    end=st.sampled_from(("mean", "pool")),
)
def test_whatever_the_padding_outputs_stay_and_xnnpack_finds_equal_padding(
    tmp_path: Path, height: int, width: int, padding: str, kernel: int, end: str
) -> None:
    source = network(tmp_path, (height, width), padding=(padding, padding), kernel=kernel, end=end)
    dense = pruned(source, tmp_path / "dense.tflite", 0.7, pointwise)
    done = form(dense, tmp_path)
    for kernels in (XNNPACK, REFERENCE):
        same(dense, done.path, drawn(dense), kernels)
    sides = [[[0, 0], [k // 2] * 2, [k // 2] * 2, [0, 0]] for k in (3, kernel)]
    assert strided(done.path) == [("VALID", side) for side in sides]
    assert "AVERAGE_POOL_2D" not in [op.name for op in read(done.path).main.operators]


def test_only_an_uneven_axis_is_mirrored(tmp_path: Path) -> None:
    dense = pruned(network(tmp_path, (32, 33)), tmp_path / "d.tflite", 0.7, pointwise)
    assert form(dense, tmp_path).mirrored == (1,)
    same(dense, tmp_path / "sparse.tflite", drawn(dense), REFERENCE)


def test_a_dense_classifier_is_kept_out_and_a_sparse_one_is_taken_in(tmp_path: Path) -> None:
    source = network(tmp_path)
    dense_head = pruned(source, tmp_path / "a.tflite", 0.7, pointwise)
    sparse_head = pruned(source, tmp_path / "b.tflite", 0.7, lambda shape: pointwise(shape) or len(shape) == 2)
    (outside,), taken = find_chain(read(dense_head)).apart, find_chain(read(sparse_head))
    assert read(dense_head).main.operators[outside].name == "FULLY_CONNECTED"
    assert not taken.apart
    assert taken.elements == find_chain(read(dense_head)).elements + 24 * 5
    done = form(dense_head, tmp_path)
    operators = [op.name for op in read(done.path).main.operators]
    assert operators[operators.index("MEAN") + 1] == "RESHAPE"
    same(dense_head, done.path, drawn(dense_head), XNNPACK)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"stem": 1}, "starts with one float32 3x3 convolution of stride 2 over 3 channels, and the model has none"),
        ({"channels": 1}, "the model has none"),
        ({"end": "max"}, "MAX_POOL_2D"),
        ({"side": True}, "MAX_POOL_2D"),
        ({"padding": ("valid", "same")}, "padded in a way"),
        ({"padding": ("equal", "same")}, "padded in a way"),  # one as it is, the other mirrored
    ],
)
def test_a_chain_that_xnnpack_does_not_take_is_named(options: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = pruned(network(tmp_path, **options), tmp_path / "pruned.tflite", 0.8, lambda _: True)
    with pytest.raises(NoChain, match=reason):
        find_chain(read(path))
    sentence = why_not(read(path))
    assert sentence
    assert reason in sentence


def test_why_zeros_buy_nothing_names_what_holds_for_this_model(data: Path, vww: Path, tmp_path: Path) -> None:
    model = read(vww)
    assert why_not(model) is None
    assert why_not(model, ["neon", "asimd"]) is None
    assert "without AVX" in (why_not(model, ["sse4_1", "avx", "avx2"]) or "")
    assert why_not(read(data / VWW)) is None  # hardly any zeros
    few = why_not(read(pruned(data / VWW, tmp_path / "few.tflite", 0.5, pointwise))) or ""
    assert "2/3" in few
    assert "98,112 of 196,224 (50%)" in few
    resnet = data / "models/mlperf_tiny/ic/pretrainedResnet.tflite"
    other = why_not(read(pruned(resnet, tmp_path / "resnet.tflite", 0.8, larger))) or ""
    assert "3x3 convolutions" in other
    assert "(77%) are zero" in other


def test_why_not_counts_int8_zeros_at_the_zero_point(data: Path, tmp_path: Path) -> None:
    source = data / "models/mlperf_tiny/vww/vww_96_int8.tflite"
    model, content = read(source), bytearray(source.read_bytes())
    for tensor in model.main.tensors:
        if tensor.dtype == "int8" and tensor.is_constant and pointwise(tensor.shape):
            values = np.array(model.data(tensor))
            at = content.index(values.tobytes())
            content[at : at + values.nbytes] = np.where(np.abs(values) > 40, values, 0).astype(np.int8).tobytes()
    (tmp_path / "zeros.tflite").write_bytes(bytes(content))
    sentence = why_not(read(tmp_path / "zeros.tflite")) or ""
    assert "are in int8 weights" in sentence
    assert "float32" in sentence


def staged(path: Path, folder: Path) -> tuple[Artifact, dict[str, Any], tuple[str, ...]]:
    artifact = Artifact(TFLITE, {"model": path}, read(path).signature)
    folder.mkdir()
    context = Context(folder, folder, None, "float", LoadOptions(), 0, None, None, lambda _: None)
    done = SparseForm().run(artifact, context)
    return artifact.replace(files={**artifact.files, **done.files}), done.metrics, done.notes


def test_the_sparse_form_is_a_candidate_with_a_file_of_its_own(vww: Path, tmp_path: Path) -> None:
    artifact, metrics, notes = staged(vww, tmp_path / "out")
    assert artifact.model == vww
    assert not notes
    assert metrics["bytes"] < metrics["bytes_before"] / 3
    candidates = BACKENDS["litert"].compile(artifact, load_target("host"), 1)
    assert [c.id for c in candidates] == ["litert-xnnpack", "litert-builtin", "litert-xnnpack-sparse"]
    sparse: Candidate = candidates[-1]
    assert sparse.model.stat().st_size == metrics["bytes"]
    x = drawn(vww)
    expected, received = (BACKENDS["litert"].open(c).run(x) for c in (candidates[0], sparse))
    for name, array in expected.items():
        np.testing.assert_allclose(received[name], array, atol=1e-5)
    job = BenchJob(tuple(BenchCandidate(c.id, c.model, config=c.config) for c in candidates), x, 2, 5)
    times = benchmark(LocalDevice(), job, lambda *_: None).candidates
    assert all(len(times[c.id].times_ms) == 5 for c in candidates)


def test_without_enough_zeros_there_is_no_candidate_and_a_note_says_why(data: Path, tmp_path: Path) -> None:
    artifact, metrics, notes = staged(data / VWW, tmp_path / "out")
    assert metrics["bytes"] is None
    assert "2/3" in notes[0]
    candidates = BACKENDS["litert"].compile(artifact, load_target("host"), 1)
    assert [c.id for c in candidates] == ["litert-xnnpack", "litert-builtin"]


def test_weights_that_are_not_the_models_fail_the_build(
    vww: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sparsifying._Writer._sparsity

    def shifted(self: Any, values: Any) -> Any:
        return whole(self, np.roll(values, 1, axis=-1))

    monkeypatch.setattr(sparsifying._Writer, "_sparsity", shifted)
    with pytest.raises(CompressionGateError, match="doesn't hold the model's weights"):
        form(vww, tmp_path)


def test_outputs_that_differ_fail_the_build(vww: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparsifying._Writer, "reverse_input", lambda *_: None)
    with pytest.raises(CompressionGateError, match="sparse form's output"):
        staged(vww, tmp_path / "out")


def test_indices_take_the_narrowest_type_that_holds_them(tmp_path: Path) -> None:
    dense = pruned(network(tmp_path), tmp_path / "pruned.tflite", 0.7, pointwise)
    tables = schema.ModelT.InitFromPackedBuf(form(dense, tmp_path).path.read_bytes(), 0)
    last = [t.sparsity.dimMetadata[-1] for t in tables.subgraphs[0].tensors if t.sparsity is not None]
    assert {d.arrayIndicesType for d in last} == {schema.SparseIndexVector.Uint8Vector}
