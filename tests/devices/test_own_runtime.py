"""--runtime system: the runtime that a board has itself, wherever its Python finds one."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from devices.sshd import Sshd
from devices.test_board import board
from running import Run, run_cli

from edgecompile.cache import Cache
from edgecompile.devices import provision
from edgecompile.errors import DeviceError, ProvisioningError
from edgecompile.ondevice import runner

PYTHON = Path(sys.base_prefix, "bin", "python3")


@pytest.fixture
def bare(sshd: Sshd) -> Path:
    """A board's home; its python3 has no runtime."""
    sshd.set_environment(PATH=f"{PYTHON.parent}:/usr/bin:/bin", HOME=str(sshd.folder))
    if subprocess.run([PYTHON, "-s", "-c", "import ai_edge_litert"], capture_output=True, check=False).returncode == 0:
        pytest.skip(f"{PYTHON} has a runtime")
    return sshd.folder


def install(folder: Path) -> None:
    """A runtime, as pip unpacks it."""
    folder.mkdir(parents=True, exist_ok=True)
    for wheel in provision.wheels(provision.Platform.of(runner.facts(), "this machine"), Cache()).files:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)


def run(folder: Path, *arguments: str | Path) -> Run:
    return run_cli(*arguments, cwd=folder, env={"EDGECOMPILE_CONFIG": str(folder / "config")})


def add(sshd: Sshd, folder: Path, *more: str | Path) -> Run:
    files = ("--identity", sshd.folder / "user", "--known-hosts", sshd.folder / "known_hosts")
    return run(folder, "devices", "add", "loop", sshd.address.url, *files, *more)


def bench(folder: Path, data: Path) -> Run:
    model = data / "models/mlperf_tiny/kws/kws_ref_model.tflite"
    return run(folder, "bench", model, "--on", "loop", "--runtime", "system", "--runs", "5", "--json")


def test_a_board_without_a_runtime_of_its_own(sshd: Sshd, bare: Path) -> None:
    del bare
    none = "python3 on loopback has no ai-edge-litert and no tflite-runtime"
    with board(sshd, "system") as there, pytest.raises(ProvisioningError, match=none) as caught:
        there.python()
    assert "--runtime provisioned brings one along" in caught.value.format_message()
    assert "`devices add --python PATH`" in caught.value.format_message()


def test_a_runtime_that_pip_installed_for_the_user(sshd: Sshd, bare: Path, data: Path, tmp_path: Path) -> None:
    asked = [PYTHON, "-c", "import site; print(site.getusersitepackages())"]
    environment = {"HOME": str(bare), "PATH": "/usr/bin:/bin"}
    install(Path(subprocess.run(asked, env=environment, capture_output=True, text=True, check=True).stdout.strip()))
    add(sshd, tmp_path)
    done = bench(tmp_path, data)
    assert done.code == 0, done.err
    assert json.loads(done.out)[0]["environment"]["before"]["runtime"] == "ai-edge-litert"
    assert not (bare / "home/edgecompile/board-v1/runtimes").exists()
    (probed,) = json.loads(run(tmp_path, "devices", "probe", "loop", "--json").out)
    assert probed["runtime"] == "ai-edge-litert"


def test_a_runtime_in_a_virtual_environment(sshd: Sshd, bare: Path, data: Path, tmp_path: Path) -> None:
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", bare / "venv"], check=True)
    (site,) = (bare / "venv").glob("lib/python3*/site-packages")
    install(site)
    add(sshd, tmp_path)
    assert bench(tmp_path, data).code == ProvisioningError.exit_code
    add(sshd, tmp_path, "--python", bare / "venv/bin/python")
    done = bench(tmp_path, data)
    assert done.code == 0, done.err
    assert json.loads(done.out)[0]["environment"]["before"]["runtime"] == "ai-edge-litert"


@pytest.mark.parametrize("path", ["~/venv/bin/python", "venv/bin/python", "python3 -X dev", ""])
def test_what_names_no_python(sshd: Sshd, path: str, tmp_path: Path) -> None:
    done = add(sshd, tmp_path, "--python", path)
    assert done.code == DeviceError.exit_code
    assert "neither an absolute path on the board nor a name on its PATH" in done.err


def test_a_python_that_is_not_there(sshd: Sshd, bare: Path, data: Path, tmp_path: Path) -> None:
    add(sshd, tmp_path, "--python", bare / "none/python")
    done = bench(tmp_path, data)
    assert done.code == ProvisioningError.exit_code
    assert f"loop has no usable {bare / 'none/python'}" in done.err
