"""Temperature, throttling and power as the runner reads them, from trees that stand for /sys."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_runner import KWS, execute, keywords

from edgecompile.devices.sustained import ranking
from edgecompile.devices.throttling import noticed
from edgecompile.ondevice import runner


def tree(root: Path, **files: object) -> Path:
    """Files by their path, `/` written as `__`."""
    for name, value in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return root


def test_power_of_the_whole_board_where_there_is_such_a_rail(tmp_path: Path) -> None:
    """As Jetson Orin has them: VDD_IN feeds the others."""
    hwmon = "class__hwmon__hwmon3__"
    rails = {"VDD_IN": (5000, 1200), "VDD_CPU_GPU_CV": (5000, 300), "NC": (5000, 200)}
    files: dict[str, object] = {f"{hwmon}name": "ina3221"}
    for number, (label, (millivolts, milliamperes)) in enumerate(rails.items(), start=1):
        files[f"{hwmon}in{number}_label"] = label
        files[f"{hwmon}in{number}_input"] = millivolts
        files[f"{hwmon}curr{number}_input"] = milliamperes
    meter = runner.power_meter(tree(tmp_path, **files))
    assert meter.name == "INA VDD_IN"
    assert meter.watts() == pytest.approx(6.0)


def test_power_of_rails_without_a_whole_is_their_sum(tmp_path: Path) -> None:
    """As Jetson AGX Xavier has them, in L4T 32's own files, in milliwatts."""
    device = "bus__i2c__drivers__ina3221x__1-0040__iio:device0__"
    files = {f"{device}rail_name_0": "GPU", f"{device}in_power0_input": 1500}
    files |= {f"{device}rail_name_1": "CPU", f"{device}in_power1_input": 700}
    meter = runner.power_meter(tree(tmp_path, **files))
    assert meter.name == "INA CPU, GPU"
    assert meter.watts() == pytest.approx(2.2)


def test_no_sensor_and_one_that_can_t_be_read(tmp_path: Path) -> None:
    assert runner.power_meter(tmp_path) is None
    assert (
        runner.power_meter(tree(tmp_path, class__hwmon__hwmon0__name="ina219", class__hwmon__hwmon0__curr1_input=""))
        is None
    )


def test_energy_counters_start_anew_at_their_range(tmp_path: Path) -> None:
    folder = "class__powercap__intel-rapl:0__"
    root = tree(
        tmp_path, **{f"{folder}name": "package-0", f"{folder}energy_uj": 900, f"{folder}max_energy_range_uj": 1000}
    )
    meter = runner.power_meter(root)
    assert meter.name == "RAPL"
    assert meter.watts() is None  # nothing to compare with yet
    time.sleep(0.05)
    tree(tmp_path, **{f"{folder}energy_uj": 400})
    assert 0 < meter.watts() <= 500e-6 / 0.05


def test_energy_of_an_inference(data: Path, tmp_path: Path) -> None:
    """On a board that draws 3 W whatever it does."""
    folder = "class__hwmon__hwmon0__"
    root = tree(
        tmp_path / "sys", **{f"{folder}name": "ina219", f"{folder}in1_input": 3000, f"{folder}curr1_input": 1000}
    )
    candidates = [{"id": "a", "model": str(data / KWS)}]
    code, events, _ = execute(
        tmp_path, {"x": keywords(data, 2)}, candidates=candidates, runs=50, energy_seconds=0.3, sysfs_root=str(root)
    )
    assert code == 0
    result = next(event for event in events if event["event"] == "result")
    energy = result["energy"]
    assert energy["watts"] == energy["idle_watts"] == pytest.approx(3.0)
    assert energy["inferences"] > 10
    assert energy["mj"] == pytest.approx(3.0 * 1000 * 0.3 / energy["inferences"], rel=0.35)


def quiet(at: float, latency: float, degrees: float) -> dict[str, Any]:
    throttling = {"count": None, "cooling": {}, "firmware": None}
    return {
        "at": at,
        "p50_ms": {"a": latency},
        "temperatures": {"cpu": degrees},
        "mhz": [1500.0],
        "throttling": throttling,
    }


