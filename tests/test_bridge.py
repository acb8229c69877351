"""The bridge from Keras 3 to tf-keras: equal outputs, names kept, and a clear error where it can't."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.src.applications.convnext import LayerScale

from edgecompile import bridge, keras3_layer, loaders
from edgecompile.bridge import translate
from edgecompile.errors import BridgeError, DataError, ModelError, NonFiniteError, UnsupportedLayerError
from edgecompile.loaders import LoadOptions
from edgecompile.loaders.base import save_keras

L = keras.layers
IMAGE, SEQUENCE, VECTOR = (8, 8, 6), (7, 6), (5,)


def randomize(model: Any, seed: int = 0) -> Any:
    """Random weights everywhere, also where they begin at 0 or 1, so that a swapped weight shows."""
    rng = np.random.default_rng(seed)
    for w in model.weights:
        w.assign(rng.uniform(0.2, 1.0, w.shape) if "variance" in w.name else rng.normal(0, 0.4, w.shape))
    return model


def sample(model: Any, n: int = 4, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    out = {}
    for tensor in model.inputs:
        shape = (n, *(4 if d is None else d for d in tensor.shape[1:]))
        integer = tensor.dtype.startswith("int")
        out[tensor.name] = rng.integers(0, 5, shape).astype(tensor.dtype) if integer else rng.normal(size=shape)
    return {name: a if a.dtype.kind == "i" else a.astype(np.float32) for name, a in out.items()}


def inputs_of(shape: tuple[int, ...], name: str = "x", dtype: str = "float32") -> Any:
    return keras.Input(shape, name=name, dtype=dtype)


LAYERS: dict[str, tuple[tuple[int, ...], list[Callable[[], Any]]]] = {
    "image": (
        IMAGE,
        [
            lambda: L.Conv2D(4, 3, strides=2, padding="same", activation="relu", kernel_regularizer="l2"),
            lambda: L.Conv2D(4, 3, groups=2, dilation_rate=2, use_bias=False, kernel_constraint="max_norm"),
            lambda: L.Conv2D(4, 1, activation="hard_silu"),
            lambda: L.Conv2D(4, 1, activation="silu"),
            lambda: L.Conv2D(4, 1, activation="relu6"),
            lambda: L.Conv2D(4, 1, activation="leaky_relu"),
            lambda: L.Activation("hard_sigmoid"),
            lambda: L.DepthwiseConv2D(3, depth_multiplier=2),
            lambda: L.SeparableConv2D(5, 3, depth_multiplier=2, padding="same"),
            lambda: L.Conv2DTranspose(3, 3, strides=2, padding="same"),
            lambda: L.BatchNormalization(epsilon=0.01),
            lambda: L.BatchNormalization(scale=False, trainable=False),
            lambda: L.LayerNormalization(),
            lambda: L.GroupNormalization(groups=3),
            lambda: L.UnitNormalization(),
            lambda: L.Normalization(mean=[0.1] * 6, variance=[2.0] * 6),
            lambda: L.PReLU(shared_axes=[1, 2]),
            lambda: L.LeakyReLU(negative_slope=0.15),
            lambda: L.ReLU(max_value=2.0, negative_slope=0.1, threshold=0.2),
            lambda: L.ELU(0.7),
            lambda: L.Softmax(axis=-1),
            lambda: L.MaxPooling2D(2),
            lambda: L.AveragePooling2D(3, strides=1, padding="same"),
            lambda: L.GlobalAveragePooling2D(keepdims=True),
            lambda: L.GlobalMaxPooling2D(),
            lambda: L.ZeroPadding2D(((1, 0), (2, 1))),
            lambda: L.Cropping2D(1),
            lambda: L.UpSampling2D(2, interpolation="bilinear"),
            lambda: L.Resizing(5, 5),
            lambda: L.Rescaling(0.5, offset=-1.0),
            lambda: L.Flatten(),
            lambda: L.Permute((3, 1, 2)),
            lambda: L.Reshape((16, -1)),
            lambda: L.Dropout(0.3, seed=3),
            lambda: L.SpatialDropout2D(0.3),
            lambda: L.GaussianNoise(0.3),
            lambda: L.GaussianDropout(0.3),
            lambda: L.RandomFlip("horizontal"),
            lambda: L.EinsumDense("abcd,de->abce", output_shape=(None, None, 3), bias_axes="e"),
            lambda: L.TimeDistributed(L.Conv1D(3, 2)),
            lambda: L.ConvLSTM1D(3, 3),
            lambda: L.Identity(),
        ],
    ),
    "sequence": (
        SEQUENCE,
        [
            lambda: L.Conv1D(4, 3, padding="causal", activation="tanh"),
            lambda: L.DepthwiseConv1D(3),
            lambda: L.SeparableConv1D(4, 3),
            lambda: L.Conv1DTranspose(4, 3),
            lambda: L.MaxPooling1D(2),
            lambda: L.AveragePooling1D(2),
            lambda: L.GlobalAveragePooling1D(),
            lambda: L.ZeroPadding1D(1),
            lambda: L.Cropping1D((1, 2)),
            lambda: L.UpSampling1D(2),
            lambda: L.SpatialDropout1D(0.2),
            lambda: L.LSTM(4, return_sequences=True),
            lambda: L.LSTM(4, dropout=0.2, recurrent_dropout=0.1, go_backwards=True, unroll=True),
            lambda: L.GRU(4),
            lambda: L.GRU(4, reset_after=False, use_bias=False),
            lambda: L.SimpleRNN(4),
            lambda: L.RNN(L.StackedRNNCells([L.LSTMCell(3), L.GRUCell(4)])),
            lambda: L.Bidirectional(L.LSTM(3, return_sequences=True)),
            lambda: L.Bidirectional(L.GRU(3), backward_layer=L.GRU(2, go_backwards=True), merge_mode="concat"),
            lambda: L.TimeDistributed(L.Dense(3, activation="gelu")),
            lambda: L.Masking(0.0),
        ],
    ),
    "vector": (
        VECTOR,
        [
            lambda: L.Dense(4, activation="softmax", bias_regularizer=keras.regularizers.L1L2(0.1, 0.2)),
            lambda: L.Dense(4, activation="mish", activity_regularizer="l1"),
            lambda: L.RepeatVector(3),
            lambda: L.ActivityRegularization(0.1),
            lambda: L.AlphaDropout(0.2),
        ],
    ),
}


@pytest.mark.parametrize("group", LAYERS)
def test_each_layer_computes_the_same(group: str) -> None:
    shape, makers = LAYERS[group]
    x = inputs_of(shape)
    model = randomize(keras.Model(x, [make()(x) for make in makers], name=group))
    result = bridge.to_tf_keras(model, sample(model))
    assert result.max_diff <= 1e-5
    assert result.model.output_names == [layer.name for layer in model.layers[1:]]
    kinds = {layer.name: type(layer).__name__ for layer in model.layers}
    made = {layer.name: type(layer).__name__ for layer in result.model.layers}
    composed = {name for name in kinds if made[name] != kinds[name]}
    # Activations that tf-keras lacks are composed of layers; the last of them bears the name.
    assert sorted(made[name] for name in composed) == (["Multiply", "ReLU", "Rescaling"] if group == "image" else [])


def test_operations_become_layers() -> None:
    ops = keras.ops
    x, y = inputs_of(IMAGE), inputs_of(IMAGE, "y")
    outputs = [
        x + y, x - y, x * y, x + 2.0, 3.0 - x, x * 0.5, x / 4.0, -x, ops.maximum(x, y), ops.minimum(x, y),
        ops.maximum(x, 0.0), ops.relu(x), ops.relu6(x * 4), ops.leaky_relu(x, 0.3), ops.sigmoid(x), ops.tanh(x),
        ops.silu(x), ops.hard_silu(x), ops.hard_sigmoid(x), ops.elu(x), ops.exp(x), ops.softmax(x), ops.square(x),
        ops.gelu(x, approximate=False), ops.clip(x, 0.0, 1.5), ops.mean(x, axis=(1, 2)), ops.max(x, axis=[1, 2]),
        ops.mean(x, axis=(-3, -2), keepdims=True), ops.reshape(x, (-1, 64, 6)), ops.transpose(x, (0, 3, 1, 2)),
        ops.concatenate([x, y], axis=-1), ops.expand_dims(x, -1), x * np.arange(6, dtype="float32"),
    ]  # fmt: skip
    model = keras.Model([x, y], outputs)
    result = bridge.to_tf_keras(model, sample(model))
    assert result.max_diff <= 1e-5
    assert not [layer for layer in result.model.layers if "Lambda" in type(layer).__name__]
    assert result.model.input_names == ["x", "y"]


def test_attention_masks_and_embeddings() -> None:
    tokens = inputs_of((6,), "tokens", "int32")

    def embed(name: str) -> Any:
        # One for each user: Keras 3's MultiHeadAttention takes the mask off its inputs, for all who come after it.
        return L.Embedding(5, 8, mask_zero=True, name=name)(tokens)

    a, b, c = embed("a"), embed("b"), embed("c")
    plain = L.Embedding(5, 8, name="plain")(tokens)
    luong, additive = L.Attention(use_scale=True, name="luong")([b, b]), L.AdditiveAttention(name="additive")([b, b])
    attended = L.MultiHeadAttention(2, 4, name="mha")(a, a)
    scores = L.MultiHeadAttention(2, 4, name="scores")(plain, c, return_attention_scores=True, use_causal_mask=True)
    h = L.LayerNormalization(name="norm")(L.Add(name="sum")([b, luong]))
    sequence, *state = L.LSTM(4, return_sequences=True, return_state=True, name="encoder")(plain)
    decoded = L.LSTM(4, name="decoder")(sequence, initial_state=state)
    pooled = L.GlobalAveragePooling1D(name="pool")(h)
    model = randomize(keras.Model(tokens, [attended, additive, *scores, decoded, pooled, L.GRU(4, name="masked")(h)]))
    padded = np.array([[3, 1, 2, 4, 1, 2], [4, 2, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]], np.int32)
    result = bridge.to_tf_keras(model, {"tokens": padded})
    assert result.max_diff <= 1e-5
    assert not [layer for layer in result.model.layers if "Lambda" in type(layer).__name__]


def test_what_the_libraries_compute_differently_stays_keras_3s_own() -> None:
    # Keras 3 ignores the mask of a sequence that comes with an initial state, tf-keras doesn't.
    tokens = inputs_of((6,), "tokens", "int32")
    e = L.Embedding(5, 8, mask_zero=True, name="embed")(tokens)
    h = L.Add(name="sum")([e, L.Attention(name="luong")([e, e])])
    sequence, *state = L.LSTM(4, return_sequences=True, return_state=True, name="encoder")(h)
    model = randomize(keras.Model(tokens, L.LSTM(4, name="decoder")(sequence, initial_state=state)))
    result = bridge.to_tf_keras(model, {"tokens": np.array([[3, 1, 2, 0, 0, 0]], np.int32)})
    assert result.max_diff <= 1e-5
    assert result.kept["decoder"] == "LSTM"
    assert not {"embed", "sum", "luong", "encoder"} & set(result.kept)


def test_adapted_normalization_becomes_a_constant() -> None:
    norm = L.Normalization(name="norm")
    norm.adapt(np.random.default_rng(0).normal(3, 2, (50, 5)).astype(np.float32))
    x = inputs_of(VECTOR)
    model = keras.Model(x, norm(x))
    result = bridge.to_tf_keras(model, sample(model))
    assert result.max_diff <= 1e-5
    assert result.model.weights == []


def nested_model() -> Any:
    """Two inputs, a residual block, a nested model used twice, one nested in it, an output that is a nested model's."""
    a = keras.Input((4,), name="inner_in")
    deepest = keras.Sequential([keras.Input((4,)), L.Dense(4, name="fc"), L.BatchNormalization(name="bn")], name="core")
    block = keras.Model(a, L.ReLU(name="act")(L.Add(name="skip")([a, deepest(a)])), name="block")
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    fc = L.Dense(4, name="fc")
    x = block(fc(left))
    y = block(fc(right))
    head = keras.Sequential([keras.Input((8,)), L.Dense(3, activation="softmax", name="logits")], name="head")
    joined = L.Concatenate(name="join")([x, y])
    # Inputs are not in the order of their names, on purpose.
    return randomize(keras.Model([right, left], [head(joined), fc(x), joined], name="two_towers"))


