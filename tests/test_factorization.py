"""Low-rank factorisation: full rank changes nothing, a smaller one loses what the SVD says, and budgets are kept."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from running import run_cli

from edgecompile.costs import Cost, model_cost
from edgecompile.errors import CompressionGateError, RecipeError
from edgecompile.factorization import (
    CHANNEL,
    KEEP,
    MATRIX,
    SPATIAL,
    factorizable,
    factorize,
    find_candidates,
    singular_values,
    split_kernel,
)
from edgecompile.ranks import Candidate, Choice, Option, by_budget, by_energy
from edgecompile.responses import measure_responses
from edgecompile.stages.factorize import Factorize
from edgecompile.training import Distillation

Array = np.ndarray[Any, Any]


def tf_keras() -> Any:
    import tf_keras

    return tf_keras


def random_model(layer: Any, shape: tuple[int, ...], seed: int) -> Any:
    """Input -> layer, with random kernel and bias, and a frozen clock of names."""
    inputs = tf_keras().Input(shape, name="x")
    model = tf_keras().Model(inputs, layer(inputs))
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.normal(size=w.shape) for w in layer.get_weights()])
    return model


def at_rank(model: Any, name: str, scheme: str, rank: int | None = None) -> Any:
    """The model with the layer factorised at that rank, or the full one, whatever it costs."""
    layer = model.get_layer(name)
    (candidate,) = find_candidates(model, [layer], scheme, {})
    option = candidate.options[0]
    rank = rank or option.full_rank
    cost = option.cost(rank)
    return factorize(model, [Choice(name, option.scheme, rank, option.full_rank, 1.0, candidate.before, cost)], {})


def same(model: Any, other: Any, x: Array, tolerance: float = 1e-4) -> bool:
    expected, got = model(x).numpy(), other(x).numpy()
    return expected.shape == got.shape and float(np.abs(expected - got).max()) <= tolerance * np.abs(expected).max()


@settings(max_examples=15, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    channels=st.tuples(st.integers(1, 5), st.integers(1, 6)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    padding=st.sampled_from(["same", "valid"]),
    scheme=st.sampled_from([SPATIAL, CHANNEL]),
    size=st.tuples(st.integers(10, 12), st.integers(8, 11)),
    bias=st.booleans(),
    seed=st.integers(0, 9),
)
def test_a_convolution_at_full_rank_computes_the_same(
    kernel: tuple[int, int],
    channels: tuple[int, int],
    strides: tuple[int, int],
    dilation: tuple[int, int],
    padding: str,
    scheme: str,
    size: tuple[int, int],
    bias: bool,
    seed: int,
) -> None:
    assume(max(strides) == 1 or max(dilation) == 1)  # TensorFlow has no convolution with both
    layer = tf_keras().layers.Conv2D(
        channels[1], kernel, strides, padding, dilation_rate=dilation, use_bias=bias, activation="relu", name="conv"
    )
    model = random_model(layer, (*size, channels[0]), seed)
    x = np.random.default_rng(seed + 100).normal(size=(2, *size, channels[0])).astype(np.float32)
    assert same(model, at_rank(model, "conv", scheme), x)


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda k: k.Dense(5, "tanh", name="layer"), (7,)),
        (lambda k: k.Dense(9, name="layer"), (3, 4)),
        (lambda k: k.Conv1D(6, 3, 2, padding="causal", name="layer"), (10, 4)),
        (lambda k: k.Conv1D(6, 3, dilation_rate=2, padding="causal", name="layer"), (10, 4)),
    ],
)
def test_other_layers_at_full_rank_compute_the_same(build: Any, shape: tuple[int, ...]) -> None:
    model = random_model(build(tf_keras().layers), shape, 0)
    x = np.random.default_rng(1).normal(size=(3, *shape)).astype(np.float32)
    assert same(model, at_rank(model, "layer", "auto"), x)


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, n) for n in (4, 4, 6, 6)]),
    scheme=st.sampled_from([MATRIX, SPATIAL, CHANNEL]),
    share=st.floats(0.01, 1),
    seed=st.integers(0, 9),
)
def test_the_error_of_a_cut_kernel_is_the_energy_left_out(
    shape: tuple[int, int, int, int], scheme: str, share: float, seed: int
) -> None:
    kernel = np.random.default_rng(seed).normal(size=shape[2:] if scheme == MATRIX else shape).astype(np.float32)
    singular = singular_values(kernel, scheme)
    rank = max(1, round(share * len(singular)))
    first, second = split_kernel(kernel, scheme, rank)
    assert first.shape[-1] == second.shape[-2] == rank
    joined = {
        MATRIX: lambda: first @ second,
        CHANNEL: lambda: np.einsum("hwcr,rn->hwcn", first, second[0, 0]),
        SPATIAL: lambda: np.einsum("hcr,wrn->hwcn", first[:, 0], second[0]),
    }[scheme]()
    error, total = np.sum((kernel - joined) ** 2), np.sum(kernel.astype(np.float64) ** 2)
    assert error == pytest.approx(np.sum(singular[rank:] ** 2), abs=1e-5 * total)
    assert np.sum(singular**2) == pytest.approx(total)


def small_network(seed: int = 0) -> Any:
    """Two branches, BatchNorm, a layer used twice, a depthwise and a grouped convolution; names in each other's way."""
    layers = tf_keras().layers
    image = tf_keras().Input((8, 10, 4), name="image")
    x = layers.ReLU(name="relu")(layers.Conv2D(16, 3, padding="same", name="stem")(image))
    mid = layers.Conv2D(24, 3, 2, padding="same", use_bias=False, name="mid")(x)
    mid = layers.BatchNormalization(name="mid_vertical")(mid)
    side = layers.Conv2D(24, 1, 2, padding="same", name="side")(x)
    x = layers.Add(name="mid_reduce")([mid, side])
    twice = layers.Conv2D(24, 3, padding="same", activation="relu", name="twice")
    x = twice(twice(x))
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.Conv2D(24, 2, padding="same", groups=4, name="grouped")(x)
    x = layers.Dense(32, "relu", name="dense")(layers.Flatten(name="flatten")(x))
    model = tf_keras().Model(image, layers.Dense(10, "softmax", name="scores")(x))
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        layer.set_weights([np.abs(rng.normal(0, 0.15, w.shape)) for w in layer.get_weights()])
    return model