@pytest.mark.parametrize(
    ("change", "settled"),
    [
        (lambda window: window.update(at=window["at"]), True),
        (lambda window: window["p50_ms"].update(a=1.05), False),
        (lambda window: window["temperatures"].update(cpu=63.0), False),
    ],
    ids=["steady", "slower", "warmer"],
)
def test_settled_is_when_neither_latency_nor_temperature_moves(change: Callable[[Any], None], settled: bool) -> None:
    windows = [quiet(10.0 * i, 1.0, 60.0) for i in range(1, 13)]
    assert not runner.steady(windows[:11], 120.0)
    for window in windows[6:]:
        change(window)
    assert runner.steady(windows, 120.0) == settled


def test_a_board_that_warms_slowly_has_not_settled() -> None:
    """Three degrees a minute are a quarter of one between two windows of five seconds."""
    windows = [quiet(5.0 * i, 1.0, 40.0 + 0.25 * i) for i in range(1, 25)]
    assert not runner.steady(windows, 120.0)


def test_a_sustained_run_sees_the_board_warm_up(data: Path, tmp_path: Path) -> None:
    zone, cooling = "class__thermal__thermal_zone0__", "class__thermal__cooling_device0__"
    root = tmp_path / "sys"
    tree(
        root,
        **{
            f"{zone}type": "cpu",
            f"{zone}temp": 40_000,
            f"{cooling}type": "thermal-cpufreq-0",
            f"{cooling}cur_state": 0,
        },
    )

    def warm_up() -> None:
        for step in range(1, 8):
            time.sleep(0.1)
            tree(root, **{f"{zone}temp": 40_000 + 6_000 * step, f"{cooling}cur_state": step // 3})

    candidates = [
        {"id": name, "model": str(data / KWS), "xnnpack": name == "xnnpack"} for name in ("xnnpack", "builtin")
    ]
    heater = threading.Thread(target=warm_up)
    heater.start()
    code, events, _ = execute(
        tmp_path, {"x": keywords(data, 2)}, candidates=candidates, sysfs_root=str(root),
        sustain_seconds=20, window_seconds=0.2, settle_seconds=1.5,
    )  # fmt: skip
    heater.join()
    assert code == 0
    windows = [event for event in events if event["event"] == "window"]
    heat = [window["temperatures"]["cpu"] for window in windows]
    assert heat == sorted(heat)
    assert heat[-1] == 82.0
    assert [window["at"] for window in windows] == sorted(window["at"] for window in windows)
    assert set(windows[0]["p50_ms"]) == {"xnnpack", "builtin"}
    before, after = (event for event in events if event["event"] == "facts")
    assert noticed(before, after, windows) == ["thermal-cpufreq-0 0 cooled by a lower clock (state 2)"]
    assert all(len(event["times_ms"]) > 10 for event in events if event["event"] == "result")


def test_a_ranking_may_turn_over() -> None:
    def window(at: float, a: float, b: float) -> dict[str, Any]:
        return {**quiet(at, a, 50.0), "p50_ms": {"a": a, "b": b}}

    windows = [
        window(10, 9, 2),
        window(20, 1, 2),
        window(30, 1, 2),
        window(60, 1, 2),
        *(window(t, 3, 2) for t in (70, 80, 90)),
    ]
    first, second = ranking(windows)
    assert (first.id, first.first_place, first.last_place, first.change) == ("b", 2, 1, 0.0)
    assert (second.id, second.first_place, second.last_place, second.change) == ("a", 1, 2, 2.0)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"count": 3}, {"count": 5}, ["cores were slowed down 2 times for heat"]),
        ({"count": 3}, {"count": 3}, []),
        ({"firmware": 0x0}, {"firmware": 0x0}, []),
        ({"firmware": 0x50000}, {"firmware": 0x50000}, []),  # before this run
        ({"firmware": 0x0}, {"firmware": 0x50005}, ["the voltage was too low", "it was throttled"]),
        ({"firmware": 0x50000}, {"firmware": 0xD0000}, ["it reached its soft heat limit"]),
    ],
)
def test_what_a_machine_tells_of_being_slowed_down(before: Any, after: Any, expected: list[str]) -> None:
    none = {"count": None, "cooling": {}, "firmware": None}
    assert noticed({"throttling": none | before}, {"throttling": none | after}, []) == expected


def test_a_falling_clock_is_noticed() -> None:
    facts = {"throttling": quiet(0, 1, 40)["throttling"]}
    windows = [
        {**quiet(10.0 * i, 1.0, 60.0), "mhz": [1500.0, clock]} for i, clock in enumerate((2000.0, 1990.0, 1400.0))
    ]
    assert noticed(facts, facts, windows) == ["the clock of cluster 1 fell from 2000 to 1400 MHz"]
