"""Mixed precision by measured sensitivity: the search by itself, and on a network that plain int8 breaks."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompile import metrics, tflite_file
from edgecompile.artifact import TFLITE, Artifact
from edgecompile.backends.litert import REFERENCE, XNNPACK, LiteRtRunner
from edgecompile.errors import CompressionGateError, DataError, RecipeError
from edgecompile.loaders.base import LoadOptions
from edgecompile.quantization import Override
from edgecompile.quantization.search import FEWEST, Trial, fewest_kept
from edgecompile.stages.base import Context, Progress
from edgecompile.stages.mixed import MixedPrecision
from edgecompile.stages.quantize import Quantize
from edgecompile.task import AUTOENCODER, UNLABELED, Metric, Split, Task

INT8 = "static_wi8_ai8"
SEED, SPREAD = 0, 4.0


@pytest.fixture(scope="module")
def rescaling() -> ModuleType:
    path = Path(__file__).resolve().parent.parent / "scripts" / "rescaling.py"
    spec = importlib.util.spec_from_file_location("rescaling", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def digits() -> Task:
    from edgecompile.models import digits as model

    return model.task()


@pytest.fixture(scope="module")
def network(digits: Task) -> Any:
    """A small MobileNetV2 on the digits: linear bottlenecks, ReLU6, residual additions."""
    import tf_keras
    from tf_keras import layers

    tf_keras.utils.set_random_seed(0)

    def unit(x: Any, kind: Any, name: str, linear: bool = False, **options: Any) -> Any:
        x = layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(
            kind(use_bias=False, padding="same", name=name, **options)(x)
        )
        return x if linear else layers.ReLU(6.0, name=f"{name}_relu")(x)

    image = layers.Input((8, 8, 1), name="image")
    x = unit(image, layers.Conv2D, "stem", filters=16, kernel_size=3)
    x = unit(x, layers.Conv2D, "project0", linear=True, filters=8, kernel_size=1)
    for n in (1, 2):
        h = unit(x, layers.Conv2D, f"expand{n}", filters=24, kernel_size=1)
        h = unit(h, layers.DepthwiseConv2D, f"depthwise{n}", kernel_size=3)
        h = unit(h, layers.Conv2D, f"project{n}", linear=True, filters=8, kernel_size=1)
        x = layers.Add(name=f"add{n}")([x, h])
    x = unit(x, layers.Conv2D, "head", filters=32, kernel_size=1, strides=2)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = tf_keras.Model(image, layers.Dense(10, activation="softmax", name="scores")(x), name="small")
    model.compile(tf_keras.optimizers.Adam(5e-3), "sparse_categorical_crossentropy")
    train = digits.train
    assert train is not None
    assert train.y is not None
    model.fit(train.x[""], train.y[""], batch_size=32, epochs=8, verbose=0)
    return model


@pytest.fixture(scope="module")
def source(network: Any, rescaling: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The network with its bottlenecks rescaled, as a float .tflite."""
    import tensorflow as tf

    rescaled = rescaling.rescale_channels(network, SEED, SPREAD)
    serve = tf.function(lambda x: {"scores": rescaled(x, training=False)})
    concrete = serve.get_concrete_function(tf.TensorSpec((1, 8, 8, 1), tf.float32, name="image"))
    path = tmp_path_factory.mktemp("rescaled") / "model.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete], rescaled).convert())
    return Artifact(TFLITE, {"model": path}, tflite_file.read(path).signature, (), {})


@pytest.fixture
def run(digits: Task, source: Artifact, tmp_path: Path) -> Callable[..., Any]:
    """`run(stage, task=digits, io="float", said=[]) -> Outcome`."""

    def call(stage: Any, task: Task = digits, io: str = "float", said: list[Progress] | None = None) -> Any:
        report = (lambda _: None) if said is None else said.append
        folder = tmp_path / type(stage).__name__
        folder.mkdir(exist_ok=True)
        return stage.run(source, Context(folder, folder, task, io, LoadOptions(), 0, None, None, report))

    return call


