"""Unstructured pruning: which weights go, in which pattern, and that the .tflite still has the zeros."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import run_cli

from edgecompile.artifact import KERAS, Artifact, Signature, TensorInfo
from edgecompile.errors import CompressionGateError, RecipeError
from edgecompile.loaders.base import LoadOptions, save_keras
from edgecompile.metrics import accuracy
from edgecompile.pruning.kernels import Kernel, end_layers, find_kernels
from edgecompile.pruning.masks import GLOBAL, LAYER, STRUCTURES, TWO_OF_FOUR, fits, keep_masks
from edgecompile.pruning.pruner import Pruner
from edgecompile.pruning.schedule import mask_updates
from edgecompile.stages.base import Context, Outcome, Progress
from edgecompile.stages.prune import Prune
from edgecompile.task import CLASSIFICATION, Split, Task
from edgecompile.tflite_file import read
from edgecompile.training import Hooks

Array = np.ndarray
BLOCKS = {"element": (1, 1), "1x16": (1, 16), "4x4": (4, 4)}
SHAPES = st.tuples(st.sampled_from([4, 8, 12]), st.sampled_from([1, 3]), st.sampled_from([16, 32]))
LAYERS = st.lists(SHAPES, min_size=1, max_size=3)
SHARES = st.floats(0.01, 0.98)


def blocks(kernel: Array, structure: str) -> list[Array]:
    """Every block of [outputs, positions, inputs], cut out one by one."""
    high, wide = BLOCKS.get(structure, (1, 4))
    outputs, positions, inputs = kernel.shape
    return [
        kernel[o : o + high, p, i : i + wide]
        for o in range(0, outputs, high)
        for p in range(positions)
        for i in range(0, inputs, wide)
    ]


def random_kernels(shapes: list[tuple[int, int, int]], seed: int) -> list[Array]:
    """Magnitudes with ties, on scales that differ from layer to layer."""
    rng = np.random.default_rng(seed)
    return [np.abs(np.round(rng.normal(0, 3, shape), 1)) * 10.0**n for n, shape in enumerate(shapes)]


# ---- masks


@settings(max_examples=40, deadline=None)
@given(LAYERS, st.sampled_from(list(BLOCKS)), SHARES, st.integers(0, 99))
def test_a_layer_loses_the_share_it_was_promised(
    shapes: list[tuple[int, int, int]], structure: str, sparsity: float, seed: int
) -> None:
    kernels = random_kernels(shapes, seed)
    for kernel, keep in zip(kernels, keep_masks(kernels, structure, sparsity, LAYER), strict=True):
        gone = [not b.any() for b in blocks(keep, structure)]
        assert all(zero or b.all() for zero, b in zip(gone, blocks(keep, structure), strict=True))
        assert sum(gone) == min(int(np.ceil(round(sparsity * len(gone), 6))), len(gone) - 1)
        means = np.array([b.mean() for b in blocks(kernel, structure)])
        assert max(means[gone], default=0) <= min(means[~np.array(gone)]) + 1e-9


@settings(max_examples=20, deadline=None)
@given(SHAPES, st.integers(0, 99))
def test_two_of_four_go_in_every_group(shape: tuple[int, int, int], seed: int) -> None:
    (kernel,) = random_kernels([shape], seed)
    (keep,) = keep_masks([kernel], TWO_OF_FOUR, 0.5, LAYER)
    for weights, stays in zip(blocks(kernel, TWO_OF_FOUR), blocks(keep, TWO_OF_FOUR), strict=True):
        assert stays.sum() == 2
        assert weights[~stays].max() <= weights[stays].min()
    (half,) = keep_masks([kernel], TWO_OF_FOUR, 0.25, LAYER)
    assert {int(b.sum()) for b in blocks(half, TWO_OF_FOUR)} == {2, 4}
    assert np.mean(half) == 0.75


@settings(max_examples=40, deadline=None)
@given(LAYERS, st.sampled_from(list(BLOCKS)), SHARES, st.integers(0, 99))
def test_the_threshold_of_all_layers_is_one(
    shapes: list[tuple[int, int, int]], structure: str, sparsity: float, seed: int
) -> None:
    kernels = random_kernels(shapes, seed)
    least = (1 - sparsity) / 10
    masks = keep_masks(kernels, structure, sparsity, GLOBAL, least)
    gone = [np.array([not b.any() for b in blocks(m, structure)]) for m in masks]
    means = [np.array([b.mean() for b in blocks(k, structure)]) for k in kernels]
    total = sum(len(g) for g in gone)
    kept = [max(1, int(np.ceil(round(least * len(g), 6)))) for g in gone]
    assert sum(g.sum() for g in gone) == min(int(np.ceil(round(sparsity * total, 6))), total - sum(kept))
    highest = max((m[g].max() for m, g in zip(means, gone, strict=True) if g.any()), default=0.0)
    for mean, g, least_units in zip(means, gone, kept, strict=True):
        assert np.sum(~g) >= least_units
        if np.sum(~g) > least_units:  # else what stays is the layer's own share, whatever its size
            assert mean[~g].min() >= highest - 1e-9


@settings(max_examples=40, deadline=None)
@given(LAYERS, st.sampled_from(STRUCTURES), st.sampled_from([LAYER, GLOBAL]), SHARES, SHARES, st.integers(0, 99))
def test_what_is_zero_is_zero_at_every_higher_sparsity(
    shapes: list[tuple[int, int, int]], structure: str, scope: str, one: float, two: float, seed: int
) -> None:
    if structure == TWO_OF_FOUR:
        one, two, scope = one / 2, two / 2, LAYER
    kernels = random_kernels(shapes, seed)
    low, high = (keep_masks(kernels, structure, s, scope, 0.01) for s in sorted((one, two)))
    assert all(np.all(a | ~b) for a, b in zip(low, high, strict=True))


def test_a_scale_of_its_own_spares_no_layer_of_a_global_threshold() -> None:
    small, large = np.linspace(0.1, 1, 100), np.linspace(10, 100, 100)
    masks = keep_masks([small.reshape(1, 1, 100), large.reshape(1, 1, 100)], "element", 0.5, GLOBAL, 0.05)
    assert [int(m.sum()) for m in masks] == [5, 95]
    assert masks[0][0, 0, -5:].all()
    assert not masks[1][0, 0, :5].any()


def test_blocks_that_do_not_divide_a_kernel_do_not_fit() -> None:
    assert [fits((10, 9, 16), s) for s in ("element", "1x16", "4x4", "2:4")] == [True, True, False, True]
    assert [fits((8, 1, 6), s) for s in ("element", "1x16", "4x4", "2:4")] == [True, False, False, False]


# ---- schedules


def test_the_polynomial_is_that_of_zhu_and_gupta() -> None:
    shares = mask_updates("polynomial", 0.8, 1000, 0.1, 0.6)
    assert (min(shares), max(shares), len(shares)) == (105, 600, 100)
    assert shares[350] == pytest.approx(0.8 * (1 - 0.5**3), rel=1e-6)
    assert list(shares.values()) == sorted(shares.values())
    assert shares[600] == 0.8


@pytest.mark.parametrize("steps", [1, 2, 7, 40, 997])
@pytest.mark.parametrize("kind", ["polynomial", "constant"])
@pytest.mark.parametrize(("begin", "ramp"), [(0.0, 0.6), (0.5, 1.0), (0.9, 1.0)])
def test_every_schedule_ends_at_its_target_within_the_training(
    steps: int, kind: str, begin: float, ramp: float
) -> None:
    shares = mask_updates(kind, 0.7, steps, begin, ramp)
    assert shares[max(shares)] == 0.7
    assert 1 <= min(shares) <= max(shares) <= steps
    assert min(shares) > begin * steps - 1
    assert len(shares) == 1 if kind == "constant" else len(shares) <= 200


# ---- a model's kernels


def net() -> Any:
    """Every kind of kernel: a stem with one input, a strided, a pointwise, a depthwise and a transposed one."""
    import tf_keras
    from tf_keras import layers

    tf_keras.utils.set_random_seed(1)
    image = layers.Input((8, 8, 1), name="image")
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="stem")(image)
    x = layers.Conv2D(32, 1, activation="relu", name="pointwise")(x)
    x = layers.DepthwiseConv2D(3, padding="same", name="apart")(x)
    x = layers.Conv2D(16, 3, strides=2, activation="relu", name="strided")(x)
    x = layers.Conv2DTranspose(20, 2, strides=2, name="wide")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return tf_keras.Model(image, layers.Dense(10, activation="softmax", name="scores")(x), name="net")


def test_kernels_are_laid_out_as_the_tflite_has_them() -> None:
    kernels, _ = find_kernels(net(), "element", depthwise="prune")
    shapes = {kernel.layer: kernel.shape for kernel in kernels}
    assert shapes == {
        "stem": (16, 9, 1),
        "pointwise": (32, 1, 16),
        "apart": (32, 9, 1),
        "strided": (16, 9, 32),
        "wide": (20, 4, 16),
        "scores": (10, 1, 20),
    }
    by_name = {kernel.layer: kernel for kernel in kernels}
    strided, wide = by_name["strided"], by_name["wide"]
    array = strided.variable.numpy()
    assert strided.view(array)[5, 3 * 2 + 1, 7] == array[2, 1, 7, 5]
    assert wide.view(wide.variable.numpy())[5, 2 * 1 + 0, 7] == wide.variable.numpy()[1, 0, 5, 7]
    for kernel in kernels:
        array = kernel.variable.numpy()
        np.testing.assert_array_equal(kernel.unview(kernel.view(array)), array)


@pytest.mark.parametrize(
    ("structure", "depthwise", "first_last", "dense"),
    [
        ("element", "dense", "prune", {"apart": "depthwise"}),
        ("element", "prune", "dense", {"stem": "first layer", "scores": "last layer"}),
        ("1x16", "prune", "prune", {"stem": "[16, 9, 1]", "apart": "[32, 9, 1]", "scores": "[10, 1, 20]"}),
        ("4x4", "dense", "prune", {"stem": "[16, 9, 1]", "apart": "depthwise", "scores": "[10, 1, 20]"}),
        ("2:4", "dense", "prune", {"stem": "[16, 9, 1]", "apart": "depthwise"}),
    ],
)
def test_layers_left_dense_are_named(structure: str, depthwise: str, first_last: str, dense: dict[str, str]) -> None:
    _, left = find_kernels(net(), structure, depthwise=depthwise, first_last=first_last)
    assert set(left) == set(dense)
    assert all(reason in left[name] for name, reason in dense.items())


def test_recurrent_and_separable_kernels_are_found_and_frozen_ones_left() -> None:
    import tf_keras
    from tf_keras import layers

    first = layers.Input((8, 4))
    second = layers.Input((8, 8, 4))
    x = layers.LSTM(6, name="recurrent")(first)
    y = layers.SeparableConv2D(8, 3, name="separable")(second)
    y = layers.Conv2D(6, 3, name="frozen", trainable=False)(y)
    out = layers.Dense(2, name="last")(layers.Add()([x, layers.GlobalMaxPooling2D()(y)]))
    model = tf_keras.Model([first, second], out)
    kernels, left = find_kernels(model, "element")
    assert sorted((k.layer, k.shape) for k in kernels) == [
        ("last", (2, 1, 6)),
        ("recurrent", (24, 1, 4)),
        ("recurrent", (24, 1, 6)),
        ("separable", (8, 1, 4)),
    ]
    assert left == {"separable": "depthwise", "frozen": "not trainable"}
    ends = {"recurrent": "first layer", "separable": "first layer", "last": "last layer"}
    assert end_layers(model, {k.layer for k in kernels}) == ends


# ---- the stage


def run_stage(
    stage: Prune, folder: Path, say: Callable[[Progress], None] = lambda _: None, model: Any = None
) -> tuple[Outcome, Any]:
    """(what the stage gave, its model) on 96 made-up images."""
    import tf_keras

    folder.mkdir(exist_ok=True)
    for name in ("out", "work"):
        (folder / name).mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    x, y = rng.random((96, 8, 8, 1), dtype=np.float32), np.arange(96) % 10
    task = Task("t", CLASSIFICATION, Split({"": x}, {"": y}), None, accuracy, "t")
    source = save_keras(model or net(), folder / "source.keras")
    image, scores = TensorInfo("image", (-1, 8, 8, 1), "float32"), TensorInfo("scores", (-1, 10), "float32")
    artifact = Artifact(KERAS, {"model": source}, Signature((image,), (scores,)))
    ctx = Context(folder / "out", folder / "work", task, "float", LoadOptions(), 0, None, None, say)
    outcome = stage.run(artifact, ctx)
    return outcome, tf_keras.models.load_model(outcome.files["model"], compile=False)


def deployed(layer: Any) -> Array:
    """The layer's kernel as [outputs, positions, inputs], written out layer by layer."""
    if layer.name == "apart":
        return layer.depthwise_kernel.numpy().reshape(9, 32).T[:, :, None]
    kernel = layer.kernel.numpy()
    if layer.name == "wide":
        kernel = kernel.transpose(0, 1, 3, 2)
    return kernel.reshape(-1, *kernel.shape[-2:]).transpose(2, 0, 1)


