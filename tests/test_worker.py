"""Errors that come from the worker process, and what it is good for after them."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgecompile.errors import (
    DataError,
    DiskFullError,
    EdgecompileError,
    InternalError,
    OutputError,
    WorkerCrashError,
    WorkerTimeoutError,
)
from edgecompile.stages.base import Progress
from edgecompile.worker import Worker

Report = Callable[[Progress], None]


def pid(*, report: Report) -> int:
    report(Progress("here"))
    return os.getpid()


def fail(number: int, *, report: Report) -> None:
    del report
    raise OSError(number, os.strerror(number), "/some/file")


def refuse(*, report: Report) -> None:
    del report
    raise DataError("bad data", hint="give good data")


def die(*, report: Report) -> None:
    del report
    os.kill(os.getpid(), signal.SIGSEGV)


def leave_a_file(*, report: Report) -> str:
    del report
    return tempfile.mkstemp()[1]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    worker = Worker(tmp_path_factory.mktemp("log") / "worker.log")
    yield worker
    worker.close()


def silent(_: Progress) -> None:
    pass


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOSPC, DiskFullError, "no space left while writing to /some/file"),
        (errno.EROFS, OutputError, "/some/file can't be written"),
        (errno.EACCES, OutputError, "/some/file can't be read or written"),
        (errno.ENOENT, InternalError, "/some/file"),
    ],
)
def test_errors_of_the_system(worker: Worker, number: int, kind: type[EdgecompileError], words: str) -> None:
    with pytest.raises(kind, match=words):
        worker.call("a test", fail, number, report=silent)


def test_the_process_is_kept_after_an_error_it_told(worker: Worker) -> None:
    before = worker.call("a test", pid, report=silent)
    with pytest.raises(DataError, match="bad data") as error:
        worker.call("a test", refuse, report=silent)
    assert error.value.hint == "give good data"
    assert worker.call("a test", pid, report=silent) == before


def test_the_process_is_ended_when_a_call_is_interrupted(worker: Worker) -> None:
    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    before = worker.call("a test", pid, report=silent)
    with pytest.raises(KeyboardInterrupt):
        worker.call("a test", pid, report=interrupt)
    assert worker.call("a test", pid, report=silent) != before


def test_a_death_names_the_signal_and_the_log(worker: Worker) -> None:
    with pytest.raises(WorkerCrashError, match="SIGSEGV") as error:
        worker.call("a test", die, report=silent)
    assert str(worker.log) in str(error.value.hint)
    assert Path(worker.log).is_file()
    assert worker.call("a test", pid, report=silent) > 0


def test_temporary_files_are_gone_with_it(tmp_path: Path) -> None:
    """TensorFlow leaves one for each function that it traces."""
    worker = Worker(tmp_path / "worker.log")
    left = Path(worker.call("a file", leave_a_file, report=silent))
    assert left.exists()
    worker.close()
    assert not left.parent.exists()
    assert left.parent != Path(tempfile.gettempdir())


_WITH_A_LOCK = """
from pathlib import Path
import sys
from test_worker import make_a_lock, silent
from edgecompile.worker import Worker
if __name__ == "__main__":
    worker = Worker(Path(sys.argv[1]))
    worker.call("a lock", make_a_lock, report=silent)
    worker.close()
    print("done")
"""


def make_a_lock(*, report: Report) -> None:
    del report
    kept.append(multiprocessing.get_context("spawn").RLock())


kept: list[object] = []


def test_it_leaves_without_a_word_of_what_libraries_hold(tmp_path: Path) -> None:
    """Python's resource tracker warned of the locks that tqdm makes."""
    program = tmp_path / "program.py"
    program.write_text(_WITH_A_LOCK)
    path = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, program, tmp_path / "worker.log"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def sleep(seconds: float, *, report: Report) -> str:
    report(Progress("asleep"))
    time.sleep(seconds)
    return "awake"


def test_what_comes_to_no_end_is_ended(worker: Worker) -> None:
    first = worker.call("work", pid, report=silent)
    began = time.monotonic()
    with pytest.raises(WorkerTimeoutError, match="resting: no end after 1 s, so it was stopped") as error:
        worker.call("resting", sleep, 600.0, report=silent, limit=1.0, hint="wait")
    assert time.monotonic() - began < 30
    assert error.value.hint == "wait"
    assert not Path(f"/proc/{first}").exists()
    assert worker.call("work", pid, report=silent) != first


def test_what_ends_in_time_is_not(worker: Worker) -> None:
    assert worker.call("resting", sleep, 0.2, report=silent, limit=60.0) == "awake"
