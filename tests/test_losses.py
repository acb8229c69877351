"""The loss that training follows is Keras's own: for what a model was compiled with, and for weights of classes and
outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecompile.artifact import TensorInfo
from edgecompile.errors import DataError
from edgecompile.loaders.base import LoadOptions
from edgecompile.losses import loss_weights
from edgecompile.stages.base import Context
from edgecompile.task import CLASSIFICATION, MIXED, MULTI_LABEL, REGRESSION, KerasLoss, Split, Task
from edgecompile.training import Schedule, Trainer

N = 24
X = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
NUMBERS = np.arange(N) % 3
TAGS = (X[:, :3] > 0.3).astype(np.uint8)
AGES = np.rint(X[:, 0] * 10 + 40).astype(np.int64)
PAIR = (X[:, 1] > 0).astype(np.int64)


def heads(**outputs: tuple[int, str]) -> Any:
    import tf_keras

    x = tf_keras.Input((4,))
    made = [
        tf_keras.layers.Dense(n, activation, name=name, kernel_initializer=tf_keras.initializers.GlorotUniform(seed=1))(
            x
        )
        for name, (n, activation) in outputs.items()
    ]
    return tf_keras.Model(x, made)


def first_loss(model: Any, task: Task, work: Path) -> float:
    """Of the first epoch: one batch of all samples, so that of the weights as they are."""
    ctx = Context(work, work, task, "float", LoadOptions(), 0, None, None, lambda _: None)
    outputs = tuple(TensorInfo(t.name.split("/")[0], tuple(d or -1 for d in t.shape), "float32") for t in model.outputs)
    trainer = Trainer(model, (TensorInfo("x", (-1, 4), "float32"),), outputs, task, Schedule(1, 1e-9, N), ctx)
    return float(trainer.run().losses[0])


def of(kind: str, y: dict[str, Any], **more: Any) -> Task:
    split = Split({"": X}, y)
    return Task("t", kind, split, split, None, "t", validation=split, **more)


# the only output, its labels and what they are, the loss as the task has it, and as Keras is told
COMPILED: dict[str, tuple[tuple[int, str], Any, str, KerasLoss, Any]] = {
    "mae": ((1, "linear"), AGES, REGRESSION, KerasLoss("MeanAbsoluteError"), "mae"),
    "huber": ((1, "linear"), AGES, REGRESSION, KerasLoss("Huber", (("delta", 3.0),)), ("Huber", {"delta": 3.0})),
    "sparse": (
        (3, "linear"), NUMBERS, CLASSIFICATION, KerasLoss("SparseCategoricalCrossentropy", (("from_logits", True),)),
        ("SparseCategoricalCrossentropy", {"from_logits": True}),
    ),
    "smoothed": (
        (3, "softmax"), NUMBERS, CLASSIFICATION, KerasLoss("CategoricalCrossentropy", (("label_smoothing", 0.2),)),
        ("CategoricalCrossentropy", {"label_smoothing": 0.2}),
    ),
    "squares of one-hot rows": ((3, "softmax"), NUMBERS, CLASSIFICATION, KerasLoss("MeanSquaredError"), "mse"),
    "several labels": ((3, "sigmoid"), TAGS, MULTI_LABEL, KerasLoss("BinaryCrossentropy"), "binary_crossentropy"),
    "two classes": ((1, "sigmoid"), PAIR, CLASSIFICATION, KerasLoss("BinaryCrossentropy"), "binary_crossentropy"),
}  # fmt: skip


@pytest.mark.parametrize("case", COMPILED)
def test_a_compiled_loss_is_kerass_own(tmp_path: Path, case: str) -> None:
    import tf_keras

    head, y, kind, loss, told = COMPILED[case]
    model = heads(out=head)
    reference = getattr(tf_keras.losses, told[0])(**told[1]) if isinstance(told, tuple) else told
    model.compile("sgd", reference)
    rows = np.eye(3)[y] if kind == CLASSIFICATION and head[0] == 3 and case != "sparse" else y
    expected = model.evaluate(X, rows, batch_size=N, verbose=0)
    assert first_loss(model, of(kind, {"out": y}, losses={"out": loss}), tmp_path) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", [CLASSIFICATION, "two classes"])
def test_classes_weigh_as_in_keras(tmp_path: Path, kind: str) -> None:
    y, head, loss, weights = {
        CLASSIFICATION: (NUMBERS, (3, "softmax"), "sparse_categorical_crossentropy", [0.5, 1.0, 4.0]),
        "two classes": (PAIR, (1, "sigmoid"), "binary_crossentropy", [1.0, 5.0]),
    }[kind]
    model = heads(out=head)
    task = of(CLASSIFICATION, {"": y}, class_weights={"": np.array(weights, np.float32)})
    found = first_loss(model, task, tmp_path)
    model.compile("sgd", loss)
    expected = model.test_on_batch(X, y, sample_weight=np.array(weights)[y])
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("losses", [{}, {"out": KerasLoss("BinaryCrossentropy")}], ids=["fitted", "compiled"])
def test_each_of_several_labels_has_a_weight(tmp_path: Path, losses: dict[str, KerasLoss]) -> None:
    model = heads(out=(3, "sigmoid"))
    scores = model.predict_on_batch(X)
    each = -np.where(TAGS > 0, np.log(scores), np.log(1 - scores))
    weights = np.array([1, 0, 3], np.float32)
    task = of(MULTI_LABEL, {"": TAGS}, class_weights={"": weights}, losses=losses)
    assert first_loss(model, task, tmp_path) == pytest.approx(float((each * weights).mean()), rel=1e-4)


def test_weights_of_several_labels_take_their_own_loss(tmp_path: Path) -> None:
    weights, losses = {"": np.ones(3, np.float32)}, {"out": KerasLoss("BinaryFocalCrossentropy")}
    with pytest.raises(DataError, match="the loss of output 'out' is BinaryFocalCrossentropy"):
        first_loss(
            heads(out=(3, "sigmoid")), of(MULTI_LABEL, {"": TAGS}, class_weights=weights, losses=losses), tmp_path
        )


def test_sure_scores_have_a_loss_in_bfloat16(tmp_path: Path) -> None:
    """What a sigmoid gives for 60 is 1 in any precision, and its complement's logarithm none."""
    model = heads(out=(3, "sigmoid"))
    model.set_weights([60 * np.sign(w) for w in model.get_weights()])
    task = of(MULTI_LABEL, {"": TAGS}, class_weights={"": np.array([1, 2, 3], np.float32)})
    ctx = Context(tmp_path, tmp_path, task, "float", LoadOptions(), 0, None, None, lambda _: None)
    specs = (TensorInfo("x", (-1, 4), "float32"),), (TensorInfo("out", (-1, 3), "float32"),)
    assert np.isfinite(Trainer(model, *specs, task, Schedule(2, 1e-3, N, precision="bfloat16"), ctx).run().losses).all()


