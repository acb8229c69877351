"""Verdicts: how much a metric dropped, and whether an engine computes what the reference kernels do.

No I/O and numpy only: running models is others' work, judging their numbers is done here.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from edgecompile.errors import DataError, NonFiniteError
from edgecompile.metrics import RowScore
from edgecompile.task import Array, Arrays, Metric

Z95 = 1.959963984540054  # of the normal distribution, two-sided 95%
RESAMPLES = 1000

FLOAT_TOLERANCE = 1e-5  # of the output's range
XNNPACK_FACTOR = 3

# Parity is judged by XNNPACK's own distance to the reference kernels, which alone would let XNNPACK compute anything.
# So there are ceilings that no engine may pass.
# Float arithmetic in another order: 1e-6 to 1e-5 of the range is usual, a wrong kernel is off by tenths.
FLOAT_CEILING = 1e-3
# Integer arithmetic: kernels round differently, and a softmax can make 0.14 of the range of it for one sample of a
# correct int8 ResNet8. The error of all values together is robust: it was 0.08 of their magnitude there. 0.2 is a
# cosine similarity of 0.98, and unlike that it sees a wrong scale too.
ERROR_CEILING = 0.2
# Half precision rounds each value to 11 bits: some thousandths after many layers, and a softmax makes more of it.
HALF_CEILING = 0.05
# Key points, boxes and whatever else an argmax picks jump where two scores are close: three times such a jump is more
# than the whole range. From a quarter of it on, jumps are counted: XNNPACK's number of them is what an engine may have.
JUMP = 0.25
# Class numbers and the like: a wrong kernel gets a tenth of ten classes right, close ones may change places.
AGREEMENT_FLOOR = 0.75


def drops_in_points(metric: Metric, baseline: float, value: float) -> bool:
    """Whether `metric_drop` counts in percentage points rather than relative percent.

    A metric where lower is better is an error without an upper end: that both values happen to be below 1 doesn't
    make 0.01 -> 0.02 a small change.
    """
    return metric.higher_is_better and 0 <= baseline <= 1 and 0 <= value <= 1


def metric_drop(metric: Metric, baseline: float, value: float) -> float:
    """By how much `value` is worse than `baseline` (negative: better).

    In percentage points (0..100) for metrics in [0, 1], else in percent of the baseline; infinite where the baseline
    is 0 and the value is worse. NonFiniteError for NaN or infinite arguments.
    """
    if not (math.isfinite(baseline) and math.isfinite(value)):
        raise NonFiniteError(f"{metric.name} is {value} against a baseline of {baseline}: not a number to judge by")
    worse = baseline - value if metric.higher_is_better else value - baseline
    if drops_in_points(metric, baseline, value) or worse == 0:
        return 100 * worse
    return 100 * worse / abs(baseline) if baseline else math.copysign(math.inf, worse)


def paired_interval(
    metric: Metric, labels: Arrays, a_outputs: Arrays, b_outputs: Arrays, inputs: Arrays, seed: int = 0
) -> tuple[float, float]:
    """95% interval of (b's score - a's score), in the metric's unit, from the same samples run through both models.

    Where the metric is a mean over samples, a normal approximation on the differences; else a bootstrap over rows
    of labels (with their groups of inputs), the percentiles of 1,000 resamples drawn with `seed`.
    DataError for fewer than two rows of labels.
    """
    rows = len(next(iter(labels.values())))
    if rows < 2:
        raise DataError(f"an interval can't be given for {rows} labelled samples", hint="give at least two")
    if metric.per_sample is not None:
        a, b = (np.asarray(metric.per_sample(labels, out, inputs), np.float64) for out in (a_outputs, b_outputs))
        return _normal_interval(b - a)
    differences = _bootstrap(metric, labels, a_outputs, b_outputs, inputs, np.random.default_rng(seed))
    low, high = np.percentile(differences, [2.5, 97.5])
    return float(low), float(high)


def _normal_interval(differences: Array) -> tuple[float, float]:
    if np.isin(differences, (-1, 0, 1)).all():
        # Right or wrong: one more sample of each sort (Bonett and Price 2012) keeps the interval honest where few
        # answers or none changed; a variance of zero would claim certainty.
        differences = np.append(differences, (-1.0, 1.0))
        n = len(differences)
        half = Z95 * math.sqrt(differences.var() / n)
    else:
        n = len(differences)
        half = Z95 * math.sqrt(differences.var(ddof=1) / n)
    centre = float(differences.mean())
    return centre - half, centre + half


def _bootstrap(metric: Metric, labels: Arrays, a: Arrays, b: Arrays, inputs: Arrays, rng: np.random.Generator) -> Array:
    rows = len(next(iter(labels.values())))
    draws = (rng.integers(0, rows, rows) for _ in range(RESAMPLES))
    if isinstance(metric.score, RowScore):
        summary, (label,) = metric.score.summary, labels.values()
        a_rows, b_rows = (metric.score.rows(labels, out, inputs) for out in (a, b))
        found = [summary(label[i], b_rows[i]) - summary(label[i], a_rows[i]) for i in draws]
    else:
        group = len(next(iter(inputs.values()))) // rows

        def score(outputs: Arrays, index: Array) -> float:
            samples = (index[:, None] * group + np.arange(group)).ravel()

            def of(arrays: Arrays, chosen: Array) -> Arrays:
                return {name: array[chosen] for name, array in arrays.items()}

            return metric.score(of(labels, index), of(outputs, samples), of(inputs, samples))

        found = [score(b, i) - score(a, i) for i in draws]
    differences = np.asarray(found, np.float64)
    # A resample may miss a class altogether: AUC has no value there.
    differences = differences[np.isfinite(differences)]
    if not len(differences):
        raise DataError(f"{metric.name} has no value on these labels: is a class missing?")
    return differences


@dataclass(frozen=True)
class Allowance:
    """How far an engine's output may be from the reference kernels': all values but `beyond` of them at most
    `tolerance`, in the output's real unit. Of class numbers and the like, so many may be others, by whatever."""

    tolerance: float
    beyond: int = 0

    def wider(self, other: Allowance) -> Allowance:
        return Allowance(max(self.tolerance, other.tolerance), max(self.beyond, other.beyond))


