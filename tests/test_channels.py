"""Structured pruning: the smaller model computes what the whole one does with the removed channels at zero."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import run_cli

from edgecompile.artifact import KERAS, Artifact, Signature, TensorInfo
from edgecompile.channels import Channels, Kept, Limits, apply, cost_of, dependency_groups, plan, scores
from edgecompile.channels.budget import COSTS, RANKINGS, CostModel
from edgecompile.channels.coupling import calls
from edgecompile.errors import BudgetError, CompressionGateError, RecipeError
from edgecompile.loaders.base import LoadOptions, save_keras
from edgecompile.metrics import accuracy
from edgecompile.stages.base import Context, Outcome, Progress
from edgecompile.stages.convert import convert, keras_call, variables_of
from edgecompile.stages.prune_channels import PruneChannels
from edgecompile.task import CLASSIFICATION, Split, Task
from edgecompile.tflite_file import read

Array = np.ndarray


# ---- models and what they compute


def randomize(model: Any, seed: int) -> Any:
    """Weights, and statistics of BatchNorm, that make every channel matter."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        variance = "variance" in weight.name
        values = rng.uniform(0.5, 2, weight.shape) if variance else rng.normal(0, 1, weight.shape)
        fan_in = max(1, int(np.prod(weight.shape[:-1])))
        weight.assign(values / (1 if weight.shape.rank == 1 else np.sqrt(fan_in)))
    return model


def run(model: Any, x: list[Array], gates: Callable[[Any], Any] = lambda _: 1.0) -> list[Array]:
    """The model's outputs, every tensor multiplied with its gate as soon as it is made."""
    import tensorflow as tf

    values = {id(t): tf.constant(a) for t, a in zip(model.inputs, x, strict=True)}
    for call in calls(model):
        args, kwargs = tf.nest.map_structure(
            lambda v: values.get(id(v), v), (list(call.node.call_args), dict(call.node.call_kwargs))
        )
        made = tf.nest.flatten(call.layer(*args, **kwargs))
        for tensor, value in zip(call.outputs, made, strict=True):
            values[id(tensor)] = value * gates(tensor)
    return [values[id(t)].numpy() for t in model.outputs]


def masked(model: Any, kept: Kept, x: list[Array]) -> list[Array]:
    channels = dependency_groups(model)
    keep = channels.keep(kept)
    return run(model, x, lambda t: keep[channels.tensors[id(t)]].astype(np.float32))


def samples(model: Any, n: int = 3) -> list[Array]:
    rng = np.random.default_rng(5)
    return [rng.uniform(-1, 1, (n, *t.shape[1:])).astype(np.float32) for t in model.inputs]


def assert_same(model: Any, kept: Kept, x: list[Array] | None = None) -> Any:
    """The smaller model, after checking that it computes what the whole one does with masks."""
    x = samples(model) if x is None else x
    smaller = apply(model, kept)
    for expected, received in zip(masked(model, kept, x), run(smaller, x), strict=True):
        assert expected.shape == received.shape
        np.testing.assert_allclose(received, expected, rtol=1e-5, atol=1e-5 * max(1.0, float(np.abs(expected).max())))
    return smaller


def some_channels(channels: Channels, seed: int) -> Kept:
    rng = np.random.default_rng(seed)
    kept = {}
    for group in channels.groups:
        n = len(group.sets)
        chosen = rng.choice(n, rng.integers(1, n, endpoint=True), replace=False)
        kept[group.name] = tuple(sorted(chosen.tolist()))
    return kept


