"""Metrics against their definitions, spelt out slowly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, r2_score, roc_auc_score

from edgecompile import metrics
from edgecompile.errors import DataError
from edgecompile.task import AUTOENCODER, CLASSIFICATION, MULTI_LABEL, REGRESSION, UNLABELED

NO_INPUTS = {"": np.zeros((4, 1))}


def test_accuracy_takes_the_highest_score() -> None:
    scores = np.array([[0.1, 0.9], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]])
    labels = {"": np.array([1, 0, 0, 1])}
    assert metrics.accuracy.score(labels, {"scores": scores}, NO_INPUTS) == 0.75
    assert metrics.accuracy.per_sample is not None
    assert metrics.accuracy.per_sample(labels, {"scores": scores}, NO_INPUTS).tolist() == [1, 1, 0, 1]


@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("scores", [[0.2, 0.7, 0.51, 0.49], [-3.0, 0.4, 2.0, -0.1]], ids=["probabilities", "logits"])
def test_accuracy_of_one_score_for_two_classes(scores: list[float], column: bool) -> None:
    output = np.array(scores)[:, None]
    labels = np.array([0, 1, 1, 1])
    assert metrics.accuracy.score({"": labels[:, None] if column else labels}, {"p": output}, NO_INPUTS) == 0.75


def test_accuracy_of_several_outputs_is_their_mean() -> None:
    labels = {"a": np.array([0, 1]), "b": np.array([1, 1])}
    outputs = {"a": np.eye(2), "b": np.array([[0.2], [0.9]]), "unlabelled": np.zeros((2, 3))}
    assert metrics.accuracy.score(labels, outputs, NO_INPUTS) == 0.75  # 1.0 and 0.5


def test_labels_of_an_unknown_output_are_named() -> None:
    labels = {"a": np.array([0, 1]), "c": np.array([1, 1])}
    with pytest.raises(DataError, match=r"\['c'\] can't be matched"):
        metrics.accuracy.score(labels, {"a": np.eye(2), "b": np.eye(2)}, NO_INPUTS)


def test_accuracy_of_labels_for_each_pixel() -> None:
    scores = np.zeros((2, 2, 2, 3))
    scores[..., 1] = 1
    labels = np.ones((2, 2, 2), int)
    labels[1, 0, 0] = 2
    assert metrics.accuracy.score({"": labels}, {"mask": scores}, NO_INPUTS) == 7 / 8


def test_mse_is_lower_is_better_and_ignores_a_trailing_one() -> None:
    labels, outputs = {"": np.array([1.0, 2.0])}, {"y": np.array([[1.0], [4.0]], np.float32)}
    assert metrics.mse.score(labels, outputs, NO_INPUTS) == 2.0
    assert not metrics.mse.higher_is_better
    with pytest.raises(DataError, match=r"\[2\] don't fit an output of shape \[2, 3\]"):
        metrics.mse.score(labels, {"y": np.zeros((2, 3))}, NO_INPUTS)


def brute_force_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    pairs = [(p, q) for p in scores[labels == 1] for q in scores[labels == 0]]
    return sum(1.0 if p > q else 0.5 if p == q else 0.0 for p, q in pairs) / len(pairs)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=30))
def test_auc_agrees_with_its_definition_and_with_scikit_learn(samples: list[tuple[bool, int]]) -> None:
    labels = np.array([int(label) for label, _ in samples])
    errors = np.array([error for _, error in samples], np.float64)
    inputs = {"": np.zeros((len(samples), 1))}
    score = metrics.autoencoder_auc.score({"": labels}, {"y": np.sqrt(errors)[:, None]}, inputs)
    if labels.min() == labels.max():
        assert np.isnan(score)
    else:
        # The root, squared again, may part ties: scores are read back as the metric sees them.
        seen = np.square(np.sqrt(errors))
        assert score == pytest.approx(brute_force_auc(labels, seen))
        assert score == pytest.approx(roc_auc_score(labels, seen))


def test_auc_groups_windows_by_clip() -> None:
    source = np.zeros((6, 2))
    rebuilt = np.array([[1, 1], [1, 1], [0, 0], [3, 3], [0, 0], [0, 0]])  # clip errors: 1, 4.5, 0
    labels = {"": np.array([0, 1, 0])}
    assert metrics.autoencoder_auc.score(labels, {"y": rebuilt}, {"x": source}) == 1.0
    assert metrics.autoencoder_auc.score({"": np.array([1, 0, 0])}, {"y": rebuilt}, {"x": source}) == 0.5
    with pytest.raises(DataError, match="6 windows can't be shared among 4"):
        metrics.autoencoder_auc.score({"": np.array([0, 1, 0, 1])}, {"y": rebuilt}, {"x": source})


def test_each_kind_has_its_metric() -> None:
    assert metrics.for_kind(CLASSIFICATION) is metrics.accuracy
    assert metrics.for_kind(REGRESSION) is metrics.mse
    assert metrics.for_kind(AUTOENCODER) is metrics.autoencoder_auc
    assert metrics.for_kind(UNLABELED) is None


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(2, 4), st.integers(1, 6), st.integers(0, 99))
def test_macro_ap_is_the_mean_of_average_precisions(samples: int, labels: int, levels: int, seed: int) -> None:
    """Few levels of scores, as a quantized model gives them: those that are equal are found together."""
    rng = np.random.default_rng(seed)
    y, scores = rng.integers(0, 2, (samples, labels)), rng.integers(0, levels, (samples, labels)) / 8
    found = metrics.macro_ap.score({"": y}, {"tags": scores}, NO_INPUTS)
    each = [average_precision_score(y[:, i], scores[:, i]) for i in range(labels) if y[:, i].any()]
    if each:
        assert found == pytest.approx(np.mean(each))
    else:
        assert np.isnan(found)


def test_macro_ap_of_another_shape_is_an_error() -> None:
    with pytest.raises(DataError, match=r"\[3, 2\] don't fit an output of shape \[3, 4\]"):
        metrics.macro_ap.score({"": np.ones((3, 2))}, {"tags": np.ones((3, 4))}, NO_INPUTS)


def test_outputs_of_several_kinds_have_a_mean_of_what_is_best_at_1() -> None:
    rng = np.random.default_rng(0)
    labels = {"age": rng.normal(size=(30, 2)), "kind": rng.integers(0, 3, 30), "tags": rng.integers(0, 2, (30, 4))}
    outputs = {"age": labels["age"] + rng.normal(size=(30, 2)) / 3, "kind": rng.random((30, 3)),
               "tags": rng.random((30, 4))}  # fmt: skip
    whole, own = metrics.for_outputs({"age": REGRESSION, "kind": CLASSIFICATION, "tags": MULTI_LABEL})
    assert whole is not None
    parts = [
        r2_score(labels["age"], outputs["age"]),
        metrics.accuracy.score({"": labels["kind"]}, {"": outputs["kind"]}, NO_INPUTS),
        metrics.macro_ap.score({"": labels["tags"]}, {"": outputs["tags"]}, NO_INPUTS),
    ]
    assert whole.score(labels, outputs, NO_INPUTS) == pytest.approx(np.mean(parts))
    assert {name: metric.name for name, metric in own.items()} == {
        "age": "mse", "kind": "accuracy", "tags": "macro AP",
    }  # fmt: skip
    assert metrics.for_outputs({"a": REGRESSION, "b": REGRESSION})[0] is metrics.mse
    assert metrics.for_outputs({"": MULTI_LABEL}) == (metrics.macro_ap, {})
