"""scripts/fuzz_inputs.py: its changes are the same for the same number, and what it finds is told."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
sys.path.insert(0, str(SCRIPTS))

import fuzz_inputs  # noqa: E402
from fuzz_rows import mutations, subjects  # noqa: E402


@pytest.fixture(scope="module")
def originals(
    digits_bundle: Path, two_inputs: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[bytes]]:
    import tf_keras

    folder = tmp_path_factory.mktemp("originals")
    np.savez(folder / "a.npz", x_train=np.zeros((4, 3)), y_train=np.arange(4))
    x = tf_keras.Input((3,), name="x")
    tf_keras.Model(x, tf_keras.layers.Dense(2, name="y")(x)).save(folder / "a.h5")
    return {
        "tflite": [(digits_bundle / "model.tflite").read_bytes()],
        "npz": [(folder / "a.npz").read_bytes()],
        "keras": [(two_inputs / "two.keras").read_bytes()],
        "h5": [(folder / "a.h5").read_bytes()],
        "recipe": [subjects.RECIPE.encode()],
        "target": [(SCRIPTS.parent / "targets" / "rpi4.toml").read_bytes()],
        "project": [subjects.PROJECT.encode()],
        "manifest": [(digits_bundle / "manifest.json").read_bytes()],
        "golden": [(digits_bundle / "golden.npz").read_bytes()],
    }


def test_every_change_is_one_and_can_be_made_again(originals: dict[str, list[bytes]]) -> None:
    assert set(originals) == set(subjects.COMMANDS) == set(subjects.PLACES) == set(mutations.OF_KIND)
    made = {mutation for each in mutations.OF_KIND.values() for mutation in each}
    assert len(made) > 15
    for kind, each in mutations.OF_KIND.items():
        for mutation in set(each):
            results = [mutation(originals[kind][0], random.Random(seed)) for seed in range(6)]
            assert any(result != originals[kind][0] for result in results), (kind, mutation.__name__)
    for number in range(60):
        first = fuzz_inputs.changed(originals, 0, number)
        assert first[:2] == fuzz_inputs.changed(originals, 0, number)[:2]
        assert first[2] not in originals[first[0]]


def row(code: Any) -> dict[str, Any]:
    return {"seed": 0, "number": 1, "kind": "npz", "mutation": "cut", "command": "x", "code": code, "seconds": 1.0}


def test_faults_are_told_from_answers() -> None:
    assert [fuzz_inputs.is_fault(row(code)) for code in (0, 2, 11, 41, 130)] == [False] * 5
    assert [fuzz_inputs.is_fault(row(code)) for code in (70, "hang", "signal 11", "traceback", -11)] == [True] * 5
    text = fuzz_inputs.summary([row(0), row(16), row(70)])
    assert "3 inputs: 3 of npz" in text
    assert "faults: 1\n" in text


@pytest.mark.slow
def test_two_rounds_of_all_kinds_end_in_answers_and_errors(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "fuzz_inputs.py"), "--count", "180", "--out", "rows.jsonl"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout
    assert "faults: 0" in done.stdout
    assert len([json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]) == 180
