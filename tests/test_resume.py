"""A build that is killed in any of its stages goes on from there, and ends as if nothing had happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from running import Run, run_cli, run_until

pytestmark = pytest.mark.slow

# What shows on stderr when the build is in the stage; training is killed in its middle, after an epoch was kept.
MOMENTS = {
    "load": "[1/11] load",
    "baseline": "[2/11] baseline",
    "bridge": "[3/11] bridge",
    "prune": "epoch 3/8",
    "qat": "epoch 3/6",
    "convert": "[6/11] convert",
    "verify": "[7/11] verify",
    "benchmark": "[8/11] benchmark",
    "select": "[9/11] select",
    "test": "[10/11] test",
    "package": "[11/11] package",
}


def arguments(folder: Path, out: Path) -> list[str | Path]:
    files = [folder / "two.keras", "--data", folder / "two.npz"]
    return ["build", *files, "--recipe", "prune-qat", "--max-drop", "off", "--out", out]


@pytest.fixture(scope="module")
def undisturbed(two_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run_cli(*arguments(two_inputs, folder / "out"), cwd=folder, env={"EDGECOMPILE_CACHE": str(folder / "cache")})
    assert done.code == 0, done.err
    return folder / "out"


@pytest.fixture(scope="module")
def killed(two_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Run]]:
    """One build, killed once in every stage, then let run to its end."""
    folder = tmp_path_factory.mktemp("killed")
    env = {"EDGECOMPILE_CACHE": str(folder / "cache")}
    runs = {}
    for stage, moment in MOMENTS.items():
        runs[stage] = run_until(moment, *arguments(two_inputs, folder / "out"), cwd=folder, env=env)
    runs["end"] = run_cli(*arguments(two_inputs, folder / "out"), cwd=folder, env=env)
    return folder / "out", runs


def test_each_kill_hit_its_stage(killed: tuple[Path, dict[str, Run]]) -> None:
    _, runs = killed
    for stage, moment in MOMENTS.items():
        assert moment in runs[stage].err, f"{stage}: the build never got there:\n{runs[stage].err}"
    # A kill in the last stages can come too late to matter; in the others the build must have died of it.
    assert [stage for stage in list(MOMENTS)[:8] if runs[stage].code != -9] == []
    assert runs["end"].code == 0, runs["end"].err


def test_training_goes_on_from_its_last_epoch(killed: tuple[Path, dict[str, Run]]) -> None:
    _, runs = killed
    after_prune, after_qat = runs["qat"].err, runs["convert"].err
    for text, last in ((after_prune, "epoch 8/8"), (after_qat, "epoch 6/6")):
        assert "goes on from its checkpoint" in text
        assert "epoch 1/" not in text.split(last)[0].split("goes on from its checkpoint")[1]


@pytest.mark.parametrize("name", ["model.tflite", "golden.npz"])
def test_killed_build_ends_in_the_same_bytes(killed: tuple[Path, dict[str, Run]], undisturbed: Path, name: str) -> None:
    out, _ = killed
    assert (out / name).read_bytes() == (undisturbed / name).read_bytes()


def test_killed_build_ends_in_the_same_manifest(killed: tuple[Path, dict[str, Run]], undisturbed: Path) -> None:
    out, _ = killed
    assert timeless(out) == timeless(undisturbed)


def timeless(bundle: Path) -> dict[str, Any]:
    """A manifest without times and measured latencies, and without what is computed from them."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    for key in ("date", "measurement"):
        del manifest[key]
    del manifest["files"]["report.html"]
    for record in manifest["history"]:
        del record["seconds"], record["date"]
        if record["stage"] == "benchmark":
            del record["metrics"]
    for candidate in manifest["candidates"]:
        del candidate["latency_p50_ms"]
    manifest["gates"] = [gate for gate in manifest["gates"] if gate["name"] != "latency"]
    timed = ("latency", "init_time", "peak_rss")
    manifest["figures"] = [f for f in manifest["figures"] if not f["name"].startswith(timed)]
    for figure in manifest["figures"]:
        del figure["date"]
    return manifest