def test_a_whole_network_keeps_its_names_and_its_function() -> None:
    model = small_network()
    layers, left = factorizable(model, "factorize")
    assert left == {"depthwise": "DepthwiseConv2D", "grouped": "grouped"}
    candidates = find_candidates(model, layers, "auto", {})
    assert [c.name for c in candidates] == ["stem", "mid", "side", "twice", "dense", "scores"]
    choices = [
        Choice(c.name, o.scheme, o.full_rank, o.full_rank, 1.0, c.before, o.cost(o.full_rank))
        for c in candidates
        for o in c.options[:1]
    ]
    made = factorize(model, choices, {})
    x = np.random.default_rng(0).normal(size=(4, 8, 10, 4)).astype(np.float32)
    assert same(model, made, x)
    names = [layer.name for layer in made.layers]
    assert made.output_names == ["scores"]
    assert len(set(names)) == len(names)
    assert {"mid", "mid_vertical", "mid_vertical_1", "mid_reduce", "twice_vertical", "side_reduce"} <= set(names)
    # BatchNorm comes right after the second half, where a converter folds it in
    assert made.get_layer("mid_vertical").inbound_nodes[0].inbound_layers.name == "mid"
    assert made.get_layer("mid").activation.__name__ == "linear"
    assert not made.get_layer("mid_vertical_1").use_bias
    assert names == [layer.name for layer in factorize(model, choices, {}).layers]


def test_the_first_and_the_last_layer_stay() -> None:
    layers, left = factorizable(small_network(), KEEP)
    assert [layer.name for layer in layers] == ["mid", "side", "twice", "dense"]
    assert left["stem"] == "first layer"
    assert left["scores"] == "last layer"