VARIANTS = {
    "plain": {},
    "constant": {"pruning_schedule": "constant", "begin": 0.3, "sparsity": 0.63},
    "l1": {"l1": 1e-3, "sparsity": 0.8},
    "everywhere": {"depthwise": "prune", "sparsity": 0.77},
    "taylor": {"saliency": "taylor"},
    "1x16": {"structure": "1x16"},
    "4x4": {"structure": "4x4", "sparsity": 0.75, "saliency": "taylor"},
    "2:4": {"structure": "2:4"},
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=list(VARIANTS))
def test_every_pruned_layer_has_its_zeros_in_their_pattern(options: dict[str, Any], tmp_path: Path) -> None:
    stage = Prune(epochs=2, batch_size=16, **options)
    outcome, model = run_stage(stage, tmp_path)
    pruned = outcome.metrics["sparsity"]
    expected = {k.layer for k in find_kernels(net(), stage.structure, depthwise=stage.depthwise)[0]}
    assert set(pruned) == expected
    for name in ("stem", "pointwise", "apart", "strided", "wide", "scores"):
        kernel = deployed(model.get_layer(name))
        if name not in pruned:
            assert np.all(kernel != 0)
            assert name in outcome.notes[0]
        elif stage.structure == TWO_OF_FOUR:
            assert all(np.sum(b == 0) == 2 for b in blocks(kernel, TWO_OF_FOUR))
        else:
            zero = [not b.any() for b in blocks(kernel, stage.structure)]
            assert all(z or np.all(b != 0) for z, b in zip(zero, blocks(kernel, stage.structure), strict=True))
            assert sum(zero) == np.ceil(round(stage.sparsity * len(zero), 6))
            assert pruned[name] == pytest.approx(sum(zero) / len(zero))


