"""Several outputs: what one of them loses isn't made good by another."""

from __future__ import annotations

import numpy as np
import pytest

from edgecompile import gates, metrics, per_output
from edgecompile.errors import AccuracyGateError
from edgecompile.search import Judge
from edgecompile.task import CLASSIFICATION, MIXED, REGRESSION, Split, Task

N = 100
LABELS = {"a": np.arange(N) % 2, "age": np.arange(N) / 10}
X = {"": np.zeros((N, 1))}
RIGHT = np.eye(2)[LABELS["a"]]
WORSE = np.eye(2)[np.where(np.arange(N) < 10, 1 - LABELS["a"], LABELS["a"])]
AGES = LABELS["age"][:, None] + 0.5


def task() -> Task:
    kinds = {"a": CLASSIFICATION, "age": REGRESSION}
    whole, own = metrics.for_outputs(kinds)
    split = Split(X, LABELS)
    return Task("t", MIXED, split, split, whole, "t", kinds=kinds, metrics=own)


def test_an_output_that_loses_too_much_fails_by_its_name() -> None:
    of = task()
    assert of.metric is not None
    before, after = {"a": RIGHT, "age": AGES + 2}, {"a": WORSE, "age": LABELS["age"][:, None]}
    found = per_output.compared(of.metric, LABELS, before, after, X, 0)
    found["engine"] = "litert"
    found["outputs"] = per_output.compared_each(of, LABELS, before, after, X, 0)
    checks = gates.accuracies(found, 5.0)
    assert [(check.name, check.passed) for check in checks] == [
        ("accuracy", True), ("accuracy/a", False), ("accuracy/age", True),
    ]  # fmt: skip
    with pytest.raises(
        AccuracyGateError, match=r"gate accuracy/a: accuracy 0\.9000 by litert against 1\.0000 .* allowed 5 points"
    ):
        gates.enforce(checks)


def test_a_search_goes_by_the_output_that_loses_most() -> None:
    of = task()
    before = per_output.scores(of, LABELS, {"a": RIGHT, "age": AGES}, X)
    after = per_output.scores(of, LABELS, {"a": WORSE, "age": AGES}, X)
    assert before == {"a": 1.0, "age": pytest.approx(0.25)}
    judge = Judge(
        run=lambda *_: (),
        share=lambda _: None,
        drop=lambda value: 100 * (1 - value),
        size=lambda _: 0,
        say=lambda _: None,
        limit=5.0,
        worst_output=lambda scores: per_output.worst_drop(of.metrics, before, scores),
    )
    assert judge.drop_of({"validation": 0.97, "validation_outputs": after}) == pytest.approx(10)
    assert judge.drop_of({"validation": 0.80, "validation_outputs": after}) == pytest.approx(20)
    assert judge.drop_of({"validation": 0.97}) == pytest.approx(3)
    assert judge.drop_of({}) == 0