@dataclass(frozen=True)
class Parity:
    """How far an engine's output is from the reference kernels', and the verdict.

    max_abs, range and tolerance are in the output's real unit (quantized values times their scale);
    relative = max_abs / range. lsb_histogram (quantized outputs only): {LSB apart: how many values}.
    size: how many values were compared. beyond: how many of them are farther off than the tolerance; allowed_beyond:
    how many may be. exact: every value is equal.
    """

    max_abs: float
    range: float
    relative: float
    cosine: float
    lsb_histogram: dict[int, int] | None
    tolerance: float
    beyond: int
    allowed_beyond: int
    passed: bool
    exact: bool
    size: int


def parity(
    candidate: Array,
    reference: Array,
    xnnpack: Array,
    scale: float | None,
    zero_point: int | None = None,
    *,
    floats: bool = False,
    step: float = 0.0,
    builtin: Array | None = None,
) -> Parity:
    """Judges `candidate` against `reference` by what `xnnpack`, XNNPACK's values for the same inputs, allows
    (`allowance`). All of one shape.

    scale, zero_point: of the output's quantization, None for floats and plain integers. floats, step, builtin: as
    `allowance` has them.
    DataError for different shapes or types and for nothing to compare; NonFiniteError for NaN or infinity.
    """
    _check_alike(xnnpack, reference, "XNNPACK")
    allowed = allowance(reference, xnnpack, scale, floats=floats, step=step, builtin=builtin)
    return judged(candidate, reference, allowed, scale, zero_point)