@pytest.mark.parametrize(
    ("measure", "keep", "round_to"),
    [("macs", 0.85, 1), ("macs", 0.6, 4), ("parameters", 0.6, 1), ("parameters", 0.45, 4)],
)
def test_a_budget_is_kept_and_used(measure: str, keep: float, round_to: int) -> None:
    model = small_network()
    total = model_cost(model)
    candidates = find_candidates(model, factorizable(model, KEEP)[0], "auto", {})
    choices, whole = by_budget(candidates, total, measure, keep, round_to)
    cost = model_cost(factorize(model, choices, {}))
    share = getattr(cost, measure) / getattr(total, measure)
    assert keep - 0.04 < share <= keep
    assert {c.name for c in choices} | set(whole) == {c.name for c in candidates}
    assert all(c.rank % round_to == 0 and c.after.macs <= c.before.macs for c in choices)


def test_a_budget_spares_the_layers_with_much_to_lose() -> None:
    flat, steep = np.ones(10), 2.0 ** -np.arange(10)
    candidates = [
        Candidate(name, Cost(100, 100), (Option(MATRIX, singular, Cost(20, 20)),))
        for name, singular in (("flat", flat), ("steep", steep))
    ]
    choices, whole = by_budget(candidates, Cost(200, 200), "macs", 0.75, 1)
    assert [(c.name, c.rank) for c in choices] == [("steep", 2)]
    assert list(whole) == ["flat"]
    # a rank less of "flat" would lose little, had it not lost so much with the first cut
    choices, _ = by_budget(candidates, Cost(200, 200), "macs", 0.65, 1)
    assert [(c.name, c.rank) for c in choices] == [("steep", 1)]
    # a fifth rank would cost what the layer does: four is the most, and what is left over is spent
    assert [c.rank for c in by_budget(candidates, Cost(200, 200), "macs", 0.9, 1)[0]] == [4]


def test_the_smallest_rank_with_the_energy_is_taken() -> None:
    singular = np.array([3.0, 2, 1, 1, 1])  # energies 9, 4, 1, 1, 1 of 16
    option = Option(MATRIX, singular, Cost(10, 10))
    candidate = Candidate("a", Cost(50, 50), (option,))
    ranks = {e: by_energy([candidate], e, 1)[0][0].rank for e in (0.5, 13 / 16, 0.82, 0.93)}
    assert ranks == {0.5: 1, 13 / 16: 2, 0.82: 3, 0.93: 4}
    assert by_energy([candidate], 0.82, 4)[0][0].rank == 4
    with pytest.raises(CompressionGateError, match=r"no layer cheaper at energy 0.99; layer 'a' .* keeps 0.9375"):
        by_energy([candidate], 0.99, 1)
    cheap = Option(CHANNEL, np.array([1.0, 1, 1, 1, 1]), Cost(3, 3))
    both = Candidate("a", Cost(50, 50), (option, cheap))
    assert by_energy([both], 0.93, 1)[0][0].scheme == CHANNEL  # rank 5 at 3 is less than rank 4 at 10


def test_fewer_parameters_are_no_gain_where_they_are_more_macs() -> None:
    # the vertical half runs before the horizontal stride, on four times as many columns
    layer = tf_keras().layers.Conv2D(8, 3, (1, 4), padding="same", name="conv")
    model = random_model(layer, (8, 16, 8), 0)
    (candidate,) = find_candidates(model, [layer], SPATIAL, {})
    (option,) = candidate.options
    assert option.unit == Cost(8 * 16 * 24 + 8 * 4 * 24, 48)
    with pytest.raises(CompressionGateError, match="no layer cheaper"):
        by_energy([candidate], 0.9999, 1)
    # 48 of 576 parameters a rank would let 8 be kept; 3840 of 18,432 MACs a rank let 4
    (choice,) = by_budget([candidate], Cost(18432, 576), "parameters", 0.7, 1)[0]
    assert choice.rank == 4


