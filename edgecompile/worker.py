"""The process in which stages run.

TensorFlow, its converter and the quantizer are native code that can die of a signal, and importing them takes
seconds. So one child process does all such work of a build: it is started when the first stage must really run,
keeps its imports from stage to stage, and its death is a named error here.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from edgecompile.cache import system_error, writing
from edgecompile.environ import environ
from edgecompile.errors import EdgecompileError, InternalError, WorkerCrashError, WorkerTimeoutError, internal_error
from edgecompile.stages.base import Progress

_PR_SET_PDEATHSIG = 1
_DYING = 5.0  # seconds


class Worker:
    """Calls functions in the child process, one at a time. `log` receives all the libraries print."""

    def __init__(self, log: Path, *, verbose: bool = False) -> None:
        self.log = log
        self._verbose = verbose
        self._process: Any = None
        self._pipe: Connection | None = None
        self._scratch: str | None = None

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        with writing(self.log):
            self.log.parent.mkdir(parents=True, exist_ok=True)
        log = None if self._verbose else str(self.log)
        # TensorFlow writes files of generated code that only an end in peace removes, and that we don't wait for.
        with writing(Path("the folder for temporary files")):
            self._scratch = tempfile.mkdtemp(prefix="edgecompile-worker-")
        self._process = context.Process(target=_serve, args=(theirs, log, os.getpid(), self._scratch), daemon=True)
        with _silent_tracker():
            self._process.start()
        theirs.close()
        self._pipe = ours
        return ours

    def call(
        self,
        what: str,
        function: Callable[..., Any],
        *args: Any,
        report: Callable[[Progress], None],
        limit: float | None = None,
        hint: str | None = None,
    ) -> Any:
        """`function(*args, report=...)` in the child. `what` names the work in an error.

        limit: seconds that it may take. hint: what to try where it takes longer.
        Raises what the function raised, WorkerCrashError where the process died, WorkerTimeoutError where it came to no
        end within the limit; it is ended then.
        """
        pipe = self._pipe or self._start()
        ends = None if limit is None else time.monotonic() + limit
        try:
            pipe.send((function, args))
            while True:
                if ends is not None and not pipe.poll(max(0.0, ends - time.monotonic())):
                    self.close()
                    raise WorkerTimeoutError(f"{what}: no end after {limit:.0f} s, so it was stopped", hint=hint)
                kind, value = pipe.recv()
                if kind == "progress":
                    report(value)
                elif kind == "result":
                    return value
                elif kind == "error":
                    raise value
                else:
                    raise internal_error(f"{what}: {value.strip().splitlines()[-1]}", f"the log is {self.log}")
        except (EOFError, BrokenPipeError, ConnectionResetError):
            code = self.close(patience=_DYING)
            raise WorkerCrashError(
                f"{what}: the process died of {_death(code)}", hint=f"what the library said last is in {self.log}"
            ) from None
        except EdgecompileError:
            raise  # the child has answered, and can be called again
        except BaseException:
            # Ctrl-C, or a report that failed: the child may be in the middle of work and is of no more use.
            self.close()
            raise

    def close(self, patience: float = 0.0) -> int | None:
        """Ends the child; its exit code. One that is dying has `patience` seconds to do so by itself: how it died is
        told then. Any other has answered all it was asked, and what TensorFlow takes to end in peace would be waste."""
        if self._process is None:
            return None
        if self._pipe is not None:
            self._pipe.close()
        self._process.join(patience)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        code: int | None = self._process.exitcode
        self._process = self._pipe = None
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
        return code


@contextmanager
def _silent_tracker() -> Iterator[None]:
    """What starts meanwhile keeps quiet about semaphores that it has to remove.

    Libraries make some (tqdm does), and a child that is killed leaves them to Python's resource tracker.
    """
    before = os.environ.get("PYTHONWARNINGS")
    quiet = "ignore::UserWarning:multiprocessing.resource_tracker"
    with environ("PYTHONWARNINGS", f"{before},{quiet}" if before else quiet):
        yield


def _internal() -> tuple[str, Any]:
    return "internal", traceback.format_exc()


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"


def _serve(pipe: Connection, log: str | None, parent: int, scratch: str) -> None:
    """The child's main loop. Without a log, what the libraries print goes to stderr."""
    os.environ["TMPDIR"] = tempfile.tempdir = scratch
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0" if log is None else "1")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # results must not depend on whether there is a GPU
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime from 1.31 tells its makers of each start
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it then ends us
    _die_with(parent)
    os.dup2(2, 1)
    if log is not None:
        with Path(log).open("ab", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)

    def report(progress: Progress) -> None:
        pipe.send(("progress", progress))

    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            return
        answer: tuple[str, Any]
        try:
            answer = ("result", function(*args, report=report))
        except EdgecompileError as error:
            answer = ("error", error)
        except OSError as error:
            traceback.print_exc()
            known = system_error(error, "the cache")
            answer = ("error", known) if known else _internal()
        except MemoryError:
            answer = ("error", InternalError("out of memory", hint="use less data or a smaller batch"))
        except Exception:
            traceback.print_exc()
            answer = _internal()
        pipe.send(answer)


def _die_with(parent: int) -> None:
    """A build that is killed must not leave a worker that goes on writing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def seed_everything(seed: int) -> None:
    """Python's, NumPy's and, where it is loaded, TensorFlow's generators; Keras' name counters too.

    Called at the start of every stage, so that a stage gives the same bytes whatever ran before it.
    """
    import numpy as np

    random.seed(seed)
    np.random.seed(seed)
    if "tensorflow" in sys.modules:
        import keras
        import tensorflow as tf
        import tf_keras

        keras.backend.clear_session()
        tf_keras.backend.clear_session()
        tf.random.set_seed(seed)