@pytest.mark.parametrize("saliency", ["magnitude", "taylor"])
def test_a_global_scope_spares_no_layer_and_empties_none(saliency: str, tmp_path: Path) -> None:
    stage = Prune(epochs=2, batch_size=16, scope="global", saliency=saliency, sparsity=0.9, first_last="dense")
    outcome, model = run_stage(stage, tmp_path)
    shares = {name: deployed(model.get_layer(name)) for name in ("pointwise", "strided", "wide")}
    assert set(outcome.metrics["sparsity"]) == set(shares)
    total = sum(np.sum(k == 0) for k in shares.values()) / sum(k.size for k in shares.values())
    assert outcome.metrics["sparsity_total"] == pytest.approx(total)
    assert 0.9 <= total < 0.9002
    zeros = [float(np.mean(k == 0)) for k in shares.values()]
    assert max(zeros) - min(zeros) > 0.03
    assert max(zeros) <= 0.99
    assert np.all(deployed(model.get_layer("stem")) != 0)


def test_a_penalty_makes_weights_smaller(tmp_path: Path) -> None:
    sizes = []
    for l1 in (0.0, 0.1):
        stage = Prune(epochs=3, batch_size=16, learning_rate=0.01, sparsity=0.1, l1=l1)
        _, model = run_stage(stage, tmp_path / str(l1))
        sizes.append(np.abs(model.get_layer("strided").kernel.numpy()).sum())
    assert sizes[1] < 0.7 * sizes[0]


