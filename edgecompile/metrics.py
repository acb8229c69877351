"""The metrics that tasks are judged by.

Labels, outputs and inputs come as in `task.Metric.score`: {name: array}, the key "" standing for "the only one".
All arithmetic is float64, so that a score doesn't depend on the order in which samples were run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from edgecompile.errors import DataError
from edgecompile.task import AUTOENCODER, CLASSIFICATION, MULTI_LABEL, REGRESSION, Array, Arrays, Metric


def _pairs(labels: Arrays, outputs: Arrays) -> Iterator[tuple[Array, Array]]:
    """(labels, output) for each labelled output."""
    if len(labels) == 1 and len(outputs) == 1:
        yield next(iter(labels.values())), next(iter(outputs.values()))
        return
    if missing := set(labels) - set(outputs):
        raise DataError(
            f"labels are given for {sorted(labels)}, the model has outputs {sorted(outputs)}: "
            f"{sorted(missing)} can't be matched",
            hint="name labels after the model's outputs, in the .npz as y_test/<output>",
        )
    for name, label in labels.items():
        yield label, outputs[name]


def _sample_means(values: Array) -> Array:
    means: Array = values.reshape(len(values), -1).mean(axis=1, dtype=np.float64)
    return means


def paired(labels: Arrays, outputs: Arrays) -> list[tuple[str, Array, Array]]:
    """(output's name, labels, output) of each labelled output. DataError where they can't be matched."""
    names = outputs if len(labels) == len(outputs) == 1 else labels
    return [(name, *pair) for name, pair in zip(names, _pairs(labels, outputs), strict=True)]


def predicted(label: Array, output: Array) -> Array:
    """The class numbers that scores stand for, in the labels' shape; DataError where they don't fit."""
    if output.ndim > label.ndim and output.shape[-1] == 1:
        output = output[..., 0]
    if output.ndim > label.ndim:
        found: Array = output.argmax(axis=-1)
    else:
        # One score for two classes. A sigmoid's stay within [0, 1]; anything outside tells of logits.
        is_probability = output.min() >= 0 and output.max() <= 1
        found = output > (0.5 if is_probability else 0)
    if found.shape != label.shape:
        raise DataError(
            f"class labels of shape {list(label.shape)} don't fit an output of shape {list(output.shape)}",
            hint="labels are class numbers: one for each row of scores",
        )
    return found


def _correct(label: Array, output: Array) -> Array:
    """Share of right answers in each sample, float64 [n] (0 or 1 unless a sample has several labels)."""
    return _sample_means(predicted(label, output) == label)


def squared_error(label: Array, output: Array) -> Array:
    """Mean squared error of each sample, float64 [n]."""
    if output.size != label.size or len(output) != len(label):
        raise DataError(
            f"labels of shape {list(label.shape)} don't fit an output of shape {list(output.shape)}",
            hint="give one value for each of the model's",
        )
    difference = np.subtract(output.reshape(len(output), -1), label.reshape(len(label), -1), dtype=np.float64)
    return _sample_means(np.square(difference, out=difference))


def _mean_of(name: str, sample: Callable[[Array, Array], Array], higher_is_better: bool) -> Metric:
    """A metric that is a mean over samples, and over outputs where there are several."""

    def per_sample(labels: Arrays, outputs: Arrays, inputs: Arrays) -> Array:  # noqa: ARG001
        values: Array = np.mean([sample(label, output) for label, output in _pairs(labels, outputs)], axis=0)
        return values

    def score(labels: Arrays, outputs: Arrays, inputs: Arrays) -> float:
        return float(per_sample(labels, outputs, inputs).mean())

    return Metric(name, score, higher_is_better, per_sample)


@dataclass(frozen=True)
class RowScore:
    """A score in two steps: a number for each row of labels, then one for all of them.

    The first step is the costly one; a bootstrap repeats only the second.
    """

    rows: Callable[[Arrays, Arrays, Arrays], Array]
    summary: Callable[[Array, Array], float]

    def __call__(self, labels: Arrays, outputs: Arrays, inputs: Arrays) -> float:
        (label,) = labels.values()
        return self.summary(label, self.rows(labels, outputs, inputs))


def _reconstruction_errors(labels: Arrays, outputs: Arrays, inputs: Arrays) -> Array:
    """Mean squared reconstruction error of each labelled clip, float64 [clips].

    Rows of inputs and outputs are windows, clip after clip, the same number of them for each clip.
    """
    (label,), (output,), (source,) = labels.values(), outputs.values(), inputs.values()
    if len(source) % len(label):
        raise DataError(
            f"{len(source)} windows can't be shared among {len(label)} labelled clips",
            hint="give every clip the same number of windows, clip after clip",
        )
    errors = squared_error(source, output)
    return _sample_means(errors.reshape(len(label), -1))


def auc(label: Array, scores: Array) -> float:
    """Area under the ROC curve: the share of (anomaly, normal) pairs that are ranked rightly, ties counting half.

    NaN where only one class is present. By mean ranks (Mann-Whitney): a bootstrap takes it 2,000 times.
    """
    positive = label > 0
    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        return math.nan
    _, group, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_ranks = np.cumsum(counts) - (counts - 1) / 2
    return float((mean_ranks[group][positive].sum() - n * (n + 1) / 2) / (n * m))


def _only_output(labels: Arrays, outputs: Arrays, inputs: Arrays) -> Array:  # noqa: ARG001
    """The scores of the one labelled output, ranked in each column: all that an average precision needs of them."""
    ((label, output),) = _pairs(labels, outputs)
    if output.shape != label.shape:
        raise DataError(
            f"labels of shape {list(label.shape)} don't fit an output of shape {list(output.shape)}",
            hint="give a row of 0 and 1 for each row of scores",
        )
    return _ranks(output.reshape(-1, output.shape[-1])).reshape(output.shape)


def _ranks(scores: Array) -> Array:
    """[n, k] as small integers of the same order in each column, equal where the scores are."""
    return np.stack([np.unique(column, return_inverse=True)[1] for column in scores.T], axis=-1)


def _macro_average_precision(label: Array, ranks: Array) -> float:
    """The mean over labels of each one's average precision: the mean, over its positives, of the precision where the
    positive is found (Manning, Raghavan, Schuetze, "Introduction to Information Retrieval" (2008), section 8.4).

    Samples of one score are found together. Labels without a positive have no value and don't count; NaN where none
    has one. By counts of each rank, without sorting: a bootstrap takes it 2,000 times.
    """
    labels, levels = label.shape[-1], int(ranks.max()) + 1
    place = ranks.reshape(-1, labels) + levels * np.arange(labels)
    positive = label.reshape(-1, labels) > 0
    # of each label, and of each rank from the highest down
    samples, hits = (
        np.bincount(found, minlength=labels * levels).reshape(labels, levels)[:, ::-1]
        for found in (place.ravel(), place[positive])
    )
    precision = np.cumsum(hits, axis=1) / np.maximum(np.cumsum(samples, axis=1), 1)
    counts = hits.sum(axis=1)
    known = counts > 0
    return float(((hits * precision).sum(axis=1)[known] / counts[known]).mean()) if known.any() else math.nan


def _determination(label: Array, output: Array) -> float:
    """The coefficient of determination, R^2: its mean over targets, one that never varies counting 1 if met, else 0."""
    target = label.reshape(len(label), -1).astype(np.float64)
    errors = np.square(output.reshape(target.shape) - target).sum(axis=0)
    spread = np.square(target - target.mean(axis=0)).sum(axis=0)
    constant = spread == 0
    return float(np.where(constant, errors == 0, 1 - errors / np.where(constant, 1, spread)).mean())


def _mean_score(kinds: Mapping[str, str]) -> Metric:
    """The mean over outputs: of accuracy, of macro AP, and of R^2, which is 1 for what is right as the others are."""

    def one(name: str, labels: Arrays, outputs: Arrays, inputs: Arrays) -> float:
        only = {name: labels[name]}, {name: _output(outputs, name)}
        if kinds[name] == REGRESSION:
            return _determination(only[0][name], only[1][name])
        metric = for_kind(kinds[name])
        assert metric is not None
        return metric.score(*only, inputs)

    def score(labels: Arrays, outputs: Arrays, inputs: Arrays) -> float:
        return float(np.mean([one(name, labels, outputs, inputs) for name in kinds]))

    return Metric(macro_ap.name if set(kinds.values()) == {MULTI_LABEL} else "mean score", score)


def _output(outputs: Arrays, name: str) -> Array:
    if name not in outputs:
        raise DataError(f"labels are given for {name!r}, the model has outputs {sorted(outputs)}")
    return outputs[name]


accuracy = _mean_of("accuracy", _correct, higher_is_better=True)
mse = _mean_of("mse", squared_error, higher_is_better=False)
macro_ap = Metric("macro AP", RowScore(_only_output, _macro_average_precision))
autoencoder_auc = Metric("auc", RowScore(_reconstruction_errors, auc))


def for_kind(kind: str) -> Metric | None:
    """The metric that a task of this kind has unless it says otherwise; None for unlabelled data, and for several
    kinds together (`for_outputs`)."""
    metrics = {CLASSIFICATION: accuracy, MULTI_LABEL: macro_ap, REGRESSION: mse, AUTOENCODER: autoencoder_auc}
    return metrics.get(kind)


def for_outputs(kinds: Mapping[str, str]) -> tuple[Metric | None, dict[str, Metric]]:
    """(the metric of all outputs, {output: its own metric}, empty for one output) of {output: kind of its labels}.

    Where all are of one kind the first is the mean of what each has; for classes and targets together it is the mean of
    what is 1 where all is right: accuracy, macro AP, R^2.
    """
    own = {name: metric for name, kind in kinds.items() if (metric := for_kind(kind)) is not None}
    if len(kinds) == 1:
        return next(iter(own.values()), None), {}
    same = set(kinds.values())
    whole = accuracy if same == {CLASSIFICATION} else mse if same == {REGRESSION} else _mean_score(kinds)
    return whole, own
