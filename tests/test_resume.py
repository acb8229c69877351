"""A build that is killed in any of its stages goes on from there, and ends as if nothing had happened."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from running import Run, run_cli, run_until

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Scenario:
    """moments: by stage, what shows on stderr when the build is in it; training is killed in its middle, after an
    epoch was kept. late: stages so short that the kill may come when they are over."""

    name: str
    options: tuple[str, ...]
    moments: dict[str, str]
    late: tuple[str, ...] = ("select", "test", "package")
    trained: dict[str, str] = field(default_factory=dict)  # stage: its last epoch


SCENARIOS = [
    Scenario(
        "keras3-prune-qat",
        ("two.keras", "--data", "two.npz", "--recipe", "prune-qat"),
        {
            "load": "[1/13] load",
            "baseline": "[2/13] baseline",
            "bridge": "[3/13] bridge",
            "prune": "epoch 3/8",
            "qat": "epoch 3/6",
            "convert": "[6/13] convert",
            "slim": "[7/13] slim",
            "verify": "[9/13] verify",
            "benchmark": "[10/13] benchmark",
            "select": "[11/13] select",
            "test": "[12/13] test",
            "package": "[13/13] package",
        },
        trained={"prune": "epoch 8/8", "qat": "epoch 6/6"},
    ),
    Scenario(
        "digits-int8",
        ("digits", "--recipe", "int8"),
        {"train": "epoch 12/30", "quantize": "[4/11] quantize"},
        trained={"train": "epoch 30/30"},
    ),
]


@dataclass(frozen=True)
class Outcome:
    """The bundle of the undisturbed build, and that of the build killed once in every stage, with its runs."""

    scenario: Scenario
    undisturbed: Path
    first: Run
    killed: Path
    runs: dict[str, Run]


@pytest.fixture(scope="module", params=SCENARIOS, ids=lambda s: s.name)
def outcome(request: pytest.FixtureRequest, two_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    scenario: Scenario = request.param

    def arguments(out: Path) -> list[str | Path]:
        options = [two_inputs / o if o.startswith("two.") else o for o in scenario.options]
        return ["build", *options, "--max-drop", "off", "--out", out]

    calm = tmp_path_factory.mktemp("undisturbed")
    first = run_cli(*arguments(calm / "out"), cwd=calm, env={"EDGECOMPILE_CACHE": str(calm / "cache")})
    assert first.code == 0, first.err
    folder = tmp_path_factory.mktemp("killed")
    env = {"EDGECOMPILE_CACHE": str(folder / "cache")}
    runs = {
        stage: run_until(moment, *arguments(folder / "out"), cwd=folder, env=env)
        for stage, moment in scenario.moments.items()
    }
    runs["end"] = run_cli(*arguments(folder / "out"), cwd=folder, env=env)
    return Outcome(scenario, calm / "out", first, folder / "out", runs)


def test_each_kill_hit_its_stage(outcome: Outcome) -> None:
    for stage, moment in outcome.scenario.moments.items():
        run = outcome.runs[stage]
        assert moment in run.err, f"{stage}: the build never got there:\n{run.err}"
        assert run.code == -9 or stage in outcome.scenario.late
    assert outcome.runs["end"].code == 0, outcome.runs["end"].err


def test_training_goes_on_from_its_last_epoch(outcome: Outcome) -> None:
    stages = list(outcome.runs)
    for stage, last in outcome.scenario.trained.items():
        text = outcome.runs[stages[stages.index(stage) + 1]].err
        resumed, _, rest = text.partition("goes on from its checkpoint")
        assert rest, f"{stage} did not resume:\n{text}"
        assert last in rest
        assert "epoch 1/" not in rest.split(last)[0]
        assert "epoch 1/" not in resumed


@pytest.mark.parametrize("name", ["model.tflite", "golden.npz"])
def test_killed_build_ends_in_the_same_bytes(outcome: Outcome, name: str) -> None:
    assert (outcome.killed / name).read_bytes() == (outcome.undisturbed / name).read_bytes()


def test_killed_build_ends_in_the_same_manifest(outcome: Outcome) -> None:
    assert timeless(outcome.killed) == timeless(outcome.undisturbed)


def test_the_bridge_tells_its_largest_difference(outcome: Outcome) -> None:
    if "bridge" in outcome.scenario.moments:
        assert "Keras 3 to tf-keras: maximal difference" in outcome.first.err
    else:
        assert "bridge" not in outcome.first.err


def timeless(bundle: Path) -> dict[str, Any]:
    """A manifest without times and measured figures, and without what is chosen by them."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    for key in ("date", "measurement", "winner", "manifest_sha256", "cautions"):
        del manifest[key]
    del manifest["files"]["report.html"]
    for step in manifest["steps"]:
        del step["seconds"]
    for record in manifest["history"]:
        del record["seconds"], record["date"]
        if record["stage"] == "benchmark":
            del record["metrics"]
    for candidate in manifest["candidates"]:
        del candidate["latency_p50_ms"]
    for rung in manifest["techniques"]:
        del rung["latency_p50"]
    manifest["gates"] = [gate for gate in manifest["gates"] if gate["name"] != "latency"]
    timed = ("latency", "init_time", "peak_rss")
    manifest["figures"] = [f for f in manifest["figures"] if not f["name"].startswith(timed)]
    for figure in manifest["figures"]:
        del figure["date"]
    return manifest
