"""Which candidate a build takes, of what was measured."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from edgecompile import golden
from edgecompile.backends.base import Candidate
from edgecompile.cache import Cache
from edgecompile.devices.local import LocalDevice
from edgecompile.manifest import EMULATED, MEASURED
from edgecompile.measure import Measurement, measure
from edgecompile.pipeline import select

PREFERRED, OTHER, SLOW = (Candidate(name, "litert", Path("m.tflite"), 1) for name in ("preferred", "other", "slow"))
ALL = [PREFERRED, OTHER, SLOW]


def measured(preferred: float, other: float, label: str = MEASURED, **more: Any) -> Measurement:
    results = {"preferred": {"p50": preferred}, "other": {"p50": other}, "slow": {"p50": 50.0}}
    return Measurement("here", 1, "2025-01-01", results, {}, "key", 1.0, label=label, **more)


def test_the_fastest_is_taken() -> None:
    assert select(ALL, measured(10.0, 8.0)) == (OTHER, "measured fastest of 3")
    assert select(ALL, measured(8.0, 10.0)) == (PREFERRED, "measured fastest of 3")
    assert select(ALL, measured(10.0, 8.0, EMULATED)) == (OTHER, "fewest instructions of 3, counted by an emulator")


def test_preference_decides_where_the_difference_is_none() -> None:
    assert select(ALL, measured(10.2, 10.0)) == (PREFERRED, "preferred: within 3% of the fastest of 3")
    assert select(ALL, measured(10.4, 10.0)) == (OTHER, "measured fastest of 3")
    assert select(ALL, None) == (PREFERRED, "taken by preference, not measured: there is no device")


def test_a_run_off_has_the_last_word() -> None:
    """Its median: one process that was disturbed changes nothing."""
    winner, why = select(ALL, measured(10.0, 10.1, run_off={"preferred": [8.8, 8.9, 8.7], "other": [8.0, 9.5, 8.1]}))
    assert winner == OTHER
    assert why == ("measured fastest of 3 (close, so measured in 3 more processes: other 8.10 ms, preferred 8.80 ms)")


def test_preference_decides_what_a_run_off_leaves_open() -> None:
    """Not where each of its processes had the same order, however small the difference: the machine may have been so
    slow meanwhile that engines looked alike."""
    winner, why = select(ALL, measured(10.5, 10.0, run_off={"preferred": [8.2, 8.2, 7.9], "other": [8.0, 8.1, 8.1]}))
    assert winner == PREFERRED
    assert why.startswith("preferred: within 3% of the fastest of 3 (close, so")
    winner, why = select(ALL, measured(10.5, 10.0, run_off={"preferred": [3.7, 4.94, 5.0], "other": [3.4, 4.9, 4.9]}))
    assert winner == OTHER
    assert why.startswith("measured fastest of 3 (close, so")


def test_what_one_process_does_not_tell_apart_runs_again(digits_bundle: Path, tmp_path: Path) -> None:
    model, inputs = digits_bundle / "model.tflite", golden.read(digits_bundle / "golden.npz", golden.INPUTS)
    candidates = [Candidate(name, "litert", model, 1, {"xnnpack": True}) for name in ("one", "same", "not for choice")]
    found, cached = measure(
        LocalDevice(), candidates, inputs[golden.INPUTS], depends=(), cache=Cache(tmp_path), again=False,
        report=lambda _: None, choose=["one", "same"],
    )  # fmt: skip
    p50s = [found.p50(name) for name in ("one", "same")]
    close = max(p50s) <= 1.1 * min(p50s)  # else a neighbour kept one of them from the CPU
    assert set(found.run_off) == ({"one", "same"} if close else set())
    assert all(len(times) == 3 and statistics.median(times) > 0 for times in found.run_off.values())
    again, cached = measure(
        LocalDevice(), candidates, inputs[golden.INPUTS], depends=(), cache=Cache(tmp_path), again=False,
        report=lambda _: None, choose=["one", "same"],
    )  # fmt: skip
    assert cached
    assert again.run_off == found.run_off


def test_a_single_one_needs_no_run_off(digits_bundle: Path, tmp_path: Path) -> None:
    inputs = golden.read(digits_bundle / "golden.npz", golden.INPUTS)[golden.INPUTS]
    candidate = Candidate("alone", "litert", digits_bundle / "model.tflite", 1, {"xnnpack": True})
    found, _ = measure(
        LocalDevice(), [candidate], inputs, depends=(), cache=Cache(tmp_path), again=False, report=lambda _: None,
        choose=["alone"],
    )  # fmt: skip
    assert found.run_off == {}
