"""`edgecompile bench --on`: what is printed, and the page of a sustained run, of boards on loopback."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from devices.sshd import Sshd, left
from running import Run, command, run_cli

from edgecompile.errors import ConnectionFailedError
from edgecompile.measure import ENERGY_SECONDS
from edgecompile.ondevice import runner

KWS = "models/mlperf_tiny/kws/kws_ref_model.tflite"
ZONE, COOLING = "class/thermal/thermal_zone0", "class/thermal/cooling_device0"
CLOCK = "devices/system/cpu/cpufreq/policy0"


class Boards:
    """An inventory of its own, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {"EDGECOMPILE_CONFIG": str(folder / "config")}

    def run(self, *arguments: str | Path) -> Run:
        return run_cli(*arguments, cwd=self.folder, env=self.environment)

    def run_with(self, line_part: str, then: Callable[[], None], *arguments: str | Path) -> Run:
        """As `run`; `then` is called as soon as a line with `line_part` shows on stderr."""
        out = self.folder / "stdout"
        with out.open("wb") as file:
            process = subprocess.Popen(
                command(*arguments), cwd=self.folder, env={**os.environ, **self.environment},
                stdout=file, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
        lines = []
        assert process.stderr is not None
        for line in process.stderr:
            if line_part in line and not any(line_part in before for before in lines):
                then()
            lines.append(line)
        return Run(process.wait(timeout=60), out.read_text(), "".join(lines))

    def add(self, name: str, sshd: Sshd, *more: str | Path) -> None:
        files = ("--identity", sshd.folder / "user", "--known-hosts", sshd.folder / "known_hosts")
        done = self.run("devices", "add", name, sshd.address.url, *files, *more)
        assert done.code == 0, done.err


@pytest.fixture
def boards(tmp_path: Path) -> Boards:
    return Boards(tmp_path)


class Sysfs:
    """A tree that stands for a board's /sys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._write(f"{ZONE}/type", "cpu-thermal")
        self._write(f"{COOLING}/type", "thermal-cpufreq-0")
        self._write(f"{CLOCK}/related_cpus", "0 1")
        self._write(f"{CLOCK}/scaling_governor", "performance")
        self._write(f"{CLOCK}/cpuinfo_max_freq", 1_800_000)
        self._write(f"{CLOCK}/scaling_max_freq", 1_800_000)
        self.be(45, 0, 1_800_000)

    def _write(self, name: str, value: object) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")

    def be(self, degrees: int, cooling: int, clock: int) -> None:
        self._write(f"{ZONE}/temp", 1000 * degrees)
        self._write(f"{COOLING}/cur_state", cooling)
        self._write(f"{CLOCK}/scaling_cur_freq", clock)


def rows(text: str, first_word: str) -> list[list[str]]:
    """Of the printed table whose heading begins so: its cells, that are two blanks apart."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(first_word))
    found = []
    for line in lines[start:]:
        cells = re.split(r" {2,}", line.strip())
        if len(cells) < 2:
            break
        found.append(cells)
    return found


def medians(windows: list[dict[str, Any]]) -> dict[str, float]:
    return {name: statistics.median(w["p50_ms"][name] for w in windows) for name in windows[0]["p50_ms"]}


def test_a_sustained_run_ranks_at_first_and_at_the_end(boards: Boards, sshd: Sshd, data: Path) -> None:
    """On a board whose temperature and clock are a tree's: figures are simulated, and say so."""
    sysfs = Sysfs(sshd.folder / "sysfs")
    boards.add("hot", sshd, "--sysfs-root", sysfs.folder)
    bench = ("bench", data / KWS, "--kernels", "both", "--on", "hot", "--sustain", "5s", "--report", "hot.html")
    xnnpack, builtin = f"{data / KWS} xnnpack", f"{data / KWS} builtin"
    # Its second window, and all after that, are hot.
    done = boards.run_with("rounds", lambda: sysfs.be(85, 2, 1_200_000), *bench)
    assert done.code == 0, done.err
    heading, *ranked = rows(done.out, "sustained")
    assert re.fullmatch(r"at 2\.\d s", heading[1])
    assert heading[2:] == ["place", "end", "place", "change"]
    assert [(row[0], row[2], row[4]) for row in ranked] == [(xnnpack, "1", "1"), (builtin, "2", "2")]
    assert re.search(r"^after 5\.\d s: not settled yet: the time was over$", done.out, re.MULTILINE)
    assert re.search(r"^simulated on .* \(hot\), governor ", done.out, re.MULTILINE)
    assert "slowed down: thermal-cpufreq-0 0 cooled by a lower clock (state 2)" in done.err
    assert "slowed down: the clock of cluster 0 fell from 1800 to 1200 MHz" in done.err
    page = unescape((boards.folder / "hot.html").read_text())
    assert "Simulated, " in page
    assert f"p50, {heading[1]}</th>" in page
    assert "the clock of cluster 0 fell from 1800 to 1200 MHz" in page
    for row in ranked:
        assert f"<td>{row[0]}</td>" in page
        assert all(f'<td class="n">{cell}</td>' in page for cell in row[1:])
    assert re.search(r"hottest zone: 45\.0 °C at first, 85\.0 °C at the end", page)
    assert len(re.findall(rf"{re.escape(xnnpack)}, \d\.\d s: ", page)) == 5  # a point of its curve a window
    (group,) = json.loads(boards.run(*bench, "--json").out)
    assert {figure["label"] for figure in group["figures"]} == {"simulated"}
    windows, ranking = group["windows"], group["ranking"]
    assert ranking["first_seconds"] == windows[-1]["at"] / 2
    assert ranking["last_seconds"] == windows[-1]["at"]
    first = medians([w for w in windows if w["at"] <= ranking["first_seconds"]])
    last = medians(windows[-3:])
    assert [row["of"] for row in ranking["rows"]] == sorted(last, key=lambda name: last[name])
    for row in ranking["rows"]:
        assert (row["first_p50_ms"], row["last_p50_ms"]) == (first[row["of"]], last[row["of"]])
        assert row["first_place"] == 1 + sorted(first.values()).index(first[row["of"]])
        assert row["change"] == pytest.approx(last[row["of"]] / first[row["of"]] - 1)


def test_boards_are_beside_each_other_and_one_that_stops_is_named(
    boards: Boards, sshd: Sshd, tmp_path: Path, data: Path
) -> None:
    other = Sshd(tmp_path / "other")
    try:
        boards.add("a", sshd)
        boards.add("b", other)
        assert boards.run("devices", "group", "farm", "a", "b").code == 0
        bench = ("bench", data / KWS, "--kernels", "both", "--on", "farm", "--sustain", "5s")
        done = boards.run_with("b: rounds", other.cut, *bench)
    finally:
        other.stop()
    assert done.code == ConnectionFailedError.exit_code
    assert f"the connection to {other.address.url} was cut" in done.err
    assert "the same command goes on from here" in done.err
    heading, *found = rows(done.out, "board")
    assert heading == ["board", "model", "p50", "p90", "what it is"]
    measured = {row[0]: row[1:] for row in rows(done.out, "model")[1:3]}  # a's own table, with the same figures
    assert found == [
        *(["a", name, measured[name][0], measured[name][1], "measured"] for name in measured),
        ["b", "failed, see below"],
    ]
    assert list(measured) == [f"{data / KWS} {kernels}" for kernels in ("xnnpack", "builtin")]
    assert done.out.count("measured on ") == 1
    assert left(other) == []
    assert left(sshd) == []


# A TX2's line: the rail that feeds the others counts.
TEGRASTATS = """#!/bin/sh
[ "$*" = "--interval 50" ] || exit 1
while echo "RAM 2020/7852MB CPU [9%@345,21%@345] GPU@41C VDD_SYS_GPU 153/158 VDD_IN 3140/3208 VDD_SYS_CPU 536/590"
do sleep 0.05; done
"""


@pytest.fixture
def with_tegrastats(boards: Boards, sshd: Sshd) -> Boards:
    """A board `jetson` whose power only that program tells."""
    if (own := runner.power_meter(Path("/sys"))) is not None:
        pytest.skip(f"this machine has a power sensor of its own: {own.name}")
    tools = sshd.folder / "bin"
    tools.mkdir()
    (tools / "tegrastats").write_text(TEGRASTATS)
    (tools / "tegrastats").chmod(0o755)
    sshd.set_environment(PATH=f"{tools}:/usr/local/bin:/usr/bin:/bin")
    boards.add("jetson", sshd)
    return boards


def test_power_by_tegrastats_becomes_energy_of_an_inference(with_tegrastats: Boards, sshd: Sshd, data: Path) -> None:
    done = with_tegrastats.run("bench", data / KWS, "--on", "jetson", "--runs", "5", "--json")
    assert done.code == 0, done.err
    (group,) = json.loads(done.out)
    assert group["environment"]["before"]["power_sensor"] == "tegrastats"
    figures = {figure["name"]: figure for figure in group["figures"]}
    power, energy = figures["power_mean"], figures["energy_mean"]
    assert (power["value"], power["unit"], energy["unit"]) == (pytest.approx(3.14), "W", "mJ")
    assert power["executed_on"] == energy["executed_on"]
    assert energy["executed_on"].endswith("on jetson, over SSH, tegrastats")
    inferences = energy["runs"]
    assert inferences > 10
    assert energy["value"] == pytest.approx(3140 * ENERGY_SECONDS / inferences, rel=0.35)
    printed = with_tegrastats.run("bench", data / KWS, "--on", "jetson", "--runs", "5").out
    said = (
        rf"{re.escape(str(data / KWS))} xnnpack: [\d.]+ mJ an inference, 3\.14 W \(idle 3\.14 W\), tegrastats, \d+ inf"
    )
    assert re.search(said, printed)
    assert left(sshd) == []


def test_energy_is_in_the_manifest_and_the_report(with_tegrastats: Boards, digits_bundle: Path) -> None:
    del digits_bundle  # whose stages the cache has
    options = ("--target", "host", "--on", "jetson", "--backends", "litert", "--remeasure", "--out", "bundle")
    done = with_tegrastats.run("build", "digits", "--recipe", "int8", *options)
    assert done.code == 0, done.err
    bundle = with_tegrastats.folder / "bundle"
    manifest = json.loads((bundle / "manifest.json").read_text())
    figures = {(f["name"], f["of"]): f for f in manifest["figures"]}
    assert figures["power_mean", "model"]["value"] == pytest.approx(3.14)
    page = unescape((bundle / "report.html").read_text())
    for of in ("source", "model"):
        assert f"{figures['energy_mean', of]['value']:.3g} mJ" in page
    assert "3.14 W" in page
    assert "over SSH, tegrastats" in page
