"""A board behind adb: a stand-in for it that runs everything on this machine."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path, PurePosixPath

import pytest
from running import Run, run_cli

from edgecompile.devices.adb import AdbConnection
from edgecompile.errors import ConnectionFailedError, DeviceError, MissingDependencyError, ProvisioningError

ADB = """#!/bin/sh
# adb, as far as it is used: -s SERIAL get-state | shell -T COMMAND | push FROM TO | pull FROM TO | forward ...
[ "$2" = phone ] || { echo "adb: device '$2' not found" >&2; exit 1; }
export XDG_CACHE_HOME=HOME PATH=TOOLS:$PATH
shift 2
case "$1" in
    get-state) cat STATE ;;
    shell) shift 2; exec sh -c "$*" ;;
    push|pull) exec cp "$2" "$3" ;;
esac
"""


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def phone(tmp_path: Path) -> Path:
    """The folder of the stand-in: `home` is the device's cache folder, `state` what it says of itself."""
    tools = tmp_path / "tools"
    tools.mkdir()
    program(tools / "python3", f'exec {sys.executable} "$@"')  # a link to it would leave its environment
    (tmp_path / "state").write_text("device\n")
    text = ADB.replace("HOME=HOME", f"HOME={tmp_path / 'home'}").replace("TOOLS", str(tools))
    (tmp_path / "adb").write_text(text.replace("STATE", str(tmp_path / "state")))
    (tmp_path / "adb").chmod(0o755)
    return tmp_path


def run(phone: Path, *arguments: str | Path, path: str | None = None) -> Run:
    there = path or f"{phone}:{os.environ['PATH']}"
    return run_cli(*arguments, cwd=phone, env={"EDGECOMPILE_CONFIG": str(phone / "config"), "PATH": there})


def test_a_benchmark_over_adb(phone: Path, data: Path) -> None:
    model = data / "models/mlperf_tiny/kws/kws_ref_model.tflite"
    done = run(phone, "bench", model, "--on", "adb://phone", "--runtime", "system", "--runs", "5", "--json")
    assert done.code == 0, done.err
    figures = json.loads(done.out)[0]["figures"]
    assert figures[0]["executed_on"].endswith("on adb://phone, over adb")
    assert {path.name for path in (phone / "home").iterdir()} == {"edgecompile"}
    assert run(phone, "devices", "clean", "adb://phone").code == 0
    assert not list((phone / "home").iterdir())


def test_an_android_without_python_says_what_it_needs(phone: Path) -> None:
    program(phone / "tools/python3", "exit 127")
    done = run(phone, "devices", "probe", "adb://phone")
    assert done.code == ProvisioningError.exit_code
    assert "has no usable python3" in done.err


@pytest.mark.parametrize(
    ("url", "state", "error", "message"),
    [
        ("adb://other", "device", ConnectionFailedError, "device 'other' not found"),
        ("adb://phone", "unauthorized", ConnectionFailedError, "is 'unauthorized', expected 'device'"),
        ("adb://", "device", DeviceError, "is no address of a board"),
        ("adb://-s phone", "device", DeviceError, "is no address of a board"),
    ],
)
def test_what_is_wrong_is_said(phone: Path, url: str, state: str, error: type[DeviceError], message: str) -> None:
    (phone / "state").write_text(f"{state}\n")
    done = run(phone, "devices", "probe", url)
    assert (done.code, message in done.err) == (error.exit_code, True), done.err


def test_without_adb(phone: Path) -> None:
    done = run(phone, "devices", "probe", "adb://phone", path=str(phone / "tools"))
    assert done.code == MissingDependencyError.exit_code
    assert "needs adb" in done.err


@pytest.mark.parametrize(
    ("pull", "message"),
    [
        ('head -c 1000 "$2" > "$3"; echo "adb: error: device offline" >&2; exit 1', "device offline"),
        ('head -c 1000 "$2" > "$3"', "arrived changed from phone"),
    ],
    ids=["cut", "changed"],
)
def test_a_file_from_there_is_whole_or_not_at_all(
    phone: Path, monkeypatch: pytest.MonkeyPatch, pull: str, message: str
) -> None:
    adb, there, here = phone / "adb", phone / "there.bin", phone / "here/model.bin"
    there.write_bytes(os.urandom(5000))
    monkeypatch.setenv("PATH", f"{phone}:{os.environ['PATH']}")
    connection = AdbConnection("adb://phone")
    connection.get(PurePosixPath(there), here)
    whole = here.read_bytes()
    assert whole == there.read_bytes()
    there.write_bytes(os.urandom(5000))
    adb.write_text(adb.read_text().replace("    push|pull)", f"    pull) {pull} ;;\n    push)"))
    with pytest.raises(DeviceError, match=message):
        connection.get(PurePosixPath(there), here)
    assert here.read_bytes() == whole  # what was there before
    assert [path.name for path in here.parent.iterdir()] == ["model.bin"]