def accuracy(path: Path, digits: Task, kernels: str = XNNPACK) -> float:
    """In percent, on the validation split."""
    held = digits.split(0)[1]
    assert held.y is not None
    scores = LiteRtRunner(path, kernels).run_real({"image": held.x[""]})["scores"]
    return 100 * float(np.mean(scores.argmax(1) == held.y[""]))


def test_rescaling_changes_weights_and_no_output(network: Any, rescaling: ModuleType, digits: Task) -> None:
    import tf_keras

    assert digits.test is not None
    x = digits.test.x[""]
    expected = network.predict(x, verbose=0)
    rescaled = rescaling.rescale_channels(network, SEED, SPREAD)
    assert np.abs(rescaled.predict(x, verbose=0) - expected).max() < 1e-4
    for name, same in (("depthwise1_relu", True), ("head_relu", True), ("project0_bn", False), ("add2", False)):
        before, after = (tf_keras.Model(m.input, m.get_layer(name).output)(x).numpy() for m in (network, rescaled))
        assert np.allclose(before, after, atol=1e-3) == same, name
        ratios = after[before > 0.01] / before[before > 0.01]
        assert (ratios > 0).all()
        assert np.ptp(np.log2(ratios)) < 0.1 if same else np.ptp(np.log2(ratios)) > SPREAD


@pytest.mark.parametrize(("fallback", "weights", "results"), [("float", "float32", "float32"),
                                                              ("float16", "float16", "float32"),
                                                              ("int16", "int8", "int16")])  # fmt: skip
def test_brings_back_what_plain_int8_loses(
    run: Callable[..., Any],
    source: Artifact,
    digits: Task,
    fallback: str,
    weights: str,
    results: str,
) -> None:
    full = accuracy(source.model, digits)
    assert accuracy(run(Quantize(INT8, samples=100)).files["model"], digits) < full - 2
    said: list[Progress] = []
    outcome = run(MixedPrecision(fallback=fallback, samples=100), said=said)
    path, found = outcome.files["model"], outcome.metrics
    for kernels in (XNNPACK, REFERENCE):
        assert accuracy(path, digits, kernels) >= full - 0.5 - (0.7 if kernels == REFERENCE else 0)
    assert 0 < len(found["kept"]) < found["operators"]
    assert found["evaluations"] == len(found["trials"]) <= 12
    assert found["trials"][0]["kept"] == 0
    assert found["bytes"] == path.stat().st_size
    rows = found["sensitivity"]
    assert len(rows) == found["operators"]
    assert sorted(f"{r['operator']} #{r['index']}" for r in rows if r["kept"]) == sorted(found["kept"])
    assert [r["snr_db"] for r in rows] == sorted(r["snr_db"] for r in rows)
    graph = tflite_file.read(path).main
    casts = {op.outputs[0]: op.inputs[0] for op in graph.operators if op.name == "DEQUANTIZE"}
    inner = [op for op in graph.operators if op.name not in ("QUANTIZE", "DEQUANTIZE")]
    kept = {r["index"] for r in rows if r["kept"]}
    for index, op in enumerate(inner):
        assert graph.tensors[op.outputs[0]].dtype == (results if index in kept else "int8"), op
        if op.name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            dtype = graph.tensors[casts.get(op.inputs[1], op.inputs[1])].dtype
            assert dtype == (weights if index in kept else "int8"), op
    table = [progress.text for progress in said if "SNR alone" in progress.text or " dB " in progress.text]
    assert len(table) == 13
    assert sum(fallback in line for line in table) == sum(r["kept"] for r in rows[:12])
    assert f"{len(found['kept'])} of {found['operators']} operators stay in {fallback}" in outcome.notes[0]