def test_outputs_of_several_kinds_have_a_loss_and_a_weight_each(tmp_path: Path) -> None:
    model = heads(age=(1, "linear"), kind=(3, "softmax"), tags=(3, "sigmoid"))
    kinds = {"age": REGRESSION, "kind": CLASSIFICATION, "tags": MULTI_LABEL}
    y = {"age": AGES, "kind": NUMBERS, "tags": TAGS}
    found = first_loss(model, of(MIXED, y, kinds=kinds, loss_weights={"age": 0.5, "tags": 3.0}), tmp_path)
    model.compile("sgd", ["mse", "sparse_categorical_crossentropy", "binary_crossentropy"], loss_weights=[0.5, 1, 3])
    whole = model.evaluate(X, list(y.values()), batch_size=N, verbose=0)[0]
    assert found == pytest.approx(whole / 4.5, rel=1e-5)  # a mean, which distillation's terms are beside


def test_weights_of_outputs_that_are_all_0_are_refused() -> None:
    with pytest.raises(DataError, match="loss weights of all outputs are 0"):
        loss_weights(of(MIXED, {}, loss_weights={"a": 0.0, "b": 0.0}), ["a", "b"])


def test_a_compiled_loss_that_cannot_take_the_labels_is_named(tmp_path: Path) -> None:
    task = of(MULTI_LABEL, {"": TAGS}, losses={"out": KerasLoss("SparseCategoricalCrossentropy")})
    with pytest.raises(DataError, match="the model's loss SparseCategoricalCrossentropy on output 'out' failed"):
        first_loss(heads(out=(3, "sigmoid")), task, tmp_path)


def test_a_compiled_loss_with_arguments_of_another_is_named(tmp_path: Path) -> None:
    task = of(REGRESSION, {"": AGES}, losses={"out": KerasLoss("MeanSquaredError", (("delta", 1.0),))})
    with pytest.raises(DataError, match="the model's loss MeanSquaredError failed: TypeError"):
        first_loss(heads(out=(1, "linear")), task, tmp_path)