class Net:
    """Builds a graph from numbers that hypothesis draws: every call adds a layer to one of the tensors so far."""

    def __init__(self, pick: Callable[[int], int]) -> None:
        from tf_keras import layers

        self.k, self.pick, self.count = layers, pick, 0
        self.image = layers.Input((4, 4, 3), name="image")
        self.maps = [self.image]

    def name(self) -> str:
        self.count += 1
        return f"l{self.count}"

    def any_map(self) -> Any:
        return self.maps[self.pick(len(self.maps))]

    def conv(self, x: Any, filters: int | None = None) -> Any:
        filters = filters or 2 + self.pick(6)
        kind = self.pick(4)
        if kind == 0:
            made = self.k.SeparableConv2D(
                filters, 3, padding="same", depth_multiplier=1 + self.pick(2), name=self.name()
            )
        elif kind == 1:
            made = self.k.Conv2DTranspose(filters, 3, padding="same", name=self.name())
        else:
            made = self.k.Conv2D(filters, 3, padding="same", use_bias=kind == 2, name=self.name())
        return made(x)

    def channelwise(self, x: Any) -> Any:
        k = self.k
        makers = [
            lambda: k.BatchNormalization(scale=bool(self.pick(2)), center=bool(self.pick(2)), name=self.name()),
            lambda: k.ReLU(6.0, name=self.name()),
            lambda: k.Activation("tanh", name=self.name()),
            lambda: k.PReLU(shared_axes=[1, 2] if self.pick(2) else None, name=self.name()),
            lambda: k.DepthwiseConv2D(3, padding="same", depth_multiplier=1 + self.pick(2), name=self.name()),
            lambda: k.MaxPooling2D(3, 1, padding="same", name=self.name()),
            lambda: k.Dropout(0.2, name=self.name()),
        ]
        return makers[self.pick(len(makers))]()(x)

    def join(self, a: Any, b: Any) -> Any:
        k = self.k
        kind = self.pick(5)
        if kind == 0:
            return k.Concatenate(name=self.name())([a, b])
        if kind == 1:  # squeeze and excite
            gate = k.GlobalAveragePooling2D(keepdims=bool(self.pick(2)), name=self.name())(a)
            gate = k.Dense(a.shape[-1], "sigmoid", name=self.name())(k.Dense(3, "relu", name=self.name())(gate))
            gate = k.Reshape((1, 1, a.shape[-1]), name=self.name())(gate)
            return k.Multiply(name=self.name())([a, gate])
        if a.shape[-1] != b.shape[-1]:
            b = self.conv(b, a.shape[-1])
        if kind == 2:
            rows = k.Concatenate(axis=1, name=self.name())([a, b])
            return k.Cropping2D(((2, 2), (0, 0)), name=self.name())(rows)
        return (k.Add, k.Maximum)[kind - 3](name=self.name())([a, b])

    def grow(self) -> None:
        x = self.any_map()
        kind = self.pick(3)
        made = self.conv(x) if kind == 0 else self.channelwise(x) if kind == 1 else self.join(x, self.any_map())
        self.maps.append(made)

    def vector(self, x: Any) -> Any:
        kind = self.pick(4)
        if kind == 0:
            return self.k.GlobalAveragePooling2D(name=self.name())(x)
        if kind == 1:
            return self.k.GlobalMaxPooling2D(name=self.name())(x)
        return (self.k.Flatten(name=self.name()) if kind == 2 else self.k.Reshape((-1,), name=self.name()))(x)

    def model(self) -> Any:
        import tf_keras

        for _ in range(3 + self.pick(8)):
            self.grow()
        x = self.k.Concatenate(name=self.name())([self.vector(self.maps[-1]), self.vector(self.any_map())])
        x = self.k.Dense(2 + self.pick(5), "relu", name=self.name())(x)
        x = self.k.BatchNormalization(name=self.name())(x)
        outputs = [self.k.Dense(3, "softmax", name="classes")(x)]
        if self.pick(2):
            outputs.append(self.k.Conv2D(2, 1, name="map")(self.any_map()))
        return tf_keras.Model(self.image, outputs, name="net")