@pytest.mark.parametrize("keep", [0.3, 0.5, 0.7])
def test_a_budget_is_spent_nearly_as_well_as_can_be(keep: float) -> None:
    rng = np.random.default_rng(0)
    excess = []
    for _ in range(20):
        candidates = []
        for name in "abc":
            singular = np.sort(rng.exponential(size=12) ** rng.uniform(0.5, 3))[::-1]
            unit = int(rng.integers(5, 15))
            candidates.append(Candidate(name, Cost(12 * unit, 12), (Option(MATRIX, singular, Cost(unit + 4, 1)),)))
        options = [
            [(c.before.macs, 0.0), *((o.cost(r).macs, 1 - float(o.kept()[r - 1])) for r in range(1, 13))]
            for c in candidates
            for o in c.options
        ]
        total = sum(c.before.macs for c in candidates)
        best = min(sum(loss for _, loss in p) for p in product(*options) if sum(c for c, _ in p) <= keep * total)
        choices, _ = by_budget(candidates, Cost(total, 36), "macs", keep, 1)
        excess.append(sum(1 - c.energy for c in choices) - best)
    assert min(excess) > -1e-9
    assert np.mean(excess) < 0.01


def test_unreachable_promises_say_what_can_be_reached() -> None:
    model = small_network()
    candidates = find_candidates(model, factorizable(model, KEEP)[0], "auto", {})
    with pytest.raises(CompressionGateError, match=r"1.0% of the model's macs can't be reached.* \d+\.\d% are left"):
        by_budget(candidates, model_cost(model), "macs", 0.01, 1)
    with pytest.raises(CompressionGateError, match="there is no layer that low rank makes cheaper"):
        by_budget(candidates, model_cost(model), "macs", 0.5, 512)


def test_answers_on_few_dimensions_survive_a_small_rank() -> None:
    rng = np.random.default_rng(0)
    layers = tf_keras().layers
    inputs = tf_keras().Input((5, 12), name="x")
    hidden = layers.Dense(16, "relu", name="dense")(inputs)
    model = tf_keras().Model(inputs, layers.Conv1D(14, 3, name="conv")(hidden))
    for layer in model.layers:
        layer.set_weights([rng.normal(size=w.shape) for w in layer.get_weights()])
    x = (rng.normal(size=(70, 5, 3)) @ rng.normal(size=(3, 12)) + 2).astype(np.float32)  # three dimensions of twelve
    chosen = model.get_layer("dense")
    responses = measure_responses(model, [chosen], {"x": x})
    assert int(np.sum(responses["dense"].strength > 1e-3)) == 3
    candidates = find_candidates(model, [chosen], "auto", responses)
    choices, _ = by_energy(candidates, 0.9999999, 1)
    assert [(c.scheme, c.rank) for c in choices] == [(MATRIX, 3)]
    assert same(model, factorize(model, choices, responses), x)
    by_kernel = factorize(model, choices, {})
    assert not same(model, by_kernel, x, 0.05)