def test_taylor_spares_small_weights_that_the_loss_depends_on(tmp_path: Path) -> None:
    """Channels of large weights whose outputs nothing reads go first; by magnitude they'd stay."""
    zeros = {}
    for saliency in ("magnitude", "taylor"):
        model = net()
        kernel = model.get_layer("strided").kernel
        values = kernel.numpy()
        values[..., :8] *= 5
        kernel.assign(values)
        reader = model.get_layer("wide").kernel
        unread = reader.numpy()
        unread[..., :8] = 0  # its inputs are its last axis
        reader.assign(unread)
        stage = Prune(
            epochs=1, batch_size=16, learning_rate=1e-6, saliency=saliency, pruning_schedule="constant", begin=0.4
        )
        _, result = run_stage(stage, tmp_path / saliency, model=model)
        pruned = result.get_layer("strided").kernel.numpy() == 0
        zeros[saliency] = (pruned[..., :8].mean(), pruned[..., 8:].mean())
    assert zeros["magnitude"][0] < 0.2 < 0.8 < zeros["magnitude"][1]
    assert zeros["taylor"][1] < 0.2 < 0.8 < zeros["taylor"][0]


def hooks_of(weight: Any, updates: dict[int, float], saliency: str) -> Hooks:
    """Of a dense kernel with one output, pruned weight by weight."""
    return Pruner(
        [Kernel("layer", weight, (1, 0), (1, 1))],
        lambda saliencies, sparsity: keep_masks(saliencies, "element", sparsity, LAYER),
        lambda _: updates,
        saliency,
    ).hooks()


