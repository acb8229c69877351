"""A bound on how long a model may take to load: a file whose layers wait for each other loads for ever."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgecompile.stages.base import Progress
    from edgecompile.worker import Worker

VARIABLE = "EDGECOMPILE_LOAD_SECONDS"
_LEAST, _PER_MEGABYTE = 40.0, 0.5  # seconds: of a slow machine that does other things, too
HINT = f"the file may be damaged; where the machine is just slow, set {VARIABLE}, the seconds that it may take"


def seconds_to_load(path: Path) -> float:
    """How long the model at `path`, a file or folder, may take; EDGECOMPILE_LOAD_SECONDS where that is a number."""
    try:
        given = float(os.environ.get(VARIABLE, ""))
    except ValueError:
        given = 0.0
    if 0 < given < 1e9:
        return given
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return _LEAST + _PER_MEGABYTE * sum(file.stat().st_size for file in files) / 1e6


def call_within(
    worker: Worker, path: Path, what: str, function: Callable[..., Any], *args: Any, report: Callable[[Progress], None]
) -> Any:
    """worker.call of what loads the model at `path`; WorkerTimeoutError, and the child is ended, where that takes
    longer than it may. Importing TensorFlow isn't counted."""
    worker.call("starting TensorFlow", import_tensorflow, report=report)
    return worker.call(what, function, *args, report=report, limit=seconds_to_load(path), hint=HINT)


def import_tensorflow(*, report: Callable[[Progress], None]) -> None:
    """In the worker."""
    del report
    import keras  # noqa: F401
    import tensorflow  # noqa: F401
    import tf_keras  # noqa: F401