def test_answers_of_a_convolution_at_full_rank_are_the_same() -> None:
    layer = tf_keras().layers.Conv2D(6, 3, 2, padding="same", activation="relu", name="conv")
    model = random_model(layer, (9, 8, 5), 3)
    x = np.random.default_rng(1).normal(size=(40, 9, 8, 5)).astype(np.float32)
    responses = measure_responses(model, [layer], {"x": x})
    (candidate,) = find_candidates(model, [layer], "auto", responses)
    (option,) = candidate.options
    errors = []
    for rank in (6, 5, 3, 1):
        choice = Choice("conv", option.scheme, rank, 6, 1.0, candidate.before, option.cost(rank))
        made = factorize(model, [choice], responses)
        errors.append(float(np.mean((made(x).numpy() - model(x).numpy()) ** 2)))
    assert errors[0] < 1e-9
    assert errors == sorted(errors)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"energy": 1.0}, "energy is 1.0"),
        ({"budget": "bytes"}, "budget is 'bytes', expected 'macs' or 'parameters'"),
        ({"keep": 0.0}, "keep is 0.0"),
        ({"scheme": "tucker"}, "scheme is 'tucker'"),
        ({"scheme": "spatial", "samples": 100}, "samples is 100"),
        ({"round_to": 0}, "round_to is 0"),
        ({"first_last": "both"}, "first_last is 'both'"),
        ({"epochs": -1}, "epochs is -1"),
        ({"epochs": 1, "learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"distillation": Distillation()}, "distillation is .*, expected none without epochs"),
    ],
)
def test_settings_are_checked(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Factorize(**fields)


def test_data_is_needed_for_what_is_asked() -> None:
    asked = [Factorize(), Factorize(samples=10), Factorize(epochs=1), Factorize(samples=10, epochs=1)]
    assert [stage.needs for stage in asked] == ["nothing", "representative", "training", "training"]
    uses = [set(stage.uses) for stage in asked]
    assert uses == [set(), {"task"}, {"task", "budget"}, {"task", "budget"}]


def load(data: Path, name: str) -> Any:
    from edgecompile.bridge import flatten

    return flatten(tf_keras().models.load_model(data / "models" / "mlperf_tiny" / name, compile=False))


def test_the_anomaly_detector_keeps_its_reconstruction(data: Path) -> None:
    """Its kernels are close to full rank; what they answer on real sounds is not."""
    from edgecompile import catalog

    model = load(data, "ad/ad01.h5")
    task = catalog.get("fc_autoencoder").task(data)
    assert task.train is not None
    assert task.test is not None
    x = task.train.x[""][::30]
    layers, _ = factorizable(model, "factorize")
    assert len(layers) == 10
    responses = measure_responses(model, layers, {model.input_names[0]: x})
    total = model_cost(model)
    test = task.test.x[""][: 196 * 10]
    shares, errors = [], []
    for used in (responses, {}):
        choices, _ = by_budget(find_candidates(model, layers, "auto", used), total, "macs", 0.5, 1)
        made = factorize(model, choices, used)
        shares.append(model_cost(made).macs / total.macs)
        errors.append(float(np.mean((made(test).numpy() - test) ** 2)))
    before = float(np.mean((model(test).numpy() - test) ** 2))
    assert all(0.47 < share <= 0.5 for share in shares)
    assert errors[0] < 1.1 * before < errors[1]


def test_resnet8_is_factorised_as_planned(data: Path) -> None:
    model = load(data, "ic/pretrainedResnet.h5")
    layers, left = factorizable(model, KEEP)
    assert len(layers) == 8
    assert sorted(left.values()) == ["first layer", "last layer"]
    total = model_cost(model)
    candidates = find_candidates(model, layers, "auto", {})
    choices, _ = by_energy(candidates, 0.8, 1)
    assert {c.scheme for c in choices} == {SPATIAL, CHANNEL}
    assert all(c.energy >= 0.8 for c in choices)
    cost = model_cost(factorize(model, choices, {}))
    assert cost.macs < 0.65 * total.macs
    taken = {c.name: c.after.macs for c in choices}
    for scheme in (SPATIAL, CHANNEL):  # what auto takes is the cheaper of the two, layer by layer
        alone, _ = by_energy(find_candidates(model, layers, scheme, {}), 0.8, 1)
        assert all(taken[c.name] <= c.after.macs for c in alone)


def test_the_recipe_builds_a_smaller_model_that_is_as_good(tmp_path: Path) -> None:
    done = run_cli("build", "digits", "--recipe", "low-rank", "--out", "out", cwd=tmp_path)
    assert done.code == 0, done.err
    history = json.loads((tmp_path / "out" / "manifest.json").read_text())["history"]
    (record,) = [r for r in history if r["stage"] == "factorize"]
    metrics = record["metrics"]
    saved = sum(row["macs_before"] - row["macs"] for row in metrics["factorized"].values())
    assert metrics["macs"] == metrics["macs_before"] - saved < 0.8 * metrics["macs_before"]
    assert metrics["parameters"] < metrics["parameters_before"]
    assert all(0 < row["rank"] < row["full_rank"] for row in metrics["factorized"].values())
    assert metrics["weights_changed"] > 0
    assert "depthwise (DepthwiseConv2D)" in record["notes"][0]


def test_a_budget_out_of_reach_fails_the_build(tmp_path: Path) -> None:
    steps = '[[steps]]\nstage = "factorize"\nbudget = "parameters"\nkeep = 0.05\n[[steps]]\nstage = "convert"\n'
    (tmp_path / "tiny.toml").write_text(f'summary = "x"\n{steps}')
    done = run_cli("build", "digits", "--recipe", "tiny.toml", "--out", "out", cwd=tmp_path)
    assert done.code == CompressionGateError.exit_code, done.err
    assert "5.0% of the model's parameters can't be reached by factorisation" in done.err
    assert not (tmp_path / "out").exists()