@settings(max_examples=25, deadline=None)
@given(data=st.data(), seed=st.integers(0, 99))
def test_the_smaller_model_computes_what_the_masked_one_does(data: st.DataObject, seed: int) -> None:
    model = randomize(Net(lambda n: data.draw(st.integers(0, n - 1))).model(), seed)
    channels = dependency_groups(model)
    kept = some_channels(channels, seed)
    smaller = assert_same(model, kept)
    keep = channels.keep(kept)
    assert dependency_groups(smaller).widths() == channels.widths(keep)
    widths = np.array([len(kept[group.name]) for group in channels.groups])
    for of in COSTS:  # the plan's arithmetic is that of the model it leads to
        assert CostModel(channels, of)(widths) == cost_of(smaller, of)
    assert [layer.name for layer in smaller.layers] == [layer.name for layer in model.layers]


def net(build: Callable[[Any, Any], Any], shape: tuple[int, ...] = (4, 4, 3)) -> Any:
    import tf_keras

    x = tf_keras.Input(shape, name="image")
    return randomize(tf_keras.Model(x, build(x, tf_keras.layers), name="net"), 1)


def widths(model: Any) -> dict[str, int]:
    return {group.name: len(group.sets) for group in dependency_groups(model).groups}


def test_a_residual_block_is_one_group_and_its_inside_another() -> None:
    def build(x: Any, k: Any) -> Any:
        x = k.Conv2D(8, 1, name="stem")(x)
        y = k.Conv2D(6, 1, name="inside")(x)
        x = k.Add(name="add")([x, k.Conv2D(8, 1, name="last")(y)])
        return k.Dense(2, name="out")(k.Flatten(name="flat")(x))

    model = net(build)
    assert widths(model) == {"stem": 8, "inside": 6}
    smaller = assert_same(model, {"stem": (0, 3, 7), "inside": (5,)})
    assert smaller.get_layer("out").kernel.shape == (4 * 4 * 3, 2)
    assert dependency_groups(smaller).widths() == {"stem": 3, "inside": 1, "last": 3, "out": 2}


def test_parts_of_a_concatenation_keep_their_offsets() -> None:
    def build(x: Any, k: Any) -> Any:
        parts = [k.Conv2D(n, 1, name=f"part{n}")(x) for n in (4, 5)]
        joined = k.BatchNormalization(name="bn")(k.Concatenate(name="cat")(parts))
        joined = k.Add(name="add")([joined, k.Conv2D(9, 1, name="wide")(x)])
        return k.Conv2D(2, 1, name="out")(joined)

    model = net(build)
    assert widths(model) == {"part4": 4, "part5": 5}
    smaller = assert_same(model, {"part4": (1,), "part5": (0, 4)})
    np.testing.assert_array_equal(smaller.get_layer("bn").gamma, model.get_layer("bn").gamma.numpy()[[1, 4, 8]])
    np.testing.assert_array_equal(
        smaller.get_layer("wide").kernel, model.get_layer("wide").kernel.numpy()[..., [1, 4, 8]]
    )


def test_a_vector_that_becomes_an_image_loses_whole_channels() -> None:
    def build(x: Any, k: Any) -> Any:
        v = k.Dense(4 * 4 * 6, name="dense")(k.Flatten(name="flat")(x))
        return k.Conv2D(2, 1, name="out")(k.Reshape((4, -1, 6), name="image_again")(v))

    model = net(build)
    assert widths(model) == {"dense": 6}
    smaller = assert_same(model, {"dense": (0, 2, 3)})
    assert smaller.get_layer("dense").units == 4 * 4 * 3


def test_a_depthwise_multiplier_gives_neighbours_that_go_together() -> None:
    def build(x: Any, k: Any) -> Any:
        x = k.Conv2D(4, 1, name="conv")(x)
        x = k.DepthwiseConv2D(3, depth_multiplier=3, name="depthwise")(x)
        return k.SeparableConv2D(2, 1, depth_multiplier=2, name="out")(k.BatchNormalization(name="bn")(x))

    model = net(build)
    assert widths(model) == {"conv": 4}
    smaller = assert_same(model, {"conv": (1, 3)})
    gamma = model.get_layer("bn").gamma.numpy()
    np.testing.assert_array_equal(smaller.get_layer("bn").gamma, gamma[[3, 4, 5, 9, 10, 11]])


