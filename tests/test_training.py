"""Training: the loss it follows, the data it refuses, and that a kill leaves no trace in the weights."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import run_cli

from edgecompile.artifact import TensorInfo
from edgecompile.errors import DataError
from edgecompile.loaders.base import LoadOptions
from edgecompile.metrics import accuracy, mse
from edgecompile.stages.base import Context, Progress
from edgecompile.task import AUTOENCODER, CLASSIFICATION, REGRESSION, UNLABELED, Split, Task
from edgecompile.training import Result, Schedule, Trainer, replay
from edgecompile.training.batches import Batches

X = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
TARGET = (X @ np.array([1, -2, 0.5, 3], np.float32)).astype(np.float32)


def task(y: np.ndarray | None = TARGET, kind: str = REGRESSION, **more: Any) -> Task:
    split = Split({"": more.pop("x", X)}, None if y is None else {"": y})
    return Task("t", kind, split, split, mse if kind == REGRESSION else None, fingerprint="t", **more)


def dense(units: int = 1, activation: str | None = None) -> Any:
    import tf_keras

    layer = tf_keras.layers.Dense(units, activation, kernel_initializer=tf_keras.initializers.GlorotUniform(seed=1))
    return tf_keras.Sequential([tf_keras.layers.Input((4,)), layer])


def train(
    model: Any,
    of: Task,
    work: Path,
    epochs: int = 1,
    report: Callable[[Progress], None] = lambda _: None,
    tensorboard: Path | None = None,
    **schedule: Any,
) -> Result:
    work.mkdir(exist_ok=True)
    ctx = Context(work, work, of, "float", LoadOptions(), 0, None, tensorboard, report)
    inputs = (TensorInfo("in", tuple(d or -1 for d in model.input_shape), "float32"),)
    outputs = (TensorInfo("out", tuple(d or -1 for d in model.output_shape), "float32"),)
    return Trainer(model, inputs, outputs, of, Schedule(epochs, 1e-2, 64, **schedule), ctx).run()


@pytest.mark.parametrize(
    "loss", [None, "mean_squared_error", lambda y, p: (y - p) ** 2], ids=["default", "name", "own"]
)
@pytest.mark.parametrize("column", [False, True])
def test_the_loss_of_a_regression_is_its_error(tmp_path: Path, loss: Any, column: bool) -> None:
    model = dense()
    of = task(TARGET[:, None] if column else TARGET, loss=loss)
    fit, _ = of.split(0)
    error = np.mean((model.predict_on_batch(fit.x[""])[:, 0] - fit.y[""].reshape(-1)) ** 2)  # type: ignore[index]
    # one batch holds all samples, so the first epoch's loss is that of the untrained weights
    assert train(model, of, tmp_path).losses[0] == pytest.approx(error, rel=1e-5)


RECIPE = """summary = "a few epochs"
[[steps]]
stage = "prune"
sparsity = 0.3
epochs = 20
batch_size = 16
[[steps]]
stage = "qat"
epochs = 10
batch_size = 16
[[steps]]
stage = "convert"
"""


def test_a_pruned_and_quantization_aware_regression_keeps_its_error(tmp_path: Path) -> None:
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, (600, 4)).astype(np.float32)
    y = (2 * x[:, 0] - x[:, 1] * x[:, 2]).astype(np.float32)  # [n], against an output of [n, 1]
    model = tf_keras.Sequential(
        [tf_keras.layers.Input((4,)), tf_keras.layers.Dense(32, "relu"), tf_keras.layers.Dense(1)]
    )
    model.compile(tf_keras.optimizers.Adam(1e-2), "mse")
    model.fit(x[:500], y[:500, None], 32, 40, verbose=0)
    model.save(tmp_path / "m.keras")
    np.savez(tmp_path / "d.npz", x_train=x[:500], y_train=y[:500], x_test=x[500:], y_test=y[500:])
    (tmp_path / "quick.toml").write_text(RECIPE)
    options = ("--data", "d.npz", "--recipe", "quick.toml", "--max-drop", "off", "--out", "out")
    done = run_cli("build", "m.keras", *options, cwd=tmp_path)
    assert done.code == 0, done.err
    history = json.loads((tmp_path / "out" / "manifest.json").read_text())["history"]
    tested = next(record["metrics"] for record in history if record["stage"] == "test")
    # Training towards the mean of all targets, which is what broadcasting comes to, ends at their variance.
    assert tested["value"] < float(np.var(y)) / 10


@pytest.mark.parametrize("loss", ["sparse_categorical_crossentropy", None])
def test_class_numbers_reach_a_sparse_loss_as_they_are(tmp_path: Path, loss: str | None) -> None:
    model = dense(3, "softmax")
    of = task(np.arange(20) % 3, CLASSIFICATION, loss=loss)
    fit, _ = of.split(0)
    given = model.predict_on_batch(fit.x[""])[np.arange(18), fit.y[""]]  # type: ignore[index]
    assert train(model, of, tmp_path).losses[0] == pytest.approx(-np.log(given).mean(), rel=1e-4)


def test_a_picture_may_be_given_back_flat(tmp_path: Path) -> None:
    import tf_keras

    model = tf_keras.Sequential([tf_keras.layers.Input((2, 2)), tf_keras.layers.Flatten(), tf_keras.layers.Dense(4)])
    of = task(np.arange(10), AUTOENCODER, x=X.reshape(20, 2, 2))
    fit, _ = of.split(0)
    error = np.mean((model.predict_on_batch(fit.x[""]) - fit.x[""].reshape(-1, 4)) ** 2)
    assert train(model, of, tmp_path).losses[0] == pytest.approx(error, rel=1e-5)


def broken(*_: Any) -> Any:
    raise KeyError("no such thing")


@pytest.mark.parametrize(
    ("of", "units", "message"),
    [
        (task(loss="mean_sqared_error"), 1, "loss 'mean_sqared_error' is none that tf-keras knows"),
        (task(loss=broken), 1, "loss broken on output 'out' failed: .*no such thing"),
        (task(np.stack([TARGET] * 3, 1)), 2, r"labels of shape \[3\] a sample don't fit output 'out' of shape \[2\]"),
        (task(np.arange(20) % 3, CLASSIFICATION, loss="categorical_crossentropy"), 3, r"take a sparse loss"),
        (task(None), 1, "training needs labels"),
        (task(None, UNLABELED), 1, "training needs labels"),
        (task(TARGET[:1], x=X[:1]), 1, "has 1 training sample, too few"),
        (task(augment=broken), 1, "the task's augment failed: .*no such thing"),
        (task(augment=lambda x, _: x[""]), 1, r"the task's augment gave \w*Tensor, expected a dict"),
        (
            task(augment=lambda x, _: {"": x[""][:, :2]}),
            1,
            r"changed the shape of input '' from \[18, 4\] to \[18, 2\]",
        ),
    ],
)
def test_what_cannot_be_trained_is_an_error_of_the_data(tmp_path: Path, of: Task, units: int, message: str) -> None:
    with pytest.raises(DataError) as caught:
        train(dense(units), of, tmp_path)
    assert re.search(message, caught.value.format_message())


def recurrent(seed: int | None) -> Any:
    import tf_keras

    tf_keras.utils.set_random_seed(3)
    layer = tf_keras.layers.LSTM(8, dropout=0.3, recurrent_dropout=0.3, seed=seed)
    return tf_keras.Sequential([tf_keras.layers.Input((None, 2)), layer, tf_keras.layers.Dense(1)])


def dropout(seed: int | None) -> Any:
    import tf_keras

    tf_keras.utils.set_random_seed(3)
    drop = tf_keras.layers.Dropout(0.5, seed=seed)
    return tf_keras.Sequential(
        [tf_keras.layers.Input((2, 2)), tf_keras.layers.Flatten(), drop, tf_keras.layers.Dense(1)]
    )


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("build", [recurrent, dropout])
def test_a_killed_training_ends_in_the_same_weights(
    tmp_path: Path, build: Callable[[int | None], Any], seed: int | None
) -> None:
    of = task(x=X.reshape(20, 2, 2))
    straight = build(seed)
    losses = train(straight, of, tmp_path / "straight", epochs=2).losses

    def kill(progress: Progress) -> None:
        if progress.text == "epoch 2/2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(build(seed), of, tmp_path / "killed", epochs=2, report=kill)
    resumed = build(seed)
    assert train(resumed, of, tmp_path / "killed", epochs=2).losses == losses
    for a, b in zip(straight.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_time_steps_share_a_mask(tmp_path: Path) -> None:
    """Drawn anew in the loop over time, whose steps run in parallel, masks would depend on chance."""
    of = task(x=np.random.default_rng(0).normal(size=(20, 50, 2)).astype(np.float32))
    runs = {tuple(train(recurrent(None), of, tmp_path / str(n), epochs=2).losses) for n in range(4)}
    assert len(runs) == 1


def test_epochs_draw_different_masks(tmp_path: Path) -> None:
    """With a weight of one and no learning to speak of, the loss differs between epochs by dropout alone."""
    import tf_keras

    drop = tf_keras.layers.Dropout(0.5, seed=5)
    model = tf_keras.Sequential([tf_keras.layers.Input((4,)), drop, tf_keras.layers.Dense(1, "sigmoid", False)])
    ctx = Context(tmp_path, tmp_path, task(), "float", LoadOptions(), 0, None, None, lambda _: None)
    info = (TensorInfo("in", (-1, 4), "float32"),)
    result = Trainer(model, info, (TensorInfo("out", (-1, 1), "float32"),), task(), Schedule(3, 1e-12, 64), ctx).run()
    assert len({round(loss, 6) for loss in result.losses}) == 3


def test_what_comes_after_the_timed_steps_is_not_an_epochs_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leaving a dataset early took 4 s where it had prepared large images: twice what its steps took."""
    whole = Batches.epoch

    def slow_to_leave(self: Batches, number: int) -> Iterator[Any]:
        try:
            yield from whole(self, number)
        finally:
            time.sleep(2)

    monkeypatch.setattr(Batches, "epoch", slow_to_leave)
    x = np.random.default_rng(0).normal(size=(2000, 4)).astype(np.float32)
    result = train(dense(), task(x.sum(1), x=x), tmp_path)
    steps = len(x) * 0.8 // 64
    assert result.seconds_per_epoch < steps * 2 / 12  # what the two seconds alone would come to