def test_nested_and_shared_models_are_inlined() -> None:
    model = nested_model()
    result = bridge.to_tf_keras(model, sample(model))
    assert result.max_diff <= 1e-5
    made = result.model
    assert not [layer for layer in made.layers if isinstance(layer, tf_keras.Model)]
    assert made.input_names == ["right", "left"]
    assert made.output_names == ["head", "fc", "join"]
    assert {layer.name for layer in made.layers} == {
        "right", "left", "fc", "core_fc", "bn", "skip", "act", "join", "logits", "head"}  # fmt: skip
    assert sum(np.prod(w.shape) for w in made.weights) == sum(np.prod(w.shape) for w in model.weights)
    again = bridge.to_tf_keras(model, sample(model)).model
    assert again.to_json() == made.to_json()


def test_sequential_with_static_batch() -> None:
    model = keras.Sequential([keras.Input(batch_shape=(3, 4), name="in"), L.Dense(2, name="out")])
    result = bridge.to_tf_keras(model, sample(model, n=7))
    assert tuple(result.model.inputs[0].shape) == (3, 4)
    assert result.max_diff <= 1e-5


def test_trainable_and_regularizers_survive() -> None:
    x = inputs_of(VECTOR)
    h = L.Dense(3, name="frozen", trainable=False)(x)
    model = keras.Model(x, L.Dense(2, name="d", kernel_regularizer=keras.regularizers.L2(0.25))(h))
    made = bridge.to_tf_keras(model, sample(model)).model
    assert not made.get_layer("frozen").trainable
    assert [w.name for w in made.trainable_weights] == ["d/kernel:0", "d/bias:0"]
    kernel = made.get_layer("d").kernel.numpy()
    np.testing.assert_allclose(made.losses[0].numpy(), 0.25 * np.sum(kernel**2), rtol=1e-5)


