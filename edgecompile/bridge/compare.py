"""Does the rebuilt model compute what the original does, and if not, where do they part?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecompile.bridge import graph
from edgecompile.bridge.build import Traced
from edgecompile.errors import BridgeError, NonFiniteError
from edgecompile.loaders.base import call_keras, output_names
from edgecompile.remapping import run_fused

Array = npt.NDArray[Any]

TOLERANCE = 1e-5  # of an output's range
ROUNDINGS = 8  # times `rounding`, what is allowed to a model that amplifies it, up to
MOST = 1e-3
BATCH = 256
WITNESSES = 8  # samples for the search layer by layer, for which all intermediate results are kept


def largest_difference(original: Any, rebuilt: Any, arrays: list[Array]) -> float:
    """The largest |difference| on the samples, as a share of its output's range; inf where one is not finite.

    NonFiniteError where the original's own outputs are not finite.
    """
    expected, received = _outputs(original, arrays), _outputs(rebuilt, arrays)
    for name, output in zip(output_names(original), expected, strict=True):
        if not np.isfinite(output).all():
            raise NonFiniteError(f"output {name!r} of the model is NaN or infinite on the sample",
                                 hint="look for NaN in the data, or for an overflow in the model")  # fmt: skip
    return max(relative(a, b) for a, b in zip(expected, received, strict=True))


def rounding(original: Any, arrays: list[Array]) -> float:
    """How far the original's own outputs move, as `largest_difference` measures it, when each of its weights moves by
    the last bit of a float32: no two ways to compute it agree more closely.
    """
    expected = _outputs(original, arrays)
    before = [np.asarray(weight) for weight in original.weights]
    signs = np.random.default_rng(0)
    try:
        for weight, value in zip(original.weights, before, strict=True):
            if value.dtype == np.float32:
                weight.assign(value * (1 + np.float32(2.0**-23) * signs.choice((-1, 1), value.shape)))
        moved = _outputs(original, arrays)
    finally:
        for weight, value in zip(original.weights, before, strict=True):
            weight.assign(value)
    return max(relative(a, b) for a, b in zip(expected, moved, strict=True))


def relative(expected: Array, received: Array) -> float:
    """max |expected - received| / (max - min of expected); absolute where the range is zero."""
    if expected.shape != received.shape:
        return float("inf")
    a, b = expected.astype(np.float64), received.astype(np.float64)
    if not a.size:
        return 0.0
    difference = np.abs(a - b)
    difference[np.isnan(a) & np.isnan(b) | (a == b)] = 0  # also where both are infinite
    worst = float(difference.max())
    spread = float(a.max() - a.min())
    if not np.isfinite(worst):
        return float("inf")
    return worst / spread if np.isfinite(spread) and spread > 0 else worst


def _outputs(model: Any, arrays: list[Array]) -> list[Array]:
    import tensorflow as tf

    fixed = model.inputs[0].shape[0]
    n = len(arrays[0])
    index = np.arange(n if not fixed else -(-n // fixed) * fixed).clip(max=n - 1)
    step = fixed or BATCH

    def traced() -> list[list[Array]]:
        run = tf.function(lambda tensors: tf.nest.flatten(call_keras(model, tensors)))
        return [
            [out.numpy() for out in run([tf.constant(a[index[start : start + step]]) for a in arrays])]
            for start in range(0, len(index), step)
        ]

    parts = run_fused(traced, traced)
    return [np.concatenate(column) if np.ndim(column[0]) else np.stack(column) for column in zip(*parts, strict=True)]


def first_difference(
    original: Any, rebuilt: Any, traced: Sequence[Traced], arrays: list[Array]
) -> tuple[Traced, float]:
    """(the first node whose output differs, in topological order; by how much)."""
    import tensorflow as tf
    import tf_keras

    fixed = original.inputs[0].shape[0]
    rows = np.arange(fixed) % len(arrays[0]) if fixed else _worst_rows(original, rebuilt, arrays)
    tensors = [tf.constant(a[rows]) for a in arrays]
    symbolic: list[list[Any]] = []

    def apply(op: Any, _parents: Any, _node: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        if "training" in kwargs:
            kwargs["training"] = False
        outputs = tf.nest.flatten(op(*args, **kwargs))
        symbolic.append(list(outputs))
        return list(outputs)

    def trace(values: list[Any]) -> list[list[Any]]:
        graph.run(original, values, apply)
        return symbolic

    expected = [[o.numpy() for o in outputs] for outputs in tf.function(trace)(tensors)]
    probe = tf_keras.Model(rebuilt.inputs, [t for node in traced for t in node.outputs], name="probe")
    received = iter([o.numpy() for o in tf.nest.flatten(call_keras(probe, tensors))])
    differences = [
        (max((relative(e, next(received)) for e, _ in zip(outputs, node.outputs, strict=False)), default=0.0), node)
        for node, outputs in zip(traced, expected, strict=True)
    ]
    over = [pair for pair in differences if pair[0] > TOLERANCE]
    difference, node = over[0] if over else max(differences, key=lambda pair: pair[0])
    return node, difference


def difference_error(node: Traced, difference: float, max_diff: float, allowed: float) -> BridgeError:
    """What to raise where `node` differs whatever it is made of."""
    return BridgeError(
        f"the model rebuilt in tf-keras differs from the original by {max_diff:.3g} of the output's range "
        f"(allowed: {allowed:.3g}); the first layer that differs is {node.name!r} ({node.kind}), by {difference:.3g}",
        hint="replace that layer, save the model with tf-keras, or use a recipe without training",
    )


def _worst_rows(original: Any, rebuilt: Any, arrays: list[Array]) -> Array:
    """The samples with the largest differences, in order."""
    n = len(arrays[0])
    score = np.zeros(n)
    for a, b in zip(_outputs(original, arrays), _outputs(rebuilt, arrays), strict=True):
        if a.shape == b.shape and a.ndim and len(a) == n:
            difference = np.abs(a.astype(np.float64) - b.astype(np.float64)).reshape(n, -1).max(axis=1)
            score = np.maximum(score, np.nan_to_num(difference, nan=np.inf))
    return np.sort(np.argsort(-score, kind="stable")[:WITNESSES])