def test_a_shared_layer_keeps_one_kernel() -> None:
    def build(x: Any, k: Any) -> Any:
        shared = k.Conv2D(5, 3, padding="same", name="shared")
        a = k.Conv2D(5, 1, name="first")(x)
        for _ in range(2):
            a = shared(a)
        return k.Dense(2, name="out")(k.GlobalAveragePooling2D(name="pool")(a))

    model = net(build)
    assert widths(model) == {"first": 5}
    assert_same(model, {"first": (1, 2)})


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (lambda k: k.LayerNormalization(name="odd"), "LayerNormalization"),
        (lambda k: k.Conv2D(8, 1, groups=2, name="odd"), "Conv2D"),
        (lambda k: k.Permute((1, 3, 2), name="odd"), "Permute"),
        (lambda k: k.BatchNormalization(axis=1, name="odd"), "BatchNormalization"),
        (lambda k: type("Odd", (k.ReLU,), {})(name="odd"), "Odd"),
    ],
)
def test_channels_that_reach_a_layer_without_a_rule_stay_and_it_is_named(layer: Any, named: str) -> None:
    def build(x: Any, k: Any) -> Any:
        x = k.Conv2D(8, 1, name="free")(x)
        x = layer(k)(k.Conv2D(8, 1, name="before")(x))
        x = k.Conv2D(6, 1, name="after")(x)
        return k.Conv2D(2, 1, name="out")(x)

    model = net(build)
    channels = dependency_groups(model)
    assert channels.unknown == (f"odd ({named})",)
    assert set(widths(model)) == {"free", "after"}
    assert "'odd'" in channels.stay["before"]
    assert_same(model, {"free": (0, 5), "after": (1,)})


def test_a_softmax_between_layers_keeps_its_channels() -> None:
    def build(x: Any, k: Any) -> Any:
        x = k.Conv2D(8, 1, activation="softmax", name="attention")(x)
        return k.Conv2D(2, 1, name="out")(k.Multiply(name="times")([x, k.Conv2D(1, 1, name="one")(x)]))

    assert widths(net(build)) == {}


def test_operators_written_as_plain_tensorflow_are_followed() -> None:
    import tensorflow as tf

    def build(x: Any, k: Any) -> Any:
        x = k.Conv2D(8, 1, name="conv")(x)
        x = x * tf.nn.relu6(x + 3.0)
        return k.Conv2D(2, 1, name="out")(x)

    model = net(build)
    assert widths(model) == {"conv": 8}
    assert_same(model, {"conv": (0, 2)})

    def with_constant(x: Any, k: Any) -> Any:
        return k.Conv2D(2, 1, name="out")(k.Conv2D(8, 1, name="conv")(x) + np.arange(8, dtype=np.float32))

    assert widths(net(with_constant)) == {}


# ---- importance


def small() -> Any:
    def build(x: Any, k: Any) -> Any:
        a = k.BatchNormalization(name="bn")(k.Conv2D(4, 3, name="a")(x))
        b = k.BatchNormalization(name="bn2")(k.Conv2D(5, 1, name="b")(k.ReLU(name="relu")(a)))
        return k.Dense(3, name="out")(k.Flatten(name="flat")(b))

    return net(build)


def test_norms_and_scales_are_those_of_the_papers_relative_to_the_group() -> None:
    model = small()
    channels = dependency_groups(model)
    kernel = model.get_layer("a").kernel.numpy()
    expected = {
        "l1": np.abs(kernel).sum((0, 1, 2)),
        "l2": np.sqrt((kernel**2).sum((0, 1, 2))),
        "bn": np.abs(model.get_layer("bn").gamma.numpy()),
    }
    for criterion, values in expected.items():
        found = scores(channels, criterion)[channels.groups[0].sets]
        np.testing.assert_allclose(found, values / values.mean(), rtol=1e-5)


