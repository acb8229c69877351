"""Verdicts: drops, intervals and parity, by properties and by hand-made cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompile import compare, metrics
from edgecompile.errors import DataError, NonFiniteError
from edgecompile.task import Metric

unit = st.floats(0, 1)


# ---- metric_drop


@given(unit, unit)
def test_drop_of_a_metric_in_0_1_is_in_points(baseline: float, value: float) -> None:
    drop = compare.metric_drop(metrics.accuracy, baseline, value)
    assert drop == pytest.approx(100 * (baseline - value))
    assert drop == -compare.metric_drop(metrics.accuracy, value, baseline)


@given(st.floats(1e-3, 1e6), st.floats(0, 1e6))
def test_drop_of_an_error_is_relative_and_positive_when_it_grows(baseline: float, value: float) -> None:
    drop = compare.metric_drop(metrics.mse, baseline, value)
    assert drop == pytest.approx(100 * (value - baseline) / baseline)
    assert (drop > 0) == (value > baseline)


def test_an_error_below_one_is_not_counted_in_points() -> None:
    """0.002 -> 0.012 is six times the error; as 'one point' it would pass a gate of 2%."""
    assert compare.metric_drop(metrics.mse, 0.002, 0.012) == pytest.approx(500)
    assert not compare.drops_in_points(metrics.mse, 0.002, 0.012)
    assert compare.drops_in_points(metrics.accuracy, 0.9, 0.8)


def test_drop_of_metrics_outside_0_1_and_of_zero() -> None:
    snr = Metric("snr", metrics.mse.score)
    assert compare.metric_drop(snr, 40.0, 39.0) == pytest.approx(2.5)
    assert compare.metric_drop(snr, -40.0, -41.0) == pytest.approx(2.5)
    assert compare.metric_drop(metrics.mse, 0.0, 0.0) == 0
    assert compare.metric_drop(metrics.mse, 0.0, 0.1) == math.inf
    with pytest.raises(NonFiniteError, match="nan"):
        compare.metric_drop(metrics.accuracy, math.nan, 0.5)


# ---- paired_interval


def answers(right: np.ndarray) -> dict[str, np.ndarray]:
    """Two-class scores that answer class 0 where `right`."""
    return {"scores": np.where(right[:, None], [1.0, 0.0], [0.0, 1.0])}


def accuracy_interval(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    labels = {"": np.zeros(len(a), int)}
    return compare.paired_interval(metrics.accuracy, labels, answers(a), answers(b), {"": np.zeros((len(a), 1))})


def test_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        a = rng.random(200) < 0.9
        b = a ^ (rng.random(200) < 0.04)  # flips each answer with 4%: truth is -0.04 * 0.9 + 0.04 * 0.1
        low, high = accuracy_interval(a, b)
        held += low <= -0.032 <= high
    assert 0.92 <= held / 400 <= 0.99


def test_interval_shrinks_with_the_square_root_of_the_samples() -> None:
    rng = np.random.default_rng(1)
    widths = []
    for n in (400, 1600, 6400):
        a = rng.random(n) < 0.8
        low, high = accuracy_interval(a, a ^ (rng.random(n) < 0.1))
        widths.append(high - low)
    assert 1.6 < widths[0] / widths[1] < 2.5
    assert 1.6 < widths[1] / widths[2] < 2.5


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60))
def test_interval_turns_with_its_arguments(pairs: list[tuple[bool, bool]]) -> None:
    a, b = np.array(pairs).T
    low, high = accuracy_interval(a, b)
    assert (-high, -low) == pytest.approx(accuracy_interval(b, a))
    assert low <= b.mean() - a.mean() <= high


def test_equal_answers_leave_doubt_that_falls_with_their_number() -> None:
    few, many = (accuracy_interval(np.ones(n, bool), np.ones(n, bool)) for n in (10, 1000))
    assert few[0] < many[0] < 0 < many[1] < few[1]
    assert many[1] < 0.004  # "rule of three": 3 / 1000


def test_interval_of_squared_errors_is_the_normal_one() -> None:
    rng = np.random.default_rng(2)
    y = rng.normal(size=500)
    a, b = y + rng.normal(size=500), y + 2 * rng.normal(size=500)
    low, high = compare.paired_interval(metrics.mse, {"": y}, {"y": a}, {"y": b}, {"": y})
    d = (b - y) ** 2 - (a - y) ** 2
    assert (low + high) / 2 == pytest.approx(d.mean())
    assert (high - low) / 2 == pytest.approx(1.96 * d.std(ddof=1) / math.sqrt(500), rel=1e-4)
    assert low < 3 < high  # expected: 4 - 1


def clips(rng: np.random.Generator, n: int, windows: int, gap: float) -> tuple[np.ndarray, np.ndarray]:
    """(labels, reconstruction of zeros): anomalies have errors that are larger by `gap`."""
    labels = np.arange(n) % 2
    return labels, np.repeat(np.abs(rng.normal(size=n) + gap * labels), windows)[:, None]


def test_bootstrap_of_auc_resamples_clips() -> None:
    rng = np.random.default_rng(3)
    labels, good = clips(rng, 80, 3, 3.0)
    _, bad = clips(rng, 80, 3, 0.0)
    inputs = {"": np.zeros((240, 1))}
    args = metrics.autoencoder_auc, {"": labels}, {"y": good}, {"y": bad}, inputs
    low, high = compare.paired_interval(*args)
    score = metrics.autoencoder_auc.score
    truth = score({"": labels}, {"y": bad}, inputs) - score({"": labels}, {"y": good}, inputs)
    assert low < truth < high < 0
    assert compare.paired_interval(*args) == (low, high)  # seeded
    assert compare.paired_interval(*args, seed=1) != (low, high)
    # The user's own metric, known by its score alone, goes the slow way to the same numbers.
    plain = Metric("auc", lambda *arrays: score(*arrays))
    assert compare.paired_interval(plain, *args[1:]) == pytest.approx((low, high))


def test_interval_needs_two_samples_and_a_metric_with_a_value() -> None:
    one = {"": np.zeros(1, int)}
    with pytest.raises(DataError, match="1 labelled samples"):
        compare.paired_interval(metrics.accuracy, one, {"y": np.eye(2)[:1]}, {"y": np.eye(2)[:1]}, one)
    same = {"": np.zeros(4, int)}
    x = {"": np.zeros((4, 1))}
    with pytest.raises(DataError, match="is a class missing"):
        compare.paired_interval(metrics.autoencoder_auc, same, x, x, x)


# ---- parity

REFERENCE = np.linspace(0, 2, 11, dtype=np.float32)


def test_float_parity_allows_1e5_of_the_range_or_three_times_xnnpack() -> None:
    near, far = REFERENCE + np.float32(1e-5), REFERENCE + np.float32(1e-3)
    assert compare.parity(near, REFERENCE, REFERENCE, None).passed
    verdict = compare.parity(far, REFERENCE, REFERENCE, None)
    assert not verdict.passed
    assert verdict.tolerance == pytest.approx(2e-5)
    assert verdict.range == 2
    assert verdict.relative == pytest.approx(5e-4, rel=1e-3)
    assert verdict.lsb_histogram is None
    assert compare.parity(far, REFERENCE, REFERENCE + np.float32(4e-4), None).passed
    assert not compare.parity(far, REFERENCE, REFERENCE + np.float32(2e-4), None).passed


def test_parity_of_equal_outputs_is_exact() -> None:
    verdict = compare.parity(REFERENCE, REFERENCE, REFERENCE, None)
    assert verdict.exact
    assert verdict.passed
    assert (verdict.max_abs, verdict.size) == (0, 11)
    assert verdict.cosine == pytest.approx(1)


def test_parity_of_an_output_of_zeros_is_absolute() -> None:
    zeros = np.zeros(3, np.float32)
    assert compare.parity(zeros + np.float32(9e-6), zeros, zeros, None).passed
    assert not compare.parity(zeros + np.float32(2e-5), zeros, zeros, None).passed


def test_quantized_parity_is_no_farther_than_xnnpack() -> None:
    reference = np.array([-128, 0, 5, 127], np.int8)
    xnnpack = np.array([-128, 1, 5, 127], np.int8)
    verdict = compare.parity(np.array([-127, 0, 5, 126], np.int8), reference, xnnpack, 0.5)
    assert verdict.passed
    assert not verdict.exact
    assert verdict.lsb_histogram == {0: 2, 1: 2}
    assert (verdict.max_abs, verdict.tolerance, verdict.range) == (0.5, 0.5, 127.5)
    two_apart = compare.parity(np.array([-128, 2, 5, 127], np.int8), reference, xnnpack, 0.5)
    assert not two_apart.passed
    assert not compare.parity(xnnpack, reference, reference, 0.5).passed  # XNNPACK exact: so must others be


def test_quantized_differences_do_not_wrap_around() -> None:
    low, high = np.array([-128], np.int8), np.array([127], np.int8)
    assert compare.parity(low, high, high, 1.0).lsb_histogram == {255: 1}


def test_quantized_cosine_is_taken_about_the_zero_point() -> None:
    reference = np.array([-128, -127], np.int8)
    candidate = np.array([-127, -128], np.int8)
    assert compare.parity(candidate, reference, candidate, 1.0, zero_point=-128).cosine == 0
    assert compare.parity(candidate, reference, candidate, 1.0).cosine > 0.99


def test_plain_integers_are_compared_as_they_are() -> None:
    classes = np.array([3, 7], np.int64)
    assert compare.parity(classes, classes, classes, None).exact
    assert not compare.parity(classes + 1, classes, classes, None).passed


def test_parity_refuses_what_cannot_be_compared() -> None:
    with pytest.raises(DataError, match=r"float32 \[10\], expected float32 \[11\]"):
        compare.parity(REFERENCE[1:], REFERENCE, REFERENCE, None)
    with pytest.raises(DataError, match="expected float32"):
        compare.parity(REFERENCE.astype(np.int8), REFERENCE, REFERENCE, None)
    with pytest.raises(DataError, match="no output values"):
        compare.parity(REFERENCE[:0], REFERENCE[:0], REFERENCE[:0], None)
    broken = REFERENCE.copy()
    broken[3] = np.nan
    for arrays in ((broken, REFERENCE, REFERENCE), (REFERENCE, broken, REFERENCE), (REFERENCE, REFERENCE, broken)):
        with pytest.raises(NonFiniteError, match="1 of 11 values"):
            compare.parity(*arrays, None)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20))
def test_cosine_is_within_bounds_and_one_for_itself(values: list[float]) -> None:
    a = np.array(values)
    assert compare.cosine(a, a) == pytest.approx(1)
    assert -1 <= compare.cosine(a, a[::-1]) <= 1
    assert compare.cosine(a, -a) == pytest.approx(-1 if a.any() else 1)


def test_snr() -> None:
    signal = np.array([3.0, 4.0])
    assert compare.snr_db(signal * 1.1, signal) == pytest.approx(20)
    assert compare.snr_db(signal, signal) == math.inf
    assert compare.snr_db(signal, signal * 0) == -math.inf


# ---- parity's ceilings: XNNPACK is judged too

SCORES = np.random.default_rng(5).dirichlet(np.full(10, 0.1), 16).astype(np.float32)  # like a softmax


def test_a_wrong_xnnpack_fails_by_float_arithmetic() -> None:
    for wrong in (SCORES[::-1], SCORES * 2, SCORES + np.float32(0.002)):
        verdict = compare.parity(wrong, SCORES, wrong, None, floats=True)
        assert not verdict.passed
        assert verdict.tolerance == pytest.approx(compare.FLOAT_CEILING * verdict.range)
    near = SCORES + np.float32(1e-5)
    assert compare.parity(near, SCORES, near, None, floats=True).passed


def test_a_wrong_xnnpack_fails_by_integer_arithmetic() -> None:
    for wrong in (SCORES[::-1], np.roll(SCORES, 1, axis=1), SCORES * 2, SCORES * 0):
        assert not compare.parity(wrong, SCORES, wrong, None).passed
        # No other engine may hide behind it.
        assert not compare.parity(SCORES[:, ::-1], SCORES, wrong, None).passed


def test_rounding_of_integer_kernels_passes() -> None:
    one_sample_off = SCORES.copy()
    top, second = np.argsort(SCORES[0])[-2:][::-1]
    one_sample_off[0, top] -= 0.137
    one_sample_off[0, second] += 0.137
    assert compare.parity(one_sample_off, SCORES, one_sample_off, None).passed
    assert not compare.parity(one_sample_off, SCORES, one_sample_off, None, floats=True).passed


def test_a_wrong_xnnpack_fails_with_quantized_outputs() -> None:
    reference = (np.round(SCORES * 255) - 128).astype(np.int8)  # most are at the zero point
    wrong = reference[::-1].copy()
    assert not compare.parity(wrong, reference, wrong, 1 / 256, -128).passed
    near = np.clip(reference.astype(int) + np.arange(160).reshape(16, 10) % 3 - 1, -128, 127).astype(np.int8)
    assert compare.parity(near, reference, near, 1 / 256, -128).passed


def test_one_lsb_of_noise_on_nothing_passes() -> None:
    nothing = np.zeros((16, 4), np.int8)
    assert compare.parity(nothing + np.int8(1), nothing, nothing + np.int8(1), 0.1, 0).passed


def test_half_precision_fails_what_is_no_number_and_counts_equal_classes() -> None:
    reference = np.linspace(-1, 1, 100, dtype=np.float32)
    broken = reference.copy()
    broken[3] = np.nan
    assert compare.half_parity(reference, reference).passed
    assert not compare.half_parity(broken, reference).passed
    classes = np.arange(1000)
    one_off = classes.copy()
    one_off[0] = 999  # far off, as numbers: they are none
    assert compare.half_parity(one_off, classes).passed
    assert not compare.half_parity(classes[::-1].copy(), classes).passed


def test_a_wrong_xnnpack_fails_with_class_numbers() -> None:
    classes = np.argmax(SCORES, axis=1)
    wrong = (classes + 1) % 10
    assert not compare.parity(wrong, classes, wrong, None).passed
    one_flipped = classes.copy()
    one_flipped[3] = (classes[3] + 1) % 10
    assert compare.parity(one_flipped, classes, one_flipped, None).passed