def test_is_what_overrides_for_the_kept_operators_give(run: Callable[..., Any], source: Artifact) -> None:
    """One calibration serves all trials, and the last file is that of a quantization of its own, to the byte."""
    mixed = run(MixedPrecision(samples=50), io="int8")
    graph = tflite_file.read(source.model).main
    names = {f"{op.name} #{op.index}": graph.tensors[op.outputs[0]].name for op in graph.operators}
    overrides = tuple(Override(f"^{re.escape(names[label])};$", "float") for label in mixed.metrics["kept"])
    plain = run(Quantize(INT8, samples=50, overrides=overrides), io="int8")
    assert mixed.files["model"].read_bytes() == plain.files["model"].read_bytes()
    assert mixed.signature.outputs[0].dtype == "int8"


def test_ranks_first_what_reads_and_makes_rescaled_tensors(run: Callable[..., Any]) -> None:
    rows = run(MixedPrecision(samples=100)).metrics["sensitivity"]
    rescaled = ("project", "add", "expand", "head")
    worst = [row["tensor"].split("/")[1] for row in rows[:4]]
    assert all(name.startswith(rescaled) for name in worst), worst
    harmless = {row["tensor"] for row in rows[-3:]}
    assert not any(part in tensor for tensor in harmless for part in rescaled)


def test_keeps_nothing_where_the_scheme_holds(run: Callable[..., Any]) -> None:
    outcome = run(MixedPrecision(samples=50, max_drop=99.0))
    assert (outcome.metrics["kept"], outcome.metrics["evaluations"], outcome.metrics["sensitivity"]) == ([], 1, [])
    assert outcome.files["model"].read_bytes() == run(Quantize(INT8, samples=50)).files["model"].read_bytes()
    assert "no operator has to stay" in outcome.notes[0]


def test_a_margin_keeps_more(run: Callable[..., Any]) -> None:
    stages = [MixedPrecision(samples=50, max_drop=3.0, margin=margin) for margin in (0.0, 2.0)]
    plain, careful = (run(stage).metrics for stage in stages)
    assert len(careful["kept"]) > len(plain["kept"])
    chosen = [t for t in careful["trials"] if (t["kept"], t["bytes"]) == (len(careful["kept"]), careful["bytes"])]
    assert any(max(t["drop"], 0) + 2 * t["error"] <= 3 for t in chosen)
    held = 143  # validation samples: one that changes gives this error, in points
    errors = [t["error"] for t in careful["trials"]]
    assert max(errors) > 100 / held
    assert all(error == 0 or error > 90 / held for error in errors if error < 1)


def test_int4_weights_stay_int8_where_they_must(run: Callable[..., Any]) -> None:
    outcome = run(MixedPrecision("dynamic_wi4_afp32", fallback="int8", max_drop=1.0))
    dtypes = {t.dtype for t in tflite_file.read(outcome.files["model"]).main.tensors if t.is_constant}
    assert {"int4", "int8"} <= dtypes
    assert all(label.startswith(("CONV_2D", "FULLY_CONNECTED")) for label in outcome.metrics["kept"])


def test_autoencoders_are_judged_by_their_error(digits: Task, tmp_path: Path) -> None:
    """The drop is relative then, in percent of the float model's mean squared error."""
    import tensorflow as tf
    import tf_keras

    assert digits.train is not None
    x = digits.train.x[""].reshape(-1, 64)
    tf_keras.utils.set_random_seed(0)
    image = tf_keras.Input((64,), name="image")
    code = tf_keras.layers.Dense(16, activation="relu", name="code")(image)
    model = tf_keras.Model(image, tf_keras.layers.Dense(64, name="decoded")(code), name="autoencoder")
    model.compile(tf_keras.optimizers.Adam(3e-3), "mse")
    model.fit(x, x, batch_size=32, epochs=8, verbose=0)
    concrete = tf.function(lambda x: {"decoded": model(x)}).get_concrete_function(
        tf.TensorSpec((1, 64), tf.float32, name="image")
    )
    path = tmp_path / "autoencoder.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete], model).convert())
    source = Artifact(TFLITE, {"model": path}, tflite_file.read(path).signature, (), {})
    task = Task("reconstruct", AUTOENCODER, Split({"": x}), None, metrics.autoencoder_auc, "f")

    def error(made: Path) -> float:
        held = task.split(0)[1].x[""]
        return float(np.mean((LiteRtRunner(made).run_real({"image": held})["decoded"] - held) ** 2))

    ctx = Context(tmp_path, tmp_path, task, "float", LoadOptions(), 0, None, None, lambda _: None)
    outcome = MixedPrecision("dynamic_wi4_afp32", fallback="int8", max_drop=5.0, samples=50).run(source, ctx)
    found = outcome.metrics
    assert found["drop_unit"] == "%"
    assert found["baseline"] == pytest.approx(error(path))
    assert found["trials"][0]["drop"] > 5
    assert found["drop"] == pytest.approx(100 * (error(outcome.files["model"]) / error(path) - 1), rel=1e-3)
    assert found["drop"] <= 5


