"""Does a model tell its samples apart at all? A drop of nothing from a useless model is no success, and is said."""

from __future__ import annotations

import math

import numpy as np

from edgecompile import metrics
from edgecompile.compare import Z95
from edgecompile.errors import DataError
from edgecompile.task import AUTOENCODER, CLASSIFICATION, MULTI_LABEL, REGRESSION, Array, Arrays, Task

_ONE_ANSWER = 0.9  # of the samples of all other classes
_FEW = 10  # samples, of which nothing is said


def told(task: Task, labels: Arrays, outputs: Arrays, inputs: Arrays) -> str:
    """What is wrong with the answers as a whole, as a clause that begins with a verb; empty where they mean something,
    or where it can't be told.

    labels, outputs, inputs: as a metric takes them. Classes: nearly one answer for everything, or no more right ones
    than by chance. Anomaly scores and labels: no better ranked than by chance. Values: no nearer than the labels' mean.
    """
    if task.kind == AUTOENCODER and task.metric is metrics.autoencoder_auc:
        (label,) = labels.values()
        return _of_ranks(label, metrics.autoencoder_auc.score(labels, outputs, inputs))
    try:
        pairs = metrics.paired(labels, outputs)
        found = {
            name: _JUDGES[kind](label, output)
            for name, label, output in pairs
            if (kind := task.kind_of(name)) in _JUDGES
        }
    except DataError:  # a metric of the user's own may take outputs of any form
        return ""
    several = len(pairs) > 1
    return "; ".join(f"{text} (output {name!r})" if several else text for name, text in found.items() if text)


def _of_classes(label: Array, output: Array) -> str:
    answers, right = metrics.predicted(label, output).ravel().astype(np.int64), label.ravel().astype(np.int64)
    count = len(right)
    if count < _FEW:
        return ""
    classes, asked = np.unique(right, return_counts=True)
    given, times = np.unique(answers, return_counts=True)
    most = given[times.argmax()]
    own, others = answers[right == most], answers[right != most]
    # Of its own class too: one that answers the opposite of what is right knows something.
    one = len(others) >= _FEW and np.mean(others == most) >= _ONE_ANSWER
    if one and (not len(own) or np.mean(own == most) >= _ONE_ANSWER):
        return f"answers class {most} for {np.mean(others == most):.0%} of {len(others)} samples of other classes"
    share = dict(zip(classes.tolist(), (asked / count).tolist(), strict=True))
    chance = sum(share.get(c, 0.0) * n / count for c, n in zip(given.tolist(), times.tolist(), strict=True))
    correct = float(np.mean(answers == right))
    if _wilson_low(correct, count) <= chance:
        return f"can't be told from chance: {correct:.3f} of {count} answers are right, {chance:.3f} would be by chance"
    return ""


def _of_ranks(label: Array, auc: float) -> str:
    n, m = int((label > 0).sum()), int((label <= 0).sum())
    if min(n, m) == 0 or not math.isfinite(auc):
        return ""
    # The variance of the Mann-Whitney statistic where the scores say nothing.
    if auc - Z95 * math.sqrt((n + m + 1) / (12 * n * m)) <= 0.5:
        return f"can't be told from chance: an AUC of {auc:.3f} on {n} anomalies and {m} normal clips"
    return ""


def _of_values(label: Array, output: Array) -> str:
    if len(label) < _FEW:
        return ""
    error = float(np.mean(metrics.squared_error(label, output)))
    spread = float(np.var(label.astype(np.float64), axis=0).mean())
    if error < spread or error == 0:
        return ""
    return f"is no nearer than the labels' mean: its squared error is {error:.4g}, that of the mean {spread:.4g}"


def _of_labels(label: Array, output: Array) -> str:
    if label.shape != output.shape or len(label) < _FEW:
        return ""
    columns = list(zip(label.reshape(-1, label.shape[-1]).T, output.reshape(-1, label.shape[-1]).T, strict=True))
    told = [_of_ranks(right, metrics.auc(right, scores)) for right, scores in columns if len(np.unique(right)) > 1]
    if not told or not all(told):
        return ""
    return f"can't be told from chance: none of {len(told)} labels is ranked better than by chance"


_JUDGES = {CLASSIFICATION: _of_classes, REGRESSION: _of_values, MULTI_LABEL: _of_labels}


def _wilson_low(share: float, count: int) -> float:
    """The lower end of the 95% interval of a share (Wilson 1927)."""
    z = Z95 * Z95 / count
    return (share + z / 2 - Z95 * math.sqrt(share * (1 - share) / count + z / (4 * count))) / (1 + z)
