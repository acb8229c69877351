"""How much of the weights is zero at which step of a training, by TF-MOT's schedules."""

from __future__ import annotations

POLYNOMIAL, CONSTANT = "polynomial", "constant"
SCHEDULES = (POLYNOMIAL, CONSTANT)

_UPDATES = 100  # on the way to the target: each is a sort of every kernel


def mask_updates(kind: str, sparsity: float, steps: int, begin: float, ramp: float) -> dict[int, float]:
    """{step: share of zeros from its end on}, for the steps (counted from 1 to `steps`) at which masks change.

    "polynomial": the cubic of Zhu and Gupta, "To prune, or not to prune" (2017), section 3, from 0 after the share
    `begin` of the steps to `sparsity` after the share `ramp`. "constant": all at once, in the step after `begin`.
    0 <= begin < ramp <= 1; the last value is `sparsity`, exactly.
    """
    import tensorflow as tf
    from tensorflow_model_optimization.sparsity.keras import ConstantSparsity, PolynomialDecay

    start = min(int(begin * steps), steps - 1)
    if kind == CONSTANT:
        schedule, frequency, end = ConstantSparsity(sparsity, start + 1, frequency=1), 1, start + 1
    else:
        end = max(start + 1, int(ramp * steps))
        frequency = max(1, (end - start) // _UPDATES)
        end = start + (end - start) // frequency * frequency
        schedule = PolynomialDecay(0.0, sparsity, start, end, frequency=frequency)
    shares = {step: float(schedule(tf.constant(step))[1]) for step in range(start + frequency, end, frequency)}
    return {**shares, end: sparsity}  # theirs is a float32, which may be a little less than what was asked for