def test_needs_labels(run: Callable[..., Any], digits: Task) -> None:
    assert digits.train is not None
    task = Task("bare", UNLABELED, Split(digits.train.x), None, None, "f")
    with pytest.raises(DataError, match="has no labelled training samples"):
        run(MixedPrecision(samples=20), task=task)


@pytest.mark.parametrize(
    ("fallback", "message"),
    [("int16", r"drops by .* operators in int16"), ("float", "only with every weight in float")],
)
def test_says_so_when_the_drop_can_t_be_held(
    run: Callable[..., Any], source: Artifact, digits: Task, fallback: str, message: str
) -> None:
    """The float model's own scores as labels, and a metric that counts those that are the same to the last bits."""
    assert digits.train is not None
    x = digits.train.x[""]
    scores = LiteRtRunner(source.model).run_real({"image": x})["scores"]

    def same(labels: Any, outputs: Any, inputs: Any) -> float:
        del inputs
        return float(np.mean(np.abs(outputs["scores"] - labels[""]).max(1) < 1e-6))

    task = dataclasses.replace(digits, train=Split({"": x}, {"": scores}), metric=Metric("same", same))
    with pytest.raises(CompressionGateError, match=message):
        run(MixedPrecision(samples=50, fallback=fallback, max_drop=0.0), task=task)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"scheme": "float16"}, "scheme is 'float16'"),
        ({"scheme": "dynamic_wi8_afp32", "fallback": "int16"}, "one of float, float16 for scheme dynamic_wi8_afp32"),
        ({"fallback": "int8"}, "one of float, float16, int16"),
        ({"max_drop": -1.0}, "max_drop is -1.0"),
        ({"evaluations": 2}, "3 or more"),
        ({"probes": 0}, "1 or more"),
    ],
)
def test_settings_are_checked(settings_: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        MixedPrecision(**settings_)


@given(
    needed=st.sets(st.integers(0, 19)),
    order=st.permutations(range(20)),
    costs=st.lists(st.integers(0, 50), min_size=20, max_size=20),
    evaluations=st.sampled_from((FEWEST, 4, 8, 60)),
)
@settings(max_examples=80, deadline=None)
def test_search_holds_within_its_evaluations(
    needed: set[int], order: list[int], costs: list[int], evaluations: int
) -> None:
    """On a model whose drop is the number of needed operators that aren't kept."""
    cost = dict(enumerate(costs))

    def evaluate(kept: frozenset[int]) -> Trial:
        return Trial(kept, 0.0, float(len(needed - kept)), 0.0, sum(cost[n] for n in kept))

    found = fewest_kept(lambda: order, cost, evaluate, 0.0, evaluations)
    assert found.best is not None
    assert needed <= found.best.kept
    assert len(found.trials) <= evaluations
    assert found.best in found.trials
    if evaluations == 60:
        assert found.best.kept == needed


def test_search_finds_nothing_where_nothing_holds() -> None:
    found = fewest_kept(lambda: [0, 1, 2], {0: 1, 1: 1, 2: 1}, lambda k: Trial(k, 0.0, 5.0, 0.0, 0), 1.0, 12)
    assert found.best is None
    assert found.trials[-1].kept == {0, 1, 2}