def test_taylor_is_the_squared_derivative_by_a_gate() -> None:
    import tensorflow as tf

    model = small()
    channels = dependency_groups(model)
    batches = [[np.float32(i + 1) * x for x in samples(model, 4)] for i in range(2)]

    def loss(outputs: list[Any]) -> Any:
        return tf.reduce_mean(tf.square(outputs[0] - 1.0))

    found = scores(channels, "taylor", ([list(map(tf.constant, x)), loss] for x in batches))
    for tensor, group in ((model.get_layer("relu").output, 0), (model.get_layer("bn2").output, 1)):
        sets = channels.tensors[id(tensor)]
        expected = []
        for channel in range(len(sets)):
            squares = []
            for x in batches:
                values = []
                for step in (1e-2, -1e-2):
                    gate = np.ones(len(sets), np.float32)
                    gate[channel] += step
                    values.append(float(loss(run(model, x, lambda t, g=gate, of=tensor: g if t is of else 1.0))))
                squares.append(((values[0] - values[1]) / 2e-2) ** 2)
            expected.append(np.mean(squares))
        np.testing.assert_array_equal(channels.groups[group].sets, sets)
        np.testing.assert_allclose(found[sets], expected / np.mean(expected), rtol=2e-2, atol=1e-3)


# ---- the plan