def allowance(
    reference: Array,
    xnnpack: Array,
    scale: float | None,
    *,
    floats: bool = False,
    step: float = 0.0,
    builtin: Array | None = None,
) -> Allowance:
    """What an engine may differ by, told by how far XNNPACK is from the reference kernels.

    Float outputs: the largest of 1e-5 of the range (which includes zero) and 3 x XNNPACK's own difference; of a model
    whose arithmetic is all float (`floats`), at most 1e-3 of the range. Integer outputs (`scale` their quantization's):
    XNNPACK's own difference. Both: one `step` (in the real unit) of the last quantized tensor at least, as kernels
    round one way or the other, and the difference of `builtin`, where LiteRT's other kernels are given: a step that one
    of the two rounds otherwise inside is more than one at the end. And a quarter of the range at most, beyond which as
    many values may be as three times (of integers: once) XNNPACK's differences are, a quarter of all at most.
    Plain integers, such as class numbers: 3 x as many others as XNNPACK has, a quarter of all at most.
    """
    if reference.size == 0:
        raise DataError("no output values to compare", hint="golden inputs must hold at least one sample")
    if scale is None and reference.dtype.kind in "iub":
        others = XNNPACK_FACTOR * int(np.count_nonzero(xnnpack != reference))
        if builtin is not None:
            others = max(others, int(np.count_nonzero(builtin != reference)))
        return Allowance(0.0, min(others, _disagreements(reference)))
    full = _range(reference, scale)
    apart = _apart(xnnpack, reference, scale)
    if scale is None:
        apart = XNNPACK_FACTOR * apart
    if builtin is not None:
        apart = np.maximum(apart, _apart(builtin, reference, scale))
    smallest = FLOAT_TOLERANCE * full if scale is None else 0.0
    tolerance = max(step + smallest, float(apart.max()))  # a step in floats is rounded, too
    most = (FLOAT_CEILING if floats else JUMP) * full
    if tolerance <= most:
        return Allowance(tolerance)
    jumps = 0 if floats else int(np.count_nonzero(apart > most))
    return Allowance(most, min(jumps, _disagreements(reference)))


def judged(
    candidate: Array,
    reference: Array,
    allowed: Allowance,
    scale: float | None = None,
    zero_point: int | None = None,
) -> Parity:
    """The verdict on `candidate`: within `allowed` of the reference value by value, and, but for plain integers, close
    to it as a whole. Errors as `parity`."""
    _check_alike(candidate, reference, "candidate")
    if reference.size == 0:
        raise DataError("no output values to compare", hint="golden inputs must hold at least one sample")
    integer = reference.dtype.kind in "iub"
    if integer:
        candidate, reference_as = candidate.astype(np.int64), reference.astype(np.int64)
    else:
        for name, array in (("candidate", candidate), ("reference", reference)):
            _check_finite(name, array)
        candidate, reference_as = candidate.astype(np.float64), reference.astype(np.float64)
    full, apart = _range(reference, scale), _apart(candidate, reference_as, scale)
    zero = zero_point or 0
    beyond = int(np.count_nonzero(apart > allowed.tolerance * (1 + 1e-9)))
    if integer and scale is None:
        close = True  # how far class numbers are apart says nothing
    else:
        close = alike(candidate - zero, reference_as - zero, 1.0 if integer else FLOAT_TOLERANCE * full)
    max_abs = float(apart.max())
    return Parity(
        max_abs=max_abs,
        range=full,
        relative=max_abs / full,
        cosine=cosine(candidate - zero, reference_as - zero),
        lsb_histogram=_histogram(candidate, reference_as) if integer else None,
        tolerance=allowed.tolerance,
        beyond=beyond,
        allowed_beyond=allowed.beyond,
        passed=beyond <= allowed.beyond and close,
        exact=max_abs == 0,
        size=reference.size,
    )


def half_parity(candidate: Array, reference: Array) -> Parity:
    """Judges outputs computed in half precision against float32 ones of the same shape: the largest difference within
    5% of the range, which includes zero, and the error of all values within 5% of their magnitude. Of class numbers and
    the like, as many have to be equal as `parity` asks for. Values that are no numbers fail.

    DataError as `parity`.
    """
    if reference.dtype.kind in "iub":
        return judged(candidate, reference, Allowance(0.0, _disagreements(reference)))
    allowed = Allowance(HALF_CEILING * _range(reference, None))
    finite = np.isfinite(candidate)
    if not finite.all():
        found = judged(np.where(finite, candidate, 0), reference, allowed)
        return dataclasses.replace(found, max_abs=float(np.finfo(np.float32).max), passed=False)
    found = judged(candidate, reference, allowed)
    error, magnitude = (_rms(a) for a in (candidate.astype(np.float64) - reference, reference))
    close = error <= HALF_CEILING * max(magnitude, FLOAT_TOLERANCE * found.range)
    return dataclasses.replace(found, passed=bool(found.passed and close))