def test_what_is_zero_stays_zero() -> None:
    import tensorflow as tf

    weight = tf.Variable([[1.0], [-4.0], [2.0], [3.0]])
    hooks = hooks_of(weight, {1: 0.5, 3: 0.5, 4: 0.75}, "magnitude")
    assert hooks.after_step is not None
    hooks.planned(4)
    remaining = []
    for step in range(1, 5):
        hooks.after_step(step)
        remaining.append(np.flatnonzero(weight.numpy()).tolist())
        weight.assign_add([[9.0], [0.0], [9.0], [0.0]])  # an optimizer moves zeros too
    assert remaining == [[1, 3], [1, 3], [1, 3], [1]]


def test_taylor_goes_by_weight_times_gradient() -> None:
    """By |w dL/dw| the order of the first step is 0 < 3 < 1 < 2; neither |w| nor the gradient alone gives it."""
    import tensorflow as tf

    weight = tf.Variable([[1.0], [-4.0], [2.0], [3.0]])
    hooks = hooks_of(weight, {1: 0.5, 2: 0.5, 3: 0.75}, "taylor")
    assert hooks.gradient is not None
    assert hooks.after_step is not None
    hooks.gradient(weight, tf.constant([[9.0], [9.0], [9.0], [-9.0]]))  # before training is planned: not seen
    hooks.planned(3)
    remaining = []
    for step, gradient in enumerate([[1.0, -1.0, 3.0, 1.0], [9.0, 0.1, 0.1, 9.0], [9.0, 0.1, 2.0, 9.0]], 1):
        hooks.gradient(weight, tf.constant(gradient)[:, None])
        weight.assign_add(tf.fill([4, 1], 0.01))  # an optimizer moves all weights
        hooks.after_step(step)
        remaining.append(np.flatnonzero(weight.numpy()).tolist())
    assert remaining == [[1, 2], [1, 2], [2]]


@pytest.mark.parametrize("moment", ["epoch 1/3", "epoch 3/3"])
def test_a_killed_pruning_ends_in_the_same_bytes(tmp_path: Path, moment: str) -> None:
    stage = Prune(epochs=3, batch_size=16, scope="global", saliency="taylor", l1=1e-4, begin=0.1)
    straight, _ = run_stage(stage, tmp_path / "straight")

    def kill(progress: Progress) -> None:
        if progress.text == moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(stage, tmp_path / "killed", kill)
    resumed, _ = run_stage(stage, tmp_path / "killed")
    assert resumed.metrics == straight.metrics
    assert resumed.files["model"].read_bytes() == straight.files["model"].read_bytes()


def test_a_model_without_a_fitting_kernel_is_an_error(tmp_path: Path) -> None:
    import tf_keras
    from tf_keras import layers

    image = layers.Input((8, 8, 1), name="image")
    scores = layers.Dense(10, name="scores")(layers.Flatten()(layers.MaxPooling2D(4)(image)))
    model = tf_keras.Model(image, scores)
    with pytest.raises(CompressionGateError, match=r"scores \(its .* \[10, 1, 4\] don't divide into 1x16"):
        run_stage(Prune(structure="1x16"), tmp_path, model=model)