@st.composite
def graphs(draw: st.DrawFn) -> Any:
    """A random small network: every step applies a layer (or a shared one again) to earlier tensors."""
    x = keras.Input((6, 6, 4), name="x")
    inner = keras.Input((6, 6, 4), name="y")
    nested = keras.Model(inner, L.Conv2D(4, 1, name="c0")(L.ReLU(name="r")(inner)), name="nested")
    shared = L.Conv2D(4, 3, padding="same", name="shared")
    tensors = [x]
    for i in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["conv", "depthwise", "bn", "add", "concat", "plus", "nested", "shared"]))
        a, b = draw(st.sampled_from(tensors)), draw(st.sampled_from(tensors))
        name = f"c{i}"
        made = {
            "conv": lambda a=a, name=name: L.Conv2D(4, 3, padding="same", activation="relu", name=name)(a),
            "depthwise": lambda a=a, name=name: L.DepthwiseConv2D(3, padding="same", name=name)(a),
            "bn": lambda a=a, name=name: L.BatchNormalization(name=name)(a),
            "add": lambda a=a, b=b, name=name: L.Add(name=name)([a, b]),
            "concat": lambda a=a, b=b, name=name: L.Conv2D(4, 1, name=name)(L.Concatenate(name=f"j{name}")([a, b])),
            "plus": lambda a=a: a * 0.5 + a,
            "nested": lambda a=a: nested(a),
            "shared": lambda a=a: shared(a),
        }[kind]()
        tensors.append(made)
    out = L.Dense(3, name="out")(L.GlobalAveragePooling2D(name="pool")(tensors[-1]))
    return randomize(keras.Model(x, [out, tensors[-1]] if draw(st.booleans()) else out), draw(st.integers(0, 99)))


