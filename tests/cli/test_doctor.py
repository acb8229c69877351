"""`edgecompile doctor`, and how it reads requirements."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import run_cli

from edgecompile.doctor import Package, diagnose, parse_requirement, satisfies
from edgecompile.errors import MissingDependencyError
from edgecompile.target import target_ids

NOT_THERE = """
import sys
sys.modules.update(dict.fromkeys({names!r}))  # None: an import of it is an ImportError
from edgecompile.cli import main
main(["doctor"])
"""


def test_this_machine_can_build(tmp_path: Path) -> None:
    done = run_cli("doctor", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["problems"] == []
    packages = {package["name"]: package for package in found["packages"]}
    assert packages["tensorflow"]["installed"] == importlib.metadata.version("tensorflow")
    assert packages["tensorflow"]["fits"]
    assert packages["pytest"]["extra"] == "test"
    assert found["system"]["cpu"]
    assert list(found["targets"]) == target_ids()
    assert found["targets"]["host"] is None
    assert found["cache"]["free_bytes"] > 0
    text = run_cli("doctor", cwd=tmp_path).out
    assert "tensorflow " in text
    assert "targets" in text


def test_missing_data_are_named_and_no_failure(tmp_path: Path) -> None:
    done = run_cli("doctor", cwd=tmp_path, env={"EDGECOMPILE_DATA": ""})
    assert done.code == 0
    assert "cifar10/train_labels.csv" in done.out
    done = run_cli("doctor", cwd=tmp_path, env={"EDGECOMPILE_DATA": str(tmp_path / "absent")})
    assert done.code == 0
    assert "which is not a folder" in done.out


def test_a_cache_folder_that_can_not_be_written_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run_cli("doctor", cwd=tmp_path, env={"EDGECOMPILE_CACHE": str(tmp_path / "file" / "cache")})
    assert done.code == MissingDependencyError.exit_code
    assert "EDGECOMPILE_CACHE" in done.err
    assert "Traceback" not in done.err


def test_it_runs_where_other_packages_can_not_be_imported(tmp_path: Path) -> None:
    code = NOT_THERE.format(names=["numpy", "rich", "tensorflow", "jinja2"])
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "packages" in done.stdout
    assert "numpy" in done.stdout


def test_a_missing_package_fails_with_its_name() -> None:
    absent = dataclasses.replace(diagnose(), problems=("numpy>=1.26 is needed, none is installed",))
    with pytest.raises(MissingDependencyError, match="numpy"):
        absent.enforce()
    assert not Package("numpy", ">=1.26", None, None).fits
    assert not Package("numpy", ">=1.26,<2", "2.0.1", None).fits


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("numpy<3,>=1.26", ("numpy", ">=1.26,<3", None)),
        ('pytest-xdist<4,>=3.6; extra == "test"', ("pytest-xdist", ">=3.6,<4", "test")),
        ('tomli<3,>=2.0; python_version < "3.5"', None),
        ('tomli<3,>=2.0; python_version > "3.5"', ("tomli", ">=2.0,<3", None)),
        ("click", ("click", "", None)),
    ],
)
def test_requirements_are_read_as_pip_writes_them(line: str, expected: tuple[str, str, str | None] | None) -> None:
    found = parse_requirement(line)
    assert (found and (found.name, found.required, found.extra)) == expected


VERSIONS = st.lists(st.integers(0, 30), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(VERSIONS, VERSIONS)
def test_bounds_order_versions_as_numbers(a: list[int], b: list[int]) -> None:
    size = max(len(a), len(b))
    padded = [numbers + [0] * (size - len(numbers)) for numbers in (a, b)]
    have, want = (".".join(map(str, numbers)) for numbers in (a, b))
    assert satisfies(have, f">={want}") == (padded[0] >= padded[1])
    assert satisfies(have, f"<{want}") == (padded[0] < padded[1])
    assert satisfies(have, f">={want},<{want}") is False
    assert satisfies(f"{have}rc1", f">={have}")