def test_a_schedule_that_never_fires_breaks_the_promise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecompile.stages.prune.mask_updates", lambda *_: {10**6: 0.5})
    with pytest.raises(CompressionGateError, match=r"prune promised 72 zeros in 144, layer 'stem' has 0"):
        run_stage(Prune(epochs=1), tmp_path / "layer")
    with pytest.raises(CompressionGateError, match=r"zeros in \d+ over all layers, the model has 0"):
        run_stage(Prune(epochs=1, scope="global"), tmp_path / "global")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"structure": "2:3"}, "structure is '2:3', expected 'element' or '1x16' or '4x4' or '2:4'"),
        ({"structure": "2:4", "sparsity": 0.6}, "sparsity is 0.6, expected 0.5 where structure is '2:4'"),
        ({"structure": "2:4", "scope": "global"}, "scope is 'global', expected 'layer'"),
        ({"begin": 0.7}, "begin is 0.7, expected a share from 0, less than ramp"),
        ({"saliency": "taylor", "pruning_schedule": "constant"}, "begin is 0.0, expected more than 0"),
        ({"saliency": "hessian"}, "saliency is 'hessian'"),
        ({"l1": -1.0}, "l1 is -1.0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Prune(**options)
    assert message in caught.value.message


# ---- through quantization-aware training, in the deployed file

RECIPE = """summary = "x"
[[steps]]
stage = "prune"
epochs = 2
{}
[[steps]]
stage = "qat"
epochs = 1
preserve_sparsity = true
[[steps]]
stage = "convert"
"""


# The digits' kernels as the .tflite has them, where a bundle's tensors have no names.
INT8_SHAPES = {
    "conv": (16, 3, 3, 1),
    "depthwise": (1, 3, 3, 16),
    "pointwise": (32, 1, 1, 16),
    "residual": (32, 3, 3, 32),
    "scores": (10, 32),
}


def int8_kernels(tmp_path: Path, options: str) -> tuple[dict[str, Array], dict[str, Any]]:
    """({layer: int8 weights of the .tflite, outputs first}, the pruning's metrics) of the digits."""
    (tmp_path / "r.toml").write_text(RECIPE.format(options))
    done = run_cli("build", "digits", "--recipe", "r.toml", "--max-drop", "off", "--out", "out", cwd=tmp_path)
    assert done.code == 0, done.err
    model = read(tmp_path / "out" / "model.tflite")
    found = {}
    for name, shape in INT8_SHAPES.items():
        (tensor,) = [t for t in model.main.tensors if t.is_constant and t.dtype == "int8" and tuple(t.shape) == shape]
        found[name] = model.data(tensor)
    history = json.loads((tmp_path / "out" / "manifest.json").read_text())["history"]
    return found, next(record["metrics"] for record in history if record["stage"] == "prune")


def test_two_of_four_survive_in_the_int8_weights(tmp_path: Path) -> None:
    kernels, metrics = int8_kernels(tmp_path, 'structure = "2:4"')
    assert set(metrics["sparsity"]) == {"pointwise", "residual", "scores"}
    for name in metrics["sparsity"]:
        groups = kernels[name].reshape(-1, 4)  # inputs are the innermost dimension, of 16 or 32
        assert np.all(np.sum(groups == 0, axis=1) >= 2), name
        assert len(np.unique(groups)) > 20, name
    assert np.mean(kernels["conv"] == 0) < 0.1


def test_global_taylor_zeros_survive_in_the_int8_weights(tmp_path: Path) -> None:
    options = 'sparsity = 0.6\nscope = "global"\nsaliency = "taylor"\ndepthwise = "prune"'
    kernels, metrics = int8_kernels(tmp_path, options)
    assert set(metrics["sparsity"]) == set(kernels)
    assert metrics["sparsity_total"] >= 0.6
    for name, zeros in metrics["sparsity"].items():
        if zeros >= 0.3:
            assert np.mean(kernels[name] == 0) >= zeros, name
    assert max(metrics["sparsity"].values()) > 0.6