@settings(max_examples=8, deadline=None, derandomize=True)
@given(graphs())
def test_random_graphs_compute_the_same(model: Any) -> None:
    result = bridge.to_tf_keras(model, sample(model))
    assert result.max_diff <= 1e-5
    names = [layer.name for layer in result.model.layers]
    assert len(names) == len(set(names))
    assert bridge.flatten(result.model) is result.model


def test_a_broken_translation_is_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = inputs_of(VECTOR)
    h = L.Dense(4, name="first")(x)
    h = L.BatchNormalization(name="wrong", epsilon=0.1)(h)
    model = randomize(keras.Model(x, L.Dense(2, name="last")(h)))
    true = translate.copy_weights

    def scaled(op: Any, made: Any) -> None:
        true(op, made)
        if op.name == "wrong":
            made.gamma.assign(made.gamma * 1.01)

    monkeypatch.setattr(translate, "copy_weights", scaled)
    result = bridge.to_tf_keras(model, sample(model))
    assert dict(result.kept) == {"wrong": "BatchNormalization"}
    right = keras3_layer.wrap

    def shifted(op: Any, call: str, name: str) -> Any:
        made = right(op, call, name)
        made.set_weights([w * 1.01 for w in made.get_weights()])
        return made

    monkeypatch.setattr(keras3_layer, "wrap", shifted)
    with pytest.raises(BridgeError, match=r"first layer that differs is 'wrong' \(BatchNormalization\)"):
        bridge.to_tf_keras(model, sample(model))


