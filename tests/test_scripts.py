"""The scripts a newcomer runs first: what they do on a machine that lacks something, and that they do nothing twice.

Python, pip and apt are stand-ins that write down how they were called; the real ones run whenever the suite itself is
set up by scripts/test.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edgecompile.loaders.interpreter import own_signature
from edgecompile.recipe import read_recipe
from edgecompile.tflite_file import read

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("quickstart", "test", "test-slow", "test-board", "lint", "system-packages")

# Stands for python3 and, copied there by its own `-m venv`, for .venv/bin/python.
PYTHON = """#!/usr/bin/env bash
case "$*" in
    "-m venv "*)
        mkdir -p "$3/bin"
        for name in python edgecompile ruff mypy; do cp "$0" "$3/bin/$name"; done ;;
    --version) echo "Python 3.11" ;;
    -c*) exec "{real}" "$@" ;;
    "-m pip --version") ;;
    *) echo "$(basename "$0") $*" >> "$CALLS" ;;
esac
"""


@dataclass(frozen=True)
class Checkout:
    """A copy of the scripts, with a folder of stand-ins that comes first on PATH."""

    root: Path
    bin: Path
    calls_file: Path

    def stand_in(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """The script, called by its full path from a folder that has nothing to do with it."""
        clean = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "EDGECOMPILE_DATA")}
        path = f"{self.bin}:{os.environ['PATH']}"
        return subprocess.run(
            [str(self.root / script), *arguments],
            cwd="/",
            env={**clean, "PATH": path, "CALLS": str(self.calls_file), **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def calls(self) -> list[str]:
        """What the stand-ins were called with since the last look."""
        if not self.calls_file.exists():
            return []
        lines = self.calls_file.read_text().splitlines()
        self.calls_file.unlink()
        return lines


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    root = tmp_path / "a folder" / "edgecompile"
    shutil.copytree(ROOT / "scripts", root / "scripts")
    shutil.copytree(ROOT / ".ci", root / ".ci")
    for name in ("setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, root)
    (tmp_path / "bin").mkdir()
    made = Checkout(root, tmp_path / "bin", tmp_path / "calls")
    made.stand_in("python3", PYTHON.format(real=sys.executable))
    return made


@pytest.mark.parametrize("script", [*(f"scripts/{name}" for name in SCRIPTS), ".ci/run"])
def test_is_an_executable_bash_script_that_stops_at_the_first_error(script: str) -> None:
    path = ROOT / script
    assert os.access(path, os.X_OK)
    first, *rest = path.read_text().splitlines()
    assert first == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in rest
    subprocess.run(["bash", "-n", str(path)], check=True)


@pytest.mark.parametrize(
    ("python", "expected"),
    [
        ("echo 3.9", "is Python 3.9; 3.10 to 3.13 are supported"),
        ("echo 3.14", "is Python 3.14; 3.10 to 3.13 are supported"),
        ('case "$2" in *version*) echo 3.12 ;; *) exit 1 ;; esac', "apt-get install python3-venv"),
        ("exit 1", "doesn't run"),
    ],
    ids=["too old", "too new", "no venv", "broken"],
)
@pytest.mark.parametrize("script", ["scripts/quickstart", "scripts/test"])
def test_a_python_that_will_not_do_is_a_clear_error(
    checkout: Checkout, script: str, python: str, expected: str
) -> None:
    checkout.stand_in("python-odd", f"#!/usr/bin/env bash\n{python}\n")
    done = checkout.run(script, PYTHON="python-odd")
    assert done.returncode == 1
    assert expected in done.stderr
    assert not (checkout.root / ".venv").exists()


def test_a_python_that_is_not_there_is_a_clear_error(checkout: Checkout) -> None:
    done = checkout.run("scripts/quickstart", PYTHON="python-absent")
    assert done.returncode == 1
    assert "there is no python-absent" in done.stderr


def test_quickstart_installs_once_and_builds_every_time(checkout: Checkout) -> None:
    install = "python -m pip install --quiet --disable-pip-version-check --editable ."
    build = "edgecompile build digits --target host"
    first = checkout.run("scripts/quickstart")
    assert first.returncode == 0, first.stderr
    assert checkout.calls() == [install, build]
    second = checkout.run("scripts/quickstart")
    assert ".venv is up to date" in second.stdout
    assert checkout.calls() == [build]
    with (checkout.root / "setup.cfg").open("a") as file:
        file.write("\n# a new requirement\n")
    checkout.run("scripts/quickstart")
    assert checkout.calls() == [install, build]


def test_a_failed_install_is_tried_again(checkout: Checkout) -> None:
    failing = PYTHON.format(real=sys.executable).replace("    *) echo", "    *install*) exit 1 ;;\n    *) echo")
    checkout.stand_in("python3", failing)
    assert checkout.run("scripts/quickstart").returncode != 0
    checkout.calls()
    checkout.stand_in("python", PYTHON.format(real=sys.executable))
    shutil.copy(checkout.bin / "python", checkout.root / ".venv/bin/python")
    assert checkout.run("scripts/quickstart").returncode == 0
    assert any("install" in call for call in checkout.calls())


def test_test_adds_its_extra_and_quickstart_then_leaves_it(checkout: Checkout) -> None:
    checkout.run("scripts/quickstart")
    checkout.calls()
    done = checkout.run("scripts/test", "tests/test_data.py", "-k", "npz files")
    assert done.returncode == 0, done.stderr
    install, tests = checkout.calls()
    assert install.endswith("--editable .[test]")
    assert tests.startswith("python -m pytest -m not slow ")
    assert tests.endswith("tests/test_data.py -k npz files")
    checkout.run("scripts/test-slow")
    assert checkout.calls()[0].startswith("python -m pytest -m slow ")
    checkout.run("scripts/lint")
    assert checkout.calls() == ["ruff check .", "ruff format --check .", "mypy "]
    checkout.run("scripts/quickstart")
    assert checkout.calls() == ["edgecompile build digits --target host"]


def test_a_moved_checkout_makes_its_venv_anew(checkout: Checkout) -> None:
    """The scripts inside a virtual environment hold its path."""
    checkout.run("scripts/quickstart")
    checkout.calls()
    moved = checkout.root.with_name("moved")
    checkout.root.rename(moved)
    done = Checkout(moved, checkout.bin, checkout.calls_file).run("scripts/quickstart")
    assert done.returncode == 0, done.stderr
    assert "removing .venv" in done.stdout
    assert any("install" in call for call in checkout.calls())


@pytest.mark.parametrize(("user", "expected"), [("1000", []), ("0", ["update", "install"])])
def test_system_packages_installs_what_is_missing_as_root_only(
    checkout: Checkout, user: str, expected: list[str]
) -> None:
    checkout.stand_in("dpkg-query", "#!/usr/bin/env bash\nexit 1\n")
    checkout.stand_in("id", f"#!/usr/bin/env bash\necho {user}\n")
    checkout.stand_in("apt-get", '#!/usr/bin/env bash\necho "$*" >> "$CALLS"\n')
    checkout.stand_in("python3", "#!/usr/bin/env bash\nexit 1\n")
    done = checkout.run("scripts/system-packages")
    assert done.returncode == 0, done.stderr
    assert {"python3-venv missing", "openssh-server missing"} <= {
        " ".join(line.split()[:2]) for line in done.stdout.splitlines()
    }
    calls = checkout.calls()
    assert [call.split()[0] for call in calls] == expected
    if expected:
        assert "python3-venv" in calls[-1]
        assert "--yes" in calls[-1]


def test_system_packages_leaves_apt_alone_where_nothing_is_missing(checkout: Checkout) -> None:
    checkout.stand_in("dpkg-query", "#!/usr/bin/env bash\nprintf installed\n")
    checkout.stand_in("id", "#!/usr/bin/env bash\necho 0\n")
    checkout.stand_in("apt-get", '#!/usr/bin/env bash\necho "$*" >> "$CALLS"\n')
    done = checkout.run("scripts/system-packages")
    assert done.returncode == 0, done.stderr
    assert checkout.calls() == []


def test_ci_runs_every_part_in_order_and_stops_at_a_failure(checkout: Checkout) -> None:
    for name in SCRIPTS:
        path = checkout.root / "scripts" / name
        path.write_text(f'#!/usr/bin/env bash\necho {name} >> "$CALLS"\n[ "${{FAILS:-}}" != {name} ]\n')
        path.chmod(0o755)
    done = checkout.run(".ci/run")
    assert done.returncode == 0
    assert checkout.calls() == ["system-packages", "test", "lint", "test-slow", "test-board"]
    assert done.stdout.count("passed in") == 6
    assert checkout.run(".ci/run", FAILS="test").returncode != 0
    assert checkout.calls() == ["system-packages", "test"]


@pytest.mark.slow
def test_the_overhead_benchmark_compares_like_with_like(tmp_path: Path) -> None:
    """It fails by itself where the bare calls and the build end in different models; times are not judged here."""
    row = tmp_path / "rows" / "overhead.json"
    command = [sys.executable, str(ROOT / "scripts/bench_overhead.py"), "--runs", "1", "--limit", "1000"]
    done = subprocess.run([*command, "--out", str(row)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(row.read_text())
    median = found["median"]
    assert median["bare"] > 0
    assert found["difference"] == pytest.approx(median["ours"] - median["bare"], abs=1e-3)
    assert [line.split()[0] for line in done.stdout.splitlines()[-3:]] == ["bare", "ours", "difference"]


@pytest.mark.parametrize(
    ("script", "page"), [("bench_compression.py", "compression.md"), ("bench_backends.py", "engines.md")]
)
def test_the_pages_of_figures_are_those_of_the_rows(script: str, page: str, tmp_path: Path) -> None:
    copy = tmp_path / "scripts"
    shutil.copytree(ROOT / "scripts", copy, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "docs" / "benchmarks", tmp_path / "docs" / "benchmarks")
    subprocess.run([sys.executable, copy / script, "--page"], check=True)
    stale = f"docs/{page} is stale: run scripts/{script} --page"
    assert (tmp_path / "docs" / page).read_text() == (ROOT / "docs" / page).read_text(), stale


def test_libraries_without_amx_go_by_the_names_of_their_candidates(data: Path, tmp_path: Path) -> None:
    """They take the places of a bundle's own, where a process is denied AMX."""
    out = tmp_path / "bundle"
    out.mkdir()
    shutil.copy(data / "models/mlperf_tiny/kws/kws_ref_model.tflite", out / "model.tflite")
    code = (
        "import json, pathlib; from engine_rows.building import best, libraries; "
        "isa = best('x86_64', ['avx2', 'fma', 'avx512f', 'avx512bw', 'avx512_vnni']); "
        f"found, _ = libraries(pathlib.Path({str(out)!r}), isa, 2); "
        "print(json.dumps({name: str(path) for name, path in found.items()}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "scripts", capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == {"tvm", "tvm-reference"}
    assert all(Path(path).is_file() for path in found.values())


def test_a_row_is_measured_where_it_was_not_built(
    digits_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All files travel in one folder, which may be named from where one is."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from engine_rows.measuring import Prepared, outputs

    model, inputs, expected = digits_bundle / "model.tflite", tmp_path / "x.npz", tmp_path / "y.npz"
    (spec,) = own_signature(read(model)).inputs
    np.savez(inputs, **{spec.name: np.random.default_rng(0).random((3, *spec.shape[1:]), np.float32)})
    candidates = tuple(
        {"id": name, "engine": "litert", "model": str(model), "xnnpack": xnnpack, "threads": 1, "version": "0"}
        for name, xnnpack in (("tvm", True), ("litert-builtin", False))
    )
    known = {"row": "digits", "winner": None, "candidates": {each["id"]: {"bytes": 1} for each in candidates}}
    row = Prepared(1, candidates, inputs, known, {"tvm": model}, {})
    outputs(row, "tvm", expected)
    dataclasses.replace(row, expected={"tvm": expected}).save(tmp_path / "there")
    monkeypatch.chdir(tmp_path)
    assert all(Path(each["model"]).is_file() for each in Prepared.load(Path("there")).denied().candidates)
    command = [sys.executable, ROOT / "scripts/bench_backends.py", "--built", "there", "--results", "found"]
    subprocess.run([*command, "--repeats", "2", "--seconds", "0.01", "--beside", "5"], check=True)
    (path,) = Path("found").iterdir()
    found = json.loads(path.read_text())
    assert found["candidates"]["tvm"]["differing"]["differ"] == 0 < found["candidates"]["tvm"]["differing"]["values"]
    assert found["winner"] in ("tvm", "litert-builtin")
    assert (found["repeats"], found["beside"]) == (2, 5)
    command[-3] = "not-there"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "not-there has no prepared.json" in done.stderr
    assert "Traceback" not in done.stderr


def test_engines_measured_on_two_cpus_stand_in_two_tables(tmp_path: Path) -> None:
    """And a row tells what rows of an earlier form left out, which stay readable."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "docs" / "benchmarks").mkdir(parents=True)
    row = json.loads((ROOT / "docs/benchmarks/backends-resnet8-int8-1-intel-xeon-2.json").read_text())
    for key in ("tvm_build", "accuracy"):
        row.pop(key, None)
    for candidate in row["candidates"].values():
        for key in ("p50_ms_without_amx", "accuracy"):
            candidate.pop(key, None)
    (tmp_path / "docs/benchmarks/backends-resnet8-int8-1-intel-xeon-2.json").write_text(json.dumps(row))
    row |= {"cpu": "Another CPU", "tvm_build": {"tvm": {"seconds": 4.25}}}
    row["candidates"]["tvm"] |= {"p50_ms_without_amx": 0.125, "accuracy": 0.8698}
    row["candidates"]["litert-xnnpack"]["accuracy"] = 0.8697
    (tmp_path / "docs/benchmarks/backends-resnet8-int8-1-another-cpu-4.json").write_text(json.dumps(row))
    subprocess.run([sys.executable, tmp_path / "scripts" / "bench_backends.py", "--page"], check=True)
    other, first = (tmp_path / "docs" / "engines.md").read_text().split("\n## ")[1:]
    assert other.startswith("Another CPU")
    (told,), (earlier,) = ([line.split(" | ") for line in table.splitlines() if "resnet8" in line]
                           for table in (other, first))  # fmt: skip
    assert told[4] == "0.125"
    assert told[11:] == ["4.2", "0.8698", "0.8697 |"]
    assert earlier[4].strip() == ""
    assert [cell.strip(" |") for cell in earlier[11:]] == ["", "", ""]


def test_every_row_of_the_compression_benchmark_is_listed_and_has_a_sound_recipe() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "bench_compression.py", "--list"],
        capture_output=True,
        text=True,
        check=True,
    )
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert {"tiny-ic", "tiny-kws", "tiny-ad", "tiny-vww"} <= set(names)
    recipes = sorted((ROOT / "scripts" / "compression_rows" / "recipes").glob("*.toml"))
    assert recipes
    for path in recipes:
        assert read_recipe(path).steps


def test_arm_board_looks_for_edgecompile_before_it_builds_anything(checkout: Checkout, tmp_path: Path) -> None:
    """By the checkout's .venv, where it has one; the script itself may be run by any Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    checkout.stand_in("python3", f'#!/usr/bin/env bash\nexec "{tmp_path / "bare/bin/python"}" "$@"\n')
    checkout.stand_in("apt-get", '#!/usr/bin/env bash\necho "apt-get $*" >> "$CALLS"\nexit 1\n')
    checkout.stand_in("dpkg", "#!/usr/bin/env bash\necho amd64\n")
    folder = tmp_path / "board"
    done = checkout.run("scripts/arm-board", "--folder", str(folder), "up")
    assert done.returncode == 1
    assert "No module named edgecompile" in done.stderr
    assert "Try: scripts/quickstart, which makes .venv" in done.stderr
    own = checkout.root / ".venv/bin/python"
    own.parent.mkdir(parents=True)
    own.write_text('#!/usr/bin/env bash\necho "ModuleNotFoundError: click" >&2\nexit 1\n')
    own.chmod(0o755)
    done = checkout.run("scripts/arm-board", "--folder", str(folder), "up")
    assert f"doesn't run by {own}: ModuleNotFoundError: click" in done.stderr
    assert not folder.exists()
    assert checkout.calls() == []
    own.write_text('#!/usr/bin/env bash\necho "$*" >> "$CALLS"\n')
    done = checkout.run("scripts/arm-board", "--folder", str(folder), "up")
    asked, built = checkout.calls()
    assert asked == "-m edgecompile --version"
    assert built.startswith("apt-get ")
