"""What a model is for: its data, its loss and the metric by which it is judged.

A task's arrays are already preprocessed: a sample is what the model takes. `edgecompile.data` makes
tasks from what the user names; built-in models bring theirs (models/<id>/).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from edgecompile.artifact import TensorInfo
from edgecompile.errors import DataError

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]  # by input or output name; the key "" stands for "the only one"

VALIDATION_SHARE = 0.1
VALIDATION_MOST = 2000

CLASSIFICATION = "classification"  # class numbers
MULTI_LABEL = "multi-label"  # rows of 0 and 1, one for each score of the output
REGRESSION = "regression"
MIXED = "mixed"  # outputs of several kinds
AUTOENCODER = "autoencoder"
UNLABELED = "unlabeled"


@dataclass(frozen=True)
class Split:
    """Samples and their labels. x: {input: [n, ...]}; y: {output: [n] or [n, ...]}, None where unlabelled.

    A metric may group samples (an autoencoder's windows of one clip): then y has fewer rows than x,
    and the rows of x are a multiple of the rows of y.
    groups: [n], who or what a sample comes from (a speaker, a scene); None where nothing is known. Samples of one
    group resemble each other: a model is validated on groups it was not trained on.
    """

    x: Arrays
    y: Arrays | None = None
    groups: Array | None = None

    def __len__(self) -> int:
        return len(next(iter(self.x.values())))

    def take(self, index: Array | slice) -> Split:
        """The samples at `index`; only for splits whose labels are one a sample."""
        y = None if self.y is None else {name: a[index] for name, a in self.y.items()}
        groups = None if self.groups is None else self.groups[index]
        return Split({name: a[index] for name, a in self.x.items()}, y, groups)


@dataclass(frozen=True)
class Metric:
    """`score(labels, outputs, inputs)` -> float. `per_sample`, where the score is a mean over samples,
    gives the addends, so that two models can be compared sample by sample."""

    name: str
    score: Callable[[Arrays, Arrays, Arrays], float]
    higher_is_better: bool = True
    per_sample: Callable[[Arrays, Arrays, Arrays], Array] | None = None


@dataclass(frozen=True)
class KerasLoss:
    """One of Keras's own losses, as a model was compiled with it: its class and its arguments."""

    name: str
    settings: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Task:
    """What a model is trained, calibrated and judged with.

    kind: classification | multi-label | regression | mixed | autoencoder | unlabeled
    metric: None only where there are no labels
    loss: a tf-keras loss (name or callable), or None to take the one that fits kind and outputs
    augment: `f(x, seed) -> x`, a TensorFlow function on one batch ({input: tensor}; seed: int32 [2],
        for `tf.random.stateless_*`), so that an epoch repeats exactly after a kill
    fingerprint: tells data from other data; "" to have it computed from the arrays. The code of a user's own
        function is always mixed in.
    parity_tolerance: largest |compressed - float| allowed, as a share of the output's range
    validation: labelled samples to judge by between stages; None: a tenth of `train` is held out for that

    By output, the key "" standing for the only one:
    kinds: where they aren't all `kind`
    metrics: what each output is judged by beside the metric of all; it gets that output's labels and scores alone
    losses: of the model's file, where `loss` is None
    loss_weights: an output's part in the loss; 1 where there is none
    class_weights: [classes], of each class (or each label of several) in the loss

    notes: how the data was read, where that isn't plain from it
    """

    name: str
    kind: str
    train: Split | None
    test: Split | None
    metric: Metric | None
    fingerprint: str
    loss: Any = None
    augment: Callable[[Any, Any], Any] | None = None
    parity_tolerance: float | None = None
    validation: Split | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    losses: Mapping[str, KerasLoss] = field(default_factory=dict)
    loss_weights: Mapping[str, float] = field(default_factory=dict)
    class_weights: Mapping[str, Array] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def kind_of(self, output: str) -> str:
        """The kind of one output's labels."""
        return of_output(self.kinds, output, self.kind)

    @property
    def splits(self) -> dict[str, Split]:
        """Those there are, by the names they have in an .npz."""
        named = {"train": self.train, "val": self.validation, "test": self.test}
        return {name: split for name, split in named.items() if split is not None}

    @property
    def representative(self) -> Split:
        """Samples to calibrate with: training data only, never the test set of a labelled task."""
        if self.train is None:
            raise DataError(
                f"task {self.name!r} has no training samples to calibrate with",
                hint="give x_train (or x alone) in the .npz, or a train/ folder",
            )
        return self.train

    def split(self, seed: int) -> tuple[Split, Split]:
        """(fit, validation), both from training data: the last tenth of a seeded permutation, at most 2,000.

        Where the task has a validation split of its own, that is taken and all training samples are in `fit`.
        Where samples have groups, whole groups are held out, as many as it takes to have a tenth of the samples.
        An unlabelled task has nothing to validate: all samples are in `fit`. An autoencoder's training labels,
        which may stand for groups of samples, are left out: it learns from its inputs. DataError for less than
        two samples where some must be held out.
        """
        train = self.representative
        n = len(train)
        order = np.random.default_rng(seed).permutation(n)
        if self.kind == UNLABELED:
            return train.take(order), train.take(order[:0])
        if self.validation is not None:
            own = Split(train.x) if self.kind == AUTOENCODER else train
            return own.take(order), self.validation
        if n < 2:
            raise DataError(
                f"task {self.name!r} has {n} training sample, too few: one is held out to validate with",
                hint="give more training samples",
            )
        if self.kind == AUTOENCODER:
            train = Split(train.x, None, train.groups)
        held = min(max(1, int(n * VALIDATION_SHARE)), VALIDATION_MOST)
        if train.groups is not None:
            order, held = _by_groups(train.groups[order], order, held)
        return train.take(order[: n - held]), train.take(order[n - held :])


def _by_groups(groups: Array, order: Array, held: int) -> tuple[Array, int]:
    """(order, held) with whole groups in the last `held` samples or more; groups[i] is that of sample order[i]."""
    counts: dict[Any, int] = {}
    for group in groups[::-1].tolist():
        counts[group] = counts.get(group, 0) + 1
    chosen: set[Any] = set()
    total = 0
    for group, count in counts.items():
        if total >= held or len(chosen) == len(counts) - 1:
            break
        chosen.add(group)
        total += count
    last = np.array([group in chosen for group in groups.tolist()])
    if not last.any() or last.all():
        raise DataError("all training samples are of one group: none of another can be held out to validate with")
    return np.concatenate([order[~last], order[last]]), int(last.sum())


_Fact = TypeVar("_Fact")


def of_output(facts: Mapping[str, _Fact], output: str, otherwise: _Fact) -> _Fact:
    """What is known of an output, by its name or, where it is the only one, by ""."""
    return facts.get(output, facts.get("", otherwise))


def align(x: Arrays, specs: tuple[TensorInfo, ...]) -> dict[str, Array]:
    """Samples keyed and ordered as the model's inputs, of their dtype, or a DataError that names the difference.

    Shapes are compared without the batch dimension; -1 in the model fits any size.
    """
    names = [spec.name for spec in specs]
    if set(x) == {""} and len(specs) == 1:
        x = {names[0]: x[""]}
    if set(x) != set(names):
        raise DataError(
            f"the data has inputs {sorted(x)}, the model expects {names}",
            hint="name them in the .npz as x_train/<input>, x_test/<input>",
        )
    out = {}
    for spec in specs:
        array = x[spec.name]
        expected = spec.shape[1:]
        fits = len(expected) == array.ndim - 1 and all(
            e in (-1, a) for e, a in zip(expected, array.shape[1:], strict=True)
        )
        if not fits:
            raise DataError(
                f"input {spec.name!r}: the model expects samples of shape {list(expected)}, "
                f"the data has {list(array.shape[1:])}",
                hint="reshape the data, or give --input-shape where the model's size is free",
            )
        out[spec.name] = array
    return out
