"""What a run dies of before it measures anything: each is named, with what helps."""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from devices.sshd import Sshd
from devices.test_board import board, keywords

from edgecompile.devices.benchmark import benchmark, how
from edgecompile.devices.local import LocalDevice
from edgecompile.errors import DeviceError
from edgecompile.ondevice import runner


def send_to_the_probe(number: signal.Signals, folder: Path) -> Callable[[], None]:
    """Signals the process in which a candidate runs first, as soon as there is one; to be called until it was."""
    sent = threading.Event()

    def watch() -> None:
        until = time.monotonic() + 60
        while not sent.is_set() and time.monotonic() < until:
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    line = path.read_bytes()
                    if str(folder).encode() in line and line.endswith(b"probe.json\0"):
                        os.kill(int(path.parent.name), number)
                        sent.set()

    thread = threading.Thread(target=watch)
    thread.start()

    def stop() -> None:
        seen = sent.is_set()
        sent.set()
        thread.join()
        assert seen

    return stop


@pytest.mark.parametrize(
    ("number", "message", "hint"),
    [
        (signal.SIGKILL, r"kws: .*SIGKILL, likely by the kernel's out-of-memory killer", "a smaller model, or fewer"),
        (signal.SIGILL, r"kws: .*SIGILL, an instruction that this CPU lacks", "`edgecompile devices probe` shows"),
        (signal.SIGSEGV, r"kws: .*died with signal SIGSEGV while it ran the model", "see that the model runs here"),
    ],
)
def test_a_candidate_that_dies_when_it_is_first_run(
    number: signal.Signals, message: str, hint: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stop = send_to_the_probe(number, tmp_path)
    with pytest.raises(DeviceError, match=message) as caught:
        benchmark(LocalDevice(), keywords(data), lambda *_: None)
    stop()
    assert f"Try: {hint}" in caught.value.format_message() or f" {hint}" in caught.value.format_message()


def test_a_candidate_that_dies_on_a_board(sshd: Sshd, data: Path) -> None:
    with board(sshd) as there:
        there.python()  # brings the runtime
        stop = send_to_the_probe(signal.SIGKILL, sshd.folder)
        with pytest.raises(DeviceError, match="out-of-memory killer") as caught:
            benchmark(there, keywords(data), lambda *_: None)
    stop()
    assert "more memory there, or swap" in caught.value.format_message()


def test_inputs_that_memory_can_not_hold(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty-four tebibytes by their header."""

    def save(path: Path, arrays: object) -> None:
        del arrays
        header = {"descr": "|i1", "fortran_order": False, "shape": (1 << 46,)}
        with zipfile.ZipFile(path, "w") as archive, archive.open("mfcc.npy", "w") as entry:
            np.lib.format.write_array_header_1_0(entry, header)

    monkeypatch.setattr(runner, "save_arrays", save)
    with pytest.raises(DeviceError, match="memory ran out on this machine: Unable to allocate 64") as caught:
        benchmark(LocalDevice(), keywords(data), lambda *_: None)
    assert "more memory there, or swap" in caught.value.format_message()


@pytest.mark.parametrize(
    ("status", "said"),
    [(1, "exit status 1"), (137, "signal SIGKILL, likely"), (-4, "signal SIGILL, an"), (-11, "signal SIGSEGV")],
)
def test_an_exit_status_in_words(status: int, said: str) -> None:
    """137: what a shell makes of a signal, and adb passes on."""
    assert how(status).startswith(said)


def test_wheels_that_this_machine_can_not_load(sshd: Sshd, data: Path) -> None:
    """A board that calls itself an ARM one: the same wheels once more wouldn't help."""
    tools = sshd.folder / "bin"
    tools.mkdir()
    python = tools / "python3"
    told = f'{sys.executable} "$@" | sed s/x86_64/aarch64/'
    python.write_text(f'#!/bin/sh\ncase "$*" in *--facts*) {told} ;; *) exec {sys.executable} "$@" ;; esac\n')
    python.chmod(0o755)
    sshd.set_environment(PATH=f"{tools}:/usr/bin:/bin", HOME=str(sshd.folder))
    with board(sshd) as there, pytest.raises(DeviceError, match="NumPy can't be loaded on this machine") as caught:
        benchmark(there, keywords(data), lambda *_: None)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert f"it is CPython {version}." in caught.value.message
    assert ", x86_64, glibc 2." in caught.value.message
    tag = rf"is for cp{version.replace('.', '')}-cp{version.replace('.', '')}-manylinux\w+_aarch64$"
    assert re.search(tag, caught.value.message)
    assert "--runtime system" in caught.value.format_message()
    assert "devices clean" not in caught.value.format_message()