class Own(L.Layer):
    def build(self, shape: Any) -> None:
        self.gain = self.add_weight(shape=(shape[-1],), initializer="ones", regularizer="l2", name="gain")

    def call(self, x: Any) -> Any:
        return x * self.gain


def kept() -> dict[str, tuple[Any, list[str]]]:
    """Models with what tf-keras has no equal of, and what of them stays Keras 3's own."""
    ops = keras.ops
    v, s, i = inputs_of(VECTOR), inputs_of(SEQUENCE), inputs_of(IMAGE)
    tokens = inputs_of((6,), "tokens", "int32")
    inner = keras.Sequential([keras.Input((6,)), L.Dense(2)], name="whole")
    padded = L.Embedding(5, 8, mask_zero=True, name="e")(tokens)
    parts = ops.split(i, 2, axis=-1)
    unit = i / (ops.sqrt(ops.sum(ops.square(i), axis=-1, keepdims=True)) + 1e-3)
    where = ops.where(i > 0, i, 0.1 * i) * ops.cast(ops.not_equal(i, 0.0), "float32")
    sliced = ops.concatenate([parts[1], i[:, :, :, 1:2], i[..., -1:]], axis=-1)
    table = ops.matmul(i, np.arange(24, dtype="float32").reshape(6, 4)) - ops.max(i, axis=-1, keepdims=True)
    return {
        "operation": (keras.Model(v, ops.power(v, 3.0)), ["Power"]),
        "einsum": (keras.Model(i, ops.einsum("bhwc,bhwd->bhcd", i, i)), ["Einsum"]),
        "norm": (keras.Model(i, unit), ["Sqrt", "Sum", "TrueDivide"]),
        "where": (keras.Model(i, where), ["Cast", "Greater", "NotEqual", "Where"]),
        "slices": (keras.Model(i, sliced), ["GetItem", "GetItem", "Split"]),
        "constant": (keras.Model(i, table), ["Matmul", "Max"]),
        "resize": (keras.Model(i, ops.image.resize(i, (5, 7))), ["Resize"]),
        "activation": (keras.Model(v, L.Dense(2, activation="squareplus", name="d")(v)), ["Activation"]),
        "activation in a cell": (keras.Model(s, L.LSTM(2, recurrent_activation="hard_sigmoid", name="l")(s)), ["LSTM"]),
        "setting": (keras.Model(v, L.LayerNormalization(rms_scaling=True, name="n")(v)), ["LayerNormalization"]),
        "model in a wrapper": (keras.Model(s, L.TimeDistributed(inner, name="td")(s)), ["TimeDistributed"]),
        "mask": (keras.Model(tokens, L.LSTM(3, recurrent_activation="hard_sigmoid", name="l")(padded)),
                 ["LSTM", "NotEqual"]),
        "layer of an application": (keras.Model(v, LayerScale(0.3, 5)(v)), ["LayerScale"]),
        "custom layer": (keras.Model(v, L.Dense(2, name="d")(Own(name="mine")(v))), ["Own"]),
    }  # fmt: skip


@pytest.mark.parametrize("case", list(kept()))
def test_what_tf_keras_lacks_stays_keras_3s_own(case: str, tmp_path: Path) -> None:
    model, expected = kept()[case]
    randomize(model)
    x = sample(model, n=6)
    result = bridge.to_tf_keras(model, x)
    assert result.max_diff <= 1e-5
    names = {layer.name for layer in result.model.layers}
    assert sorted(kind for name, kind in result.kept.items() if name in names) == expected
    assert len(result.model.trainable_weights) == len(model.trainable_weights)
    # It survives what training stages do: saving, loading, cloning.
    path = save_keras(result.model, tmp_path / "m.keras")
    custom = (f"{__name__}:Own",) if case == "custom layer" else ()
    again = loaders.load(path, LoadOptions(custom=custom)).model
    twin = tf_keras.models.clone_model(again)
    twin.set_weights(again.get_weights())
    arrays = [x[tensor.name] for tensor in model.inputs]
    np.testing.assert_allclose(np.asarray(twin(arrays)), np.asarray(model(arrays)), atol=1e-5, rtol=1e-5)


