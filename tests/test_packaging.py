"""The wheel: that it holds all that an installed edgecompile needs, and works away from this repository."""

from __future__ import annotations

import configparser
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Where each part of the source tree lies in the package.
TREES = {"edgecompile": "edgecompile", "models": "edgecompile/models", "targets": "edgecompile/targets"}
SHIPPED = {".py", ".toml", ".json", ".j2", ".typed", ".c", ".h"}


def packages() -> list[str]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config["options"]["packages"].split()


def source_files() -> dict[str, Path]:
    """Every file under the three trees, by its path in an installed package."""
    return {
        f"{place}/{file.relative_to(ROOT / tree).as_posix()}": file
        for tree, place in TREES.items()
        for file in (ROOT / tree).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


def test_every_package_folder_is_named_in_setup_cfg() -> None:
    folders = {Path(name).parent for name in source_files() if name.endswith("/__init__.py")}
    assert sorted(packages()) == sorted(".".join(folder.parts) for folder in folders)


def test_every_source_file_is_of_a_kind_that_ships() -> None:
    """Another kind of file would be in this checkout only: it needs a line in setup.cfg's package_data."""
    assert [name for name, file in source_files().items() if file.suffix not in SHIPPED] == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing of an earlier build gets in."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder / "source", ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), "."]
    done = subprocess.run(command, cwd=folder / "source", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("edgecompile-*.whl"))


def test_the_wheel_holds_every_source_file_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == set(source_files())
    for name in ("edgecompile/py.typed", "edgecompile/targets/rpi4.toml", "edgecompile/models/digits/__init__.py"):
        assert name in names


def test_the_wheel_has_the_licence_and_the_readme(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        licences = [name for name in archive.namelist() if name.endswith("LICENSE")]
        metadata = archive.read(next(n for n in archive.namelist() if n.endswith("/METADATA"))).decode()
    assert len(licences) == 1
    assert "Requires-Python: <3.14,>=3.10" in metadata
    assert "# edgecompile" in metadata


@pytest.mark.slow
def test_the_wheel_installed_elsewhere_builds_digits_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    """In another virtual environment. The libraries it requires are those of this one, by a .pth file: only the
    package itself, which this repository also gives to this environment, must come from the wheel."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    (own,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in ("EDGECOMPILE_DATA", "PYTHONPATH")}
    environment["EDGECOMPILE_CACHE"] = str(tmp_path / "cache")
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(install, cwd=empty, env=environment, check=True)
    (own / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")

    where = "import edgecompile, edgecompile.targets as t; print(edgecompile.__file__); print(t.__file__)"
    found = subprocess.run([str(python), "-c", where], cwd=empty, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert all(Path(line).is_relative_to(own) for line in found.stdout.splitlines())

    command = [str(python.with_name("edgecompile")), "build", "digits", "--recipe", "int8"]
    done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((empty / "build" / "digits-host" / "manifest.json").read_text())
    assert manifest["recipe"]["name"] == "int8"
    assert (empty / "build" / "digits-host" / "model.tflite").stat().st_size > 0