@pytest.mark.parametrize("build", [recurrent, dropout])
def test_dropout_can_be_turned_off_for_a_training(tmp_path: Path, build: Callable[[int | None], Any]) -> None:
    of = task(x=X.reshape(20, 2, 2))
    first = {}
    for share in (0.0, 0.5, 1.0):
        model = build(5)
        fit, _ = of.split(0)
        plain = np.mean((model(fit.x[""]).numpy()[:, 0] - fit.y[""]) ** 2)  # type: ignore[index]
        rates = [getattr(module, "rate", None) for module in model.submodules]
        first[share] = train(model, of, tmp_path / str(share), dropout=share).losses[0]
        assert [getattr(module, "rate", None) for module in model.submodules] == rates
        if share == 0:
            assert first[share] == pytest.approx(plain, rel=1e-5)
    assert len(set(first.values())) == 3


def curve(folder: Path) -> list[tuple[int, float]]:
    import tensorflow as tf

    found = []
    for file in sorted(folder.glob("events.out.tfevents.*")):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            found += [(event.step, float(tf.make_ndarray(v.tensor))) for v in event.summary.value if v.tag == "loss"]
    return found


def test_a_replayed_curve_is_the_one_training_wrote(tmp_path: Path) -> None:
    result = train(dense(), task(), tmp_path / "work", epochs=3, tensorboard=tmp_path / "first")
    replay(result.losses, tmp_path / "again")
    assert curve(tmp_path / "again") == curve(tmp_path / "first")
    assert [step for step, _ in curve(tmp_path / "again")] == [0, 1, 2]