def test_a_kept_layer_is_trained() -> None:
    """Its weights get gradients, its moving statistics move, and its losses count."""
    x = inputs_of(VECTOR)
    h = L.BatchNormalization(name="bn")(L.RMSNormalization(name="rms")(x))
    h = L.Dense(3, activation="squareplus", name="d")(h)
    gated = Own(name="own")(h)
    model = randomize(keras.Model(x, gated))
    made = bridge.to_tf_keras(model, sample(model)).model
    before = [w.numpy() for w in made.trainable_weights]
    assert len(before) == len(model.trainable_weights)
    assert made.losses
    made.compile("sgd", "mse")
    made.fit(sample(model, n=32)["x"], np.ones((32, 3)), verbose=0)
    assert all(np.any(b != a.numpy()) for b, a in zip(before, made.trainable_weights, strict=True))


def test_what_cannot_be_kept_is_named() -> None:
    x = inputs_of(VECTOR)
    code = keras.Model(x, L.Lambda(lambda t: t * 2, name="sly")(x))
    with pytest.raises(UnsupportedLayerError, match=r"'sly' \(Lambda\) carries code") as caught:
        bridge.to_tf_keras(code, sample(code))
    assert "--custom" in (caught.value.hint or "")
    own = Own(name="own")
    y = inputs_of(VECTOR, "y")
    twice = keras.Model([x, y], [own(x), own(y)])
    assert bridge.to_tf_keras(twice, sample(twice)).kept == {"own": "Own"}
    late = L.LSTM(6, recurrent_activation="hard_sigmoid", return_sequences=True, return_state=True, name="late")
    sequence, *state = late(inputs_of(SEQUENCE, "z"))
    other = keras.Model(sequence._keras_history.operation.input, late(sequence, initial_state=state)[0])
    with pytest.raises(UnsupportedLayerError, match="'late'"):
        bridge.to_tf_keras(other, sample(other))


def test_bad_samples_and_models() -> None:
    x = inputs_of(VECTOR)
    model = keras.Model(x, L.Dense(2)(x))
    with pytest.raises(DataError, match="'z'"):
        bridge.to_tf_keras(model, {"z": np.zeros((1, 5), np.float32)})
    with pytest.raises(NonFiniteError):
        bridge.to_tf_keras(model, {"x": np.full((1, 5), np.nan, np.float32)})

    class Subclassed(keras.Model):
        def call(self, x: Any) -> Any:
            return x

    with pytest.raises(ModelError, match="neither functional nor Sequential"):
        bridge.to_tf_keras(Subclassed(), {"x": np.zeros((1, 5), np.float32)})


def test_flatten_inlines_tf_keras_models() -> None:
    k = tf_keras.layers
    inner_in = tf_keras.Input((4,), name="i")
    core = tf_keras.Sequential([k.Dense(4, input_shape=(4,), name="fc"), k.BatchNormalization(name="bn")], name="core")
    block = tf_keras.Model(inner_in, k.Add(name="skip")([inner_in, core(inner_in)]), name="block")
    left, right = tf_keras.Input((4,), name="left"), tf_keras.Input((4,), name="right")
    fc = k.Dense(4, name="fc")
    joined = k.Concatenate(name="join")([block(fc(left)), tf.nn.relu(block(right))])
    model = tf_keras.Model([right, left], [block(left), joined])
    made = bridge.flatten(model)
    assert not [layer for layer in made.layers if isinstance(layer, tf_keras.Model)]
    assert made.input_names == ["right", "left"]
    assert made.output_names == model.output_names == ["block", "join"]
    assert "core_fc" in [layer.name for layer in made.layers]
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(3, 4)).astype(np.float32) for _ in range(2)]
    for a, b in zip(model(x), made(x), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert bridge.flatten(made) is made


def test_flatten_makes_sequential_functional() -> None:
    model = tf_keras.Sequential([tf_keras.layers.Dense(2, input_shape=(3,), name="d")], name="s")
    made = bridge.flatten(model)
    assert not isinstance(made, tf_keras.Sequential)
    assert (made.name, made.input_names, made.output_names) == ("s", ["d_input"], ["d"])
    x = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(model(x).numpy(), made(x).numpy())
    with pytest.raises(ModelError):
        bridge.flatten(tf_keras.Sequential([tf_keras.layers.Dense(2)]))