def told(verdict: Parity) -> str:
    """What is wrong with an output, as a clause."""
    if verdict.beyond <= verdict.allowed_beyond:
        return f"computes something else (cosine similarity {verdict.cosine:.3f})"
    if verdict.allowed_beyond:
        return (
            f"has {verdict.beyond} of {verdict.size} values that differ by more than {verdict.tolerance:.3g}, allowed "
            f"{verdict.allowed_beyond}"
        )
    return f"differs by {verdict.max_abs:.3g}, allowed {verdict.tolerance:.3g}"


def _check_alike(array: Array, reference: Array, name: str) -> None:
    if array.shape != reference.shape or array.dtype.kind != reference.dtype.kind:
        raise DataError(
            f"the {name}'s output is {array.dtype} {list(array.shape)}, expected {reference.dtype} "
            f"{list(reference.shape)} as the reference's"
        )
    _check_finite(name, array)


def _check_finite(name: str, array: Array) -> None:
    if array.dtype.kind == "f" and (bad := int(np.count_nonzero(~np.isfinite(array)))):
        raise NonFiniteError(f"{bad} of {array.size} values of the {name}'s output are NaN or infinite")


def _range(reference: Array, scale: float | None) -> float:
    """Of an output, in its real unit: of floats, between the ends of its values and zero; of quantized integers, of
    their type; of plain ones, of their values, as their type's says nothing. Never 0: 1 makes limits absolute."""
    if reference.dtype.kind not in "iub":
        values = reference.astype(np.float64)
        return float(max(values.max(), 0.0) - min(values.min(), 0.0)) or 1.0
    if scale is not None and reference.dtype.kind != "b" and reference.dtype.itemsize <= 2:
        return float(2 ** (8 * reference.dtype.itemsize) - 1) * scale
    return max(1, int(reference.max()) - int(reference.min())) * (1.0 if scale is None else scale)


def _apart(a: Array, b: Array, scale: float | None) -> Array:
    """|a - b| in the real unit, float64; integers don't wrap around."""
    if b.dtype.kind in "iub":
        whole: Array = np.abs(a.astype(np.int64) - b.astype(np.int64)) * (1.0 if scale is None else scale)
        return whole
    distance: Array = np.abs(a.astype(np.float64) - b.astype(np.float64))
    return distance


def _histogram(candidate: Array, reference: Array) -> dict[int, int]:
    distances, counts = np.unique(np.abs(candidate - reference), return_counts=True)
    return {int(d): int(c) for d, c in zip(distances, counts, strict=True)}


def _disagreements(reference: Array) -> int:
    """How many values may be others at most, whatever XNNPACK does."""
    return int((1 - AGREEMENT_FLOOR) * reference.size)


def alike(candidate: Array, reference: Array, smallest: float) -> bool:
    """Whether the error of all values together is within the ceiling, or below `smallest`, where rounding hides."""
    return _rms(candidate - reference) <= max(ERROR_CEILING * _rms(reference), smallest)


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def cosine(a: Array, b: Array) -> float:
    """Cosine similarity of two arrays read as vectors, in [-1, 1]; 1 for two zero vectors, 0 where one is zero."""
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    largest = float(np.abs(a).max(initial=0)), float(np.abs(b).max(initial=0))
    if not all(largest):
        return 1.0 if largest == (0, 0) else 0.0
    a, b = a / largest[0], b / largest[1]  # so that squares neither overflow nor vanish
    return float(np.clip(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)), -1, 1))


def snr_db(candidate: Array, reference: Array) -> float:
    """Signal-to-noise ratio in dB: the reference's power over the difference's; infinite where they are equal."""
    signal, noise = reference.astype(np.float64), candidate.astype(np.float64) - reference.astype(np.float64)
    power, error = float(np.square(signal).sum()), float(np.square(noise).sum())
    if error == 0:
        return math.inf
    return 10 * math.log10(power / error) if power else -math.inf
