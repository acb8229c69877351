"""Packages that don't fit together: named with the command that mends them, by `doctor` and by what fails of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from running import run_cli

from edgecompile.environment import misfits
from edgecompile.errors import InternalError, MissingDependencyError, internal_error


@pytest.fixture
def old_protobuf(tmp_path: Path) -> dict[str, str]:
    """The environment in which Python finds a protobuf of 2022 first, which TensorFlow's generated code refuses."""
    folder = tmp_path / "old"
    (folder / "protobuf-3.20.3.dist-info").mkdir(parents=True)
    (folder / "protobuf-3.20.3.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: protobuf\nVersion: 3.20.3\n"
    )
    (folder / "google" / "protobuf").mkdir(parents=True)
    (folder / "google" / "protobuf" / "__init__.py").write_text(
        "raise TypeError('Descriptors cannot be created directly.')\n"
    )
    return {"PYTHONPATH": str(folder)}


def test_these_packages_fit() -> None:
    assert misfits() == []
    assert isinstance(internal_error("a fault", "report it"), InternalError)


def test_doctor_names_it_with_its_cure(old_protobuf: dict[str, str], tmp_path: Path) -> None:
    done = run_cli("doctor", cwd=tmp_path, env=old_protobuf)
    assert done.code == MissingDependencyError.exit_code
    assert "PROBLEM: tensorflow" in done.out
    assert "needs protobuf" in done.out
    assert "3.20.3 is installed" in done.out
    assert "Try: pip install 'protobuf" in done.err
    found = json.loads(run_cli("doctor", "--json", cwd=tmp_path, env=old_protobuf).out)
    assert any(cure.startswith("pip install 'protobuf") for cure in found["cures"])


def test_build_and_inspect_name_it_with_its_cure(
    old_protobuf: dict[str, str], two_inputs: Path, tmp_path: Path
) -> None:
    for command in (("build", "--recipe", "float", "--out", tmp_path / "out"), ("inspect",)):
        done = run_cli(command[0], two_inputs / "two.keras", *command[1:], cwd=tmp_path, env=old_protobuf)
        assert done.code == MissingDependencyError.exit_code, done.err
        assert "packages don't fit together: " in done.err
        assert "needs protobuf" in done.err
        assert "Try: pip install 'protobuf" in done.err
        assert "Traceback" not in done.err
