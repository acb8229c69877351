"""One stage as a job: all it depends on, its cache key, and how it runs in the worker.

A job is a pure function of its fields, and plain enough to be sent to another process.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import importlib.metadata
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompile import __version__, data
from edgecompile.artifact import Artifact, StageRecord, sha256_json
from edgecompile.cache import write_file
from edgecompile.code import module_digest, package_digest
from edgecompile.data import DataSource, Expected
from edgecompile.errors import ModelError
from edgecompile.loaders.base import LoadOptions
from edgecompile.sealed import seal, unseal_or_none
from edgecompile.stages.base import Context, Progress, Stage
from edgecompile.task import Task

_KEPT_EVERY = 5.0  # seconds
TOOLS = (
    "tensorflow",
    "tf-keras",
    "keras",
    "tensorflow-model-optimization",
    "ai-edge-quantizer",
    "ai-edge-litert",
    "numpy",
)


@dataclass(frozen=True)
class Settings:
    """What all jobs of one build share."""

    data: DataSource | None
    fingerprint: str | None
    options: LoadOptions
    io: str
    seed: int
    tensorboard: Path | None
    expected: Expected | None = None


@dataclass(frozen=True)
class Job:
    """`depends`: digests of what else the stage reads (another stage's key, a device's identity).

    `teacher`: the model that a stage with distillation learns from. `least`: as Context's; no part of the key, as what
    is given up has no result.
    """

    stage: Stage
    artifact: Artifact | None
    settings: Settings
    budget_seconds: float | None = None
    depends: tuple[str, ...] = ()
    teacher: Artifact | None = None
    least: float | None = None

    @functools.cached_property
    def key(self) -> str:
        """Digest of everything the result depends on: inputs, configuration, data, seed, tools, our own code."""
        s = self.settings
        optional = {
            "task": [s.fingerprint, dataclasses.asdict(s.expected) if s.expected else None],
            "io": s.io,
            "options": [dataclasses.asdict(s.options), [module_digest(c.partition(":")[0]) for c in s.options.custom]],
            "budget": self.budget_seconds,
            "teacher": self.teacher.history[-1].key if self.teacher else None,
        }
        return sha256_json(
            {
                "stage": self.stage.name,
                "code": package_digest(),
                "config": self.config(),
                "input": self.artifact.history[-1].key if self.artifact else None,
                "seed": s.seed,
                "tools": tool_versions(),
                "depends": self.depends,
                **{name: value for name, value in optional.items() if name in self.stage.uses},
            }
        )[:32]

    @property
    def unlimited(self) -> Job:
        """The same without a budget."""
        return dataclasses.replace(self, budget_seconds=None)

    def result_key(self, metrics: Mapping[str, Any]) -> str:
        """The key of a result: that without a budget where the budget cut no epoch, since it then depends on none."""
        whole = metrics.get("epochs") == getattr(self.stage, "epochs", None)
        return self.unlimited.key if whole else self.key

    @property
    def logs(self) -> Path | None:
        """Where the stage's TensorBoard logs go."""
        return self.settings.tensorboard / self.stage.name if self.settings.tensorboard else None

    def config(self) -> dict[str, Any]:
        """The stage's fields; paths are left out, as `depends` and `digest` say what is in them."""
        fields = dataclasses.asdict(self.stage)  # type: ignore[call-overload]
        return {name: value for name, value in fields.items() if name not in PATH_FIELDS}


PATH_FIELDS = ("path", "golden", "baseline_outputs", "candidates", "candidate", "given")


@functools.lru_cache
def tool_versions() -> dict[str, str]:
    """Versions of the packages that shape results; cheap, since nothing is imported."""
    versions = {"edgecompile": __version__, "python": ".".join(map(str, sys.version_info[:3]))}
    for name in TOOLS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "absent"
    return versions


_tasks: dict[tuple[DataSource, Expected | None], Task] = {}


def task_of(settings: Settings) -> Task | None:
    """The task, loaded once in this process."""
    if settings.data is None:
        return None
    key = (settings.data, settings.expected)
    if key not in _tasks:
        _tasks[key] = data.load(settings.data, settings.expected)
    return _tasks[key]


def run_job(job: Job, out: Path, work: Path, *, report: Callable[[Progress], None]) -> Artifact:
    """Run the stage; the new artifact, its files in `out`. In the worker process."""
    from edgecompile.stages.evaluate import predictor, validation
    from edgecompile.worker import seed_everything

    _import_tensorflow_if(job.stage)
    seed_everything(job.settings.seed)
    spent = _Spent(work / "seconds")
    task = task_of(job.settings)
    s = job.settings

    def kept(progress: Progress) -> None:
        spent.keep()
        report(progress)

    ctx = Context(out, work, task, s.io, s.options, s.seed, job.budget_seconds, job.logs, kept, job.teacher, job.least)
    try:
        outcome = job.stage.run(job.artifact, ctx)  # type: ignore[arg-type]
    except Exception as problem:
        if not type(problem).__module__.startswith("tensorflow."):
            raise
        first = str(problem).strip().splitlines()[0][:300]
        raise ModelError(
            f"TensorFlow can't run the model: {type(problem).__name__}: {first}",
            hint="run it on the same samples in TensorFlow to see where",
        ) from problem
    history = job.artifact.history if job.artifact else ()
    made = Artifact(outcome.kind, outcome.files, outcome.signature, history, outcome.meta)
    metrics = outcome.metrics
    if job.stage.judged and task is not None:
        metrics = metrics | validation(task, outcome.signature, predictor(made, ctx), ctx)
    record = StageRecord(
        stage=job.stage.name,
        key=job.result_key(metrics),
        config=job.config(),
        tools=tool_versions(),
        seconds=round(spent.seconds, 3),
        date=now(),
        metrics=metrics,
        notes=outcome.notes,
    )
    return made.replace(history=(*history, record))


class _Spent:
    """Seconds spent on a stage, with those of the processes that were killed in it, to within _KEPT_EVERY."""

    def __init__(self, path: Path) -> None:
        self._path = path
        before = float((unseal_or_none(path) or {}).get("seconds", 0.0))
        self._began = time.monotonic() - before
        self._kept = before

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def keep(self) -> None:
        if self.seconds - self._kept > _KEPT_EVERY:
            self._kept = self.seconds
            write_file(self._path, seal({"seconds": self._kept}))


def replay_losses(losses: list[float], folder: Path, *, report: Callable[[Progress], None]) -> None:
    """TensorBoard logs from a record. In the worker process."""
    from edgecompile.training import replay

    del report
    replay(losses, folder)


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _import_tensorflow_if(stage: Stage) -> None:
    """Seeds can only be set on what is imported: have TensorFlow in place before a stage that uses it."""
    if stage.tensorflow:
        import keras  # noqa: F401
        import tensorflow  # noqa: F401
        import tf_keras  # noqa: F401