# ---- what is held out


def test_an_unlabelled_task_holds_nothing_out() -> None:
    fit, held = task(None, UNLABELED, x=X[:1]).split(0)
    assert (len(fit), len(held)) == (1, 0)
    fit, held = task(None, UNLABELED).split(0)
    assert sorted(fit.x[""][:, 0]) == sorted(X[:, 0])


def test_labels_of_groups_do_not_disturb_an_autoencoder() -> None:
    fit, held = task(np.arange(5), AUTOENCODER).split(0)
    assert (len(fit), len(held)) == (18, 2)
    assert fit.y is None


def test_two_samples_are_one_to_fit_and_one_to_validate() -> None:
    fit, held = Task("t", CLASSIFICATION, Split({"": X[:2]}, {"": np.array([0, 1])}), None, accuracy, "").split(0)
    assert (len(fit), len(held)) == (1, 1)


@pytest.mark.parametrize("channels", [11, 16])  # BatchNorm stays in float32, and goes along
def test_bfloat16_learns_as_float32_does(tmp_path: Path, channels: int) -> None:
    import tf_keras

    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 8, 8, 1)).astype(np.float32)
    of = task((x.mean((1, 2, 3)) > 0).astype(np.int64), CLASSIFICATION, x=x)
    before = dict(os.environ)
    losses = {}
    for precision in ("float32", "bfloat16"):
        init = tf_keras.initializers.GlorotUniform(seed=1)
        model = tf_keras.Sequential(
            [
                tf_keras.layers.Input((8, 8, 1)),
                tf_keras.layers.Conv2D(channels, 3, kernel_initializer=init),
                tf_keras.layers.BatchNormalization(),
                tf_keras.layers.GlobalAveragePooling2D(),
                tf_keras.layers.Dense(2, "softmax", kernel_initializer=init),
            ]
        )
        losses[precision] = train(model, of, tmp_path / precision, 30, precision=precision).losses
    assert losses["bfloat16"][-1] < losses["bfloat16"][0] / 2
    assert losses["bfloat16"][-1] == pytest.approx(losses["float32"][-1], rel=0.2)
    assert dict(os.environ) == before
