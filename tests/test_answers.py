"""A model that doesn't tell its samples apart is said to be one, before and after compression."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import run_cli

from edgecompile import answers, metrics
from edgecompile.task import AUTOENCODER, CLASSIFICATION, REGRESSION, Array, Metric, Split, Task


def told(kind: str, labels: Array, outputs: Array, inputs: Array | None = None, metric: Metric | None = None) -> str:
    x = {"": np.zeros((len(outputs), 1)) if inputs is None else inputs}
    task = Task("t", kind, None, Split(x, {"": labels}), metric or metrics.for_kind(kind), "")
    return answers.told(task, {"": labels}, {"y": outputs}, x)


def one_hot(classes: Array, count: int) -> Array:
    found: Array = np.eye(count, dtype=np.float32)[classes]
    return found


def test_one_class_for_everything() -> None:
    labels = np.arange(100) % 10
    assert told(CLASSIFICATION, labels, one_hot(np.full(100, 3), 10)) == (
        "answers class 3 for 100% of 90 samples of other classes"
    )
    binary = np.arange(100) % 2
    assert "answers class 1 for 100% of 50 samples" in told(CLASSIFICATION, binary, np.full((100, 1), 0.9))


def test_a_rare_class_that_is_found_is_no_reason() -> None:
    """Nearly all answers are one class, and rightly so."""
    labels = np.array([0] * 970 + [1] * 30)
    assert told(CLASSIFICATION, labels, one_hot(labels, 2)) == ""
    missed = labels.copy()
    missed[970:998] = 0
    assert "answers class 0 for 93% of 30 samples" in told(CLASSIFICATION, labels, one_hot(missed, 2))


@given(st.integers(0, 1000), st.integers(2, 10))
def test_guesses_are_told_and_right_answers_are_not(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, count, 400)
    wrong = (labels + rng.integers(1, count, 400)) % count
    assert "can't be told from chance" in told(CLASSIFICATION, labels, one_hot(wrong, count))
    mostly = np.where(rng.uniform(size=400) < 0.8, labels, wrong)
    assert told(CLASSIFICATION, labels, one_hot(mostly, count)) == ""


def test_values_and_ranks() -> None:
    rng = np.random.default_rng(0)
    labels = rng.normal(size=(50, 2))
    assert told(REGRESSION, labels, labels + 0.1) == ""
    assert "is no nearer than the labels' mean" in told(REGRESSION, labels, np.zeros((50, 2)) + 0.5)
    clips = np.arange(40) % 2
    x = rng.normal(size=(40, 8)).astype(np.float32)
    anomalous = x + clips[:, None]
    assert told(AUTOENCODER, clips, anomalous, x) == ""
    assert "an AUC of 0.500 on 20 anomalies and 20 normal clips" in told(AUTOENCODER, clips, x, x)


def test_few_samples_and_outputs_of_another_form_say_nothing() -> None:
    assert told(CLASSIFICATION, np.arange(9) % 3, one_hot(np.zeros(9, int), 3)) == ""
    own = Metric("mine", lambda *_: 1.0)
    assert told(CLASSIFICATION, np.zeros((20, 3), int), np.zeros((20, 5, 4)), metric=own) == ""


@pytest.fixture(scope="module")
def stuck(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two inputs' sums, whose bias decides everything, and its data."""
    import keras

    folder = tmp_path_factory.mktemp("stuck")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(240, 8)).astype(np.float32)
    y = np.arange(240) % 3
    image = keras.Input((8,), name="x")
    model = keras.Model(image, keras.layers.Dense(3, activation="softmax", name="y")(image))
    model.layers[1].set_weights([rng.normal(0, 0.01, (8, 3)), np.array([0.0, 5.0, 0.0])])
    model.save(folder / "stuck.keras")
    np.savez(folder / "stuck.npz", x_train=x[:120], y_train=y[:120], x_test=x[120:], y_test=y[120:])
    return folder


def test_terminal_report_and_json_say_it(stuck: Path, tmp_path: Path) -> None:
    command = ("build", str(stuck / "stuck.keras"), "--data", str(stuck / "stuck.npz"), "--recipe", "int8",
               "--backends", "litert", "--out", str(tmp_path / "out"))  # fmt: skip
    shown = run_cli(*command, cwd=tmp_path)
    assert shown.code == 0, shown.err
    clause = "answers class 1 for 100% of 80 samples of other classes"
    for who in ("the float model", "the compressed model"):
        assert f"NOTE: {who} {clause}" in shown.out
    assert f"the model {clause}" in shown.err  # at once, before anything else is done
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count(f"float model {clause}") == 1
    again = run_cli(*command, "--json", cwd=tmp_path)
    cautions = json.loads(again.out)["cautions"]
    assert [text for text in cautions if clause in text] == [
        f"the float model {clause}",
        f"the compressed model {clause}",
    ]
