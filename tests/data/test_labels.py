"""What labels are taken for, by their values, by the output that they are for and by the loss of the model's file."""

from __future__ import annotations

import numpy as np
import pytest

from edgecompile.data.expected import Expected, ExpectedOutput
from edgecompile.data.labels import read_labels
from edgecompile.task import CLASSIFICATION, MULTI_LABEL, REGRESSION, KerasLoss

CLASSES = np.array([0, 2, 1, 2])
ONE_HOT = np.eye(3, dtype=np.float32)[CLASSES]
SEVERAL = np.array([[0, 1, 1], [0, 0, 0], [1, 0, 0], [1, 1, 1]])
BINARY = np.array([0, 1, 1, 0])
AGES = np.array([31, 7, 64, 22])
FRACTIONS = np.array([0.5, 2.0, 1.25, 0.0])

# labels, the output's shape, its activation, the compiled loss, and what they are
CASES = {
    "class numbers": (CLASSES, (3,), None, "", CLASSIFICATION),
    "class numbers as floats": (CLASSES / 1.0, (3,), "softmax", "", CLASSIFICATION),
    "class numbers in a column": (CLASSES[:, None], (3,), None, "", CLASSIFICATION),
    "class numbers, trained on one-hot rows": (CLASSES, (3,), None, "MeanSquaredError", CLASSIFICATION),
    "class numbers of pixels": (np.ones((4, 2, 2), int), (2, 2, 3), None, "", CLASSIFICATION),
    "one-hot rows": (ONE_HOT, (3,), "softmax", "CategoricalCrossentropy", CLASSIFICATION),
    "one-hot rows without a loss": (ONE_HOT, (3,), None, "", CLASSIFICATION),
    "one label each, by accident": (ONE_HOT, (3,), "sigmoid", "BinaryCrossentropy", MULTI_LABEL),
    "one-hot rows, softmax": (ONE_HOT, (3,), "softmax", "BinaryCrossentropy", CLASSIFICATION),
    "one-hot pixels": (np.eye(3)[np.ones((4, 2, 2), int)], (2, 2, 3), None, "", CLASSIFICATION),
    "several labels": (SEVERAL, (3,), "sigmoid", "", MULTI_LABEL),
    "several labels as floats": (SEVERAL * 1.0, (3,), "sigmoid", "BinaryCrossentropy", MULTI_LABEL),
    "several targets of 0 and 1": (SEVERAL, (3,), "linear", "MeanAbsoluteError", REGRESSION),
    "class numbers in a row": (SEVERAL, (3, 2), None, "", CLASSIFICATION),
    "two classes": (BINARY, (1,), "sigmoid", "", CLASSIFICATION),
    "two classes as floats": (BINARY * 1.0, (1,), "sigmoid", "BinaryCrossentropy", CLASSIFICATION),
    "two classes, logits": (BINARY, (1,), "linear", "", CLASSIFICATION),
    "targets that are 0 and 1": (BINARY, (1,), "linear", "MeanSquaredError", REGRESSION),
    "whole targets": (AGES, (1,), "linear", "MeanAbsoluteError", REGRESSION),
    "whole targets without a loss": (AGES, (1,), "linear", "", REGRESSION),
    "whole targets, no axis": (AGES, (), None, "", REGRESSION),
    "whole targets in a row": (SEVERAL * 7, (3,), None, "", REGRESSION),
    "counts": (AGES, (1,), "exponential", "Poisson", REGRESSION),
    "wrong class numbers": (AGES, (1,), "sigmoid", "", CLASSIFICATION),
    "fractions": (FRACTIONS, (1,), "linear", "", REGRESSION),
    "fractions, sigmoid": (FRACTIONS / 2, (1,), "sigmoid", "", REGRESSION),
}


@pytest.mark.parametrize("case", CASES)
def test_labels_are_read_by_values_output_and_loss(case: str) -> None:
    labels, shape, activation, loss, kind = CASES[case]
    output = ExpectedOutput("out", shape, activation, KerasLoss(loss) if loss else None)
    given = {"y_train": {"": labels}, "y_test": {"": labels[:2]}}
    kinds, read = read_labels(given, Expected(outputs=(output,)))
    assert kinds == {"": kind}
    found = read["y_train"][""]
    assert (found.dtype.kind in "iu") == (kind == CLASSIFICATION or labels.dtype.kind in "iu")
    if kind == CLASSIFICATION and labels.shape[1:] == shape and shape[-1:] == (3,):
        np.testing.assert_array_equal(found, labels.argmax(-1))
    elif kind == CLASSIFICATION and labels.shape == (4, 1):
        np.testing.assert_array_equal(found, CLASSES)
    else:
        np.testing.assert_array_equal(found, labels)


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (CLASSES, CLASSIFICATION),
        (ONE_HOT, CLASSIFICATION),
        (SEVERAL, MULTI_LABEL),
        (FRACTIONS, REGRESSION),
        (AGES, CLASSIFICATION),
    ],
)
def test_values_decide_while_no_model_is_known(labels: np.ndarray, kind: str) -> None:
    assert read_labels({"y_test": {"": labels}}, None)[0] == {"": kind}


def test_all_splits_are_read_alike() -> None:
    """Rows that have one label each in the small test set alone are no classes."""
    output = ExpectedOutput("tags", (3,), "sigmoid")
    kinds, read = read_labels({"y_train": {"": SEVERAL}, "y_test": {"": ONE_HOT}}, Expected(outputs=(output,)))
    assert kinds == {"": MULTI_LABEL}
    np.testing.assert_array_equal(read["y_test"][""], ONE_HOT)


def test_outputs_may_be_of_different_kinds() -> None:
    outputs = (ExpectedOutput("age", (1,), "linear"), ExpectedOutput("kind", (3,)), ExpectedOutput("tags", (3,)))
    given = {"y_test": {"tags": SEVERAL, "age": AGES, "kind": CLASSES}}
    assert read_labels(given, Expected(outputs=outputs))[0] == {
        "tags": MULTI_LABEL, "age": REGRESSION, "kind": CLASSIFICATION,
    }  # fmt: skip


def test_what_was_decided_before_holds() -> None:
    output = ExpectedOutput("out", (1,), kind=REGRESSION)
    assert read_labels({"y_test": {"": BINARY}}, Expected(outputs=(output,)))[0] == {"": REGRESSION}