@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize("of", COSTS)
def test_a_plan_meets_its_budget_within_its_limits(of: str, ranking: str) -> None:
    def build(x: Any, k: Any) -> Any:
        for i, n in enumerate((24, 10, 32)):
            x = k.ReLU(name=f"relu{i}")(k.Conv2D(n, 3, padding="same", name=f"conv{i}")(x))
        return k.Dense(2, name="out")(k.Flatten(name="flat")(x))

    model = net(build)
    channels = dependency_groups(model)
    limits = Limits(round_to=4, min_channels=6, max_share=0.6)
    full = cost_of(model, of)
    latency = {"conv0": 1e-3, "conv1": 2e-3, "conv2": 3e-3}
    kept = plan(channels, scores(channels, "l1"), full // 2, of=of, limits=limits, ranking=ranking, latency=latency)
    assert cost_of(assert_same(model, kept), of) <= full // 2
    for group in channels.groups:
        n, left = len(group.sets), len(kept[group.name])
        assert left == n or (left % 4 == 0 and left >= max(6, 0.4 * n))
    kept_l1 = scores(channels, "l1")[channels.groups[2].sets]
    lost = np.setdiff1d(np.arange(32), kept["conv2"])
    assert lost.size
    assert kept_l1[lost].max() <= kept_l1[list(kept["conv2"])].min()


def test_channels_that_take_more_time_go_first() -> None:
    model = net(
        lambda x, k: k.Conv2D(4, 1, name="out")(
            k.Add()(
                [k.Conv2D(4, 1, name=f"out{i}")(k.Conv2D(32, 3, padding="same", name=f"conv{i}")(x)) for i in (0, 1)]
            )
        )
    )
    channels = dependency_groups(model)
    for slow, fast in (("conv0", "conv1"), ("conv1", "conv0")):
        latency = {group.name: 1e-3 if group.name == slow else 1e-6 for group in channels.groups}
        target = cost_of(model, "macs") * 3 // 4
        kept = plan(
            channels,
            np.ones_like(scores(channels, "l1")),
            target,
            limits=Limits(8, 8),
            ranking="importance-per-latency",
            latency=latency,
        )
        assert len(kept[slow]) < len(kept[fast]) == 32


def test_a_budget_out_of_reach_names_what_stays() -> None:
    model = net(lambda x, k: k.Conv2D(2, 1, name="out")(k.Softmax(name="mix")(k.Conv2D(8, 1, name="conv")(x))))
    channels = dependency_groups(model)
    with pytest.raises(CompressionGateError) as caught:
        plan(channels, scores(channels, "l1"), 10, limits=Limits())
    text = caught.value.format_message()
    assert "conv: layer 'mix' (Softmax) can't be pruned around" in text
    assert "the least it can reach is 640 (100%)" in text


# ---- published models


def as_tflite(model: Any, path: Path) -> Any:
    info = [TensorInfo(n, (1, *t.shape[1:]), "float32") for n, t in zip(model.input_names, model.inputs, strict=True)]
    outs = [TensorInfo(n, (1, *t.shape[1:]), "float32") for n, t in zip(model.output_names, model.outputs, strict=True)]
    path.write_bytes(convert(keras_call(model), variables_of(model), Signature(tuple(info), tuple(outs))))
    return read(path)


@pytest.mark.parametrize("name", ["ic/pretrainedResnet.h5", "vww/vww_96.h5", "ad/ad01.h5"])
def test_a_published_model_at_half_its_macs(data: Path, tmp_path: Path, name: str) -> None:
    import tf_keras

    model = tf_keras.models.load_model(data / "models/mlperf_tiny" / name, compile=False)
    channels = dependency_groups(model)
    full = cost_of(model, "macs")
    kept = plan(channels, scores(channels, "l2"), full // 2, limits=Limits(4, 4, 0.75))
    x = samples(model) if name.startswith("vww") else [a * 100 for a in samples(model)]
    smaller = assert_same(model, kept, x)
    converted = [as_tflite(m, tmp_path / f"{i}.tflite").macs for i, m in enumerate((model, smaller))]
    assert converted[0] == full
    assert full * 0.4 < converted[1] <= full * 0.5


# ---- the stage


def digits_task() -> Task:
    from sklearn.datasets import load_digits

    digits = load_digits()
    split = Split({"": (digits.images[:400, ..., None] / 16).astype(np.float32)}, {"": digits.target[:400]})
    return Task("digits", CLASSIFICATION, split, split, accuracy, fingerprint="d")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    import tf_keras

    def build(x: Any, k: Any) -> Any:
        for i, n in enumerate((16, 24)):
            x = k.Conv2D(n, 3, padding="same", use_bias=False, name=f"conv{i}")(x)
            x = k.ReLU(name=f"relu{i}")(k.BatchNormalization(name=f"bn{i}")(x))
        return k.Dense(10, "softmax", name="scores")(k.GlobalAveragePooling2D(name="pool")(x))

    tf_keras.utils.set_random_seed(0)
    x = tf_keras.Input((8, 8, 1), name="image")
    path = tmp_path_factory.mktemp("source") / "model.keras"
    save_keras(tf_keras.Model(x, build(x, tf_keras.layers), name="net"), path)
    signature = Signature((TensorInfo("image", (1, 8, 8, 1), "float32"),), (TensorInfo("scores", (1, 10), "float32"),))
    return Artifact(KERAS, {"model": path}, signature)


def prune(source: Artifact, folder: Path, report: Callable[[Progress], None] = lambda _: None, **more: Any) -> Outcome:
    out, work = folder / "out", folder / "work"
    for path in (out, work):
        path.mkdir(parents=True, exist_ok=True)
    budget = more.pop("budget_seconds", None)
    ctx = Context(out, work, digits_task(), "float", LoadOptions(), 0, budget, None, report)
    options: Mapping[str, Any] = {
        "importance": "taylor",
        "epochs": 3,
        "rounds": 2,
        "round_to": 4,
        "taylor_batches": 4,
        **more,
    }
    return PruneChannels(**options).run(source, ctx)


def test_the_stage_halves_the_model_and_a_kill_leaves_no_trace(source: Artifact, tmp_path: Path) -> None:
    straight = prune(source, tmp_path / "straight")
    figures = straight.metrics
    assert figures["macs"]["after"] <= figures["macs"]["before"] / 2
    assert (figures["epochs"], len(figures["losses"])) == (3, 3)
    first, last = (done["costs"]["macs"] for done in figures["rounds"])
    assert figures["macs"]["before"] / 2 < first <= figures["macs"]["before"] * 0.5**0.5
    assert last == figures["macs"]["after"]
    before, after = figures["channels"]["conv1"]
    assert before == 24
    assert after in (8, 12, 16, 20)

    epochs: list[str] = []

    def kill(progress: Progress) -> None:
        if progress.text.startswith("epoch") and progress.done == progress.total:
            epochs.append(progress.text)
            if len(epochs) in (1, 2):  # at the end of the first round; then in the second
                raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            prune(source, tmp_path / "killed", kill)
    resumed = prune(source, tmp_path / "killed", kill)
    assert resumed.metrics == straight.metrics
    assert resumed.files["model"].read_bytes() == straight.files["model"].read_bytes()


def test_a_round_without_time_leaves_its_share_to_the_next(source: Artifact, tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(BudgetError):  # not even the last round has time
        prune(source, tmp_path, lambda p: said.append(p.text), epochs=9, budget_seconds=1e-6)
    assert any("no time for an epoch" in text for text in said)
    record = json.loads((tmp_path / "work/round1/round.json").read_text())
    assert record["epochs"] == 0
    assert record["seconds_unspent"] == pytest.approx(1e-6 / 3)
    made = prune(source, tmp_path, epochs=9, budget_seconds=1e6)
    assert [done["epochs"] for done in made.metrics["rounds"]] == [0, 6]
    assert made.metrics["macs"]["after"] <= made.metrics["macs"]["before"] / 2


def test_a_latency_budget_is_measured_once_and_kept(source: Artifact, tmp_path: Path) -> None:
    made = prune(source, tmp_path, budget="latency", keep=0.7, importance="l1", rounds=1, epochs=1)
    search = made.metrics["latency_search"]
    share = made.metrics["macs"]["after"] / made.metrics["macs"]["before"]
    chosen = [trial for trial in search["trials"] if trial["macs"] == pytest.approx(share)]
    assert chosen[0]["ratio"] <= 0.7
    assert search["threads"] == 1
    assert search["device"]
    assert search["date"]
    again = prune(source, tmp_path, budget="latency", keep=0.7, importance="l1", rounds=1, epochs=1)
    assert again.metrics == made.metrics  # figures can't repeat: these are the ones that were kept


@pytest.mark.parametrize("budget", ["macs", "latency"])
def test_what_a_channel_takes_is_measured_once_and_kept(source: Artifact, tmp_path: Path, budget: str) -> None:
    options = {"ranking": "importance-per-latency", "budget": budget, "keep": 0.7, "importance": "l1", "epochs": 2}
    made = prune(source, tmp_path, **options)
    latency = made.metrics["channel_latency"]
    assert set(latency["of"]) == set(latency["halved"]) == {"conv0", "conv1"}
    assert min(latency["of"].values()) > 0
    assert (latency["threads"], latency["runs"] > 0, bool(latency["device"]), bool(latency["date"])) == (1,) + (
        True,
    ) * 3
    assert prune(source, tmp_path, **options).metrics == made.metrics


@pytest.mark.parametrize(
    ("field", "value"),
    [("keep", 1.0), ("budget", "flops"), ("importance", "l3"), ("round_to", 3), ("rounds", 0), ("epochs", 1)],
)
def test_a_setting_out_of_range_is_an_error_of_the_recipe(field: str, value: Any) -> None:
    with pytest.raises(RecipeError, match=f"prune-channels: {field} is"):
        PruneChannels(**{field: value})


RECIPE = """summary = "quick"
[[steps]]
stage = "prune-channels"
epochs = 2
[[steps]]
stage = "convert"
"""


def test_a_build_with_fewer_channels(tmp_path: Path) -> None:
    (tmp_path / "quick.toml").write_text(RECIPE)
    done = run_cli("build", "digits", "--recipe", "quick.toml", "--max-drop", "off", "--out", "out", cwd=tmp_path)
    assert done.code == 0, done.err
    history = json.loads((tmp_path / "out" / "manifest.json").read_text())["history"]
    macs = next(record["metrics"]["macs"] for record in history if record["stage"] == "prune-channels")
    assert read(tmp_path / "out" / "model.tflite").macs == macs["after"] <= macs["before"] / 2
