"""The built-in models as `edgecompile models` shows and trains them. Nothing here imports TensorFlow."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompile import catalog, data
from edgecompile.artifact import Artifact, sha256_path
from edgecompile.cache import Cache, writing
from edgecompile.compression import training_job
from edgecompile.errors import DataError, MissingDependencyError, OutputError
from edgecompile.job import Job, Settings
from edgecompile.loaders.base import LoadOptions
from edgecompile.session import Session
from edgecompile.stages.evaluate import Baseline
from edgecompile.stages.load import Train

CACHED, ON_FIRST_USE, NONE = "in the cache", "trained on first use", "none"


@dataclass(frozen=True)
class BuiltIn:
    """data: None where all of it is here, else what is missing. weights: CACHED, ON_FIRST_USE or NONE."""

    id: str
    summary: str
    reference: str
    training: Mapping[str, Any]
    data: str | None
    weights: str

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def describe(model: str, cache: Cache) -> BuiltIn:
    """The model, whether its data is here, and whether it is trained. ModelError for an unknown id."""
    module = catalog.get(model)
    missing = None
    weights = ON_FIRST_USE if module.TRAINING.on_first_use else NONE
    try:
        module.fingerprint_files(catalog.data_root())
        if cache.get(default_job(model).key) is not None:
            weights = CACHED
    except (DataError, MissingDependencyError) as problem:
        missing = problem.message
    return BuiltIn(model, module.SUMMARY, module.REFERENCE, dataclasses.asdict(module.TRAINING), missing, weights)


def default_job(model: str, *, epochs: int | None = None, tensorboard: Path | None = None) -> Job:
    """The training whose result `edgecompile build MODEL` looks for: same seed, same epochs, no budget."""
    module = catalog.get(model)
    plan = module.TRAINING
    digest = sha256_path(Path(str(module.__file__)))
    stage = Train(model, digest, plan.epochs if epochs is None else epochs, plan.on_first_use)
    settings = Settings(None, None, LoadOptions(), io="float", seed=0, tensorboard=tensorboard)
    return training_job(stage, settings)


@dataclass(frozen=True)
class Trained:
    """found_by_build: `edgecompile build MODEL` takes these weights."""

    model: str
    artifact: Artifact
    metric: str | None
    value: float | None
    samples: int | None
    found_by_build: bool

    def to_json(self) -> dict[str, Any]:
        record = self.artifact.history[-1]
        return {
            "model": self.model,
            "file": str(self.artifact.model),
            "metric": self.metric,
            "value": self.value,
            "samples": self.samples,
            "date": record.date,
            "training": record.metrics,
            "found_by_build": self.found_by_build,
        }


def train(
    model: str,
    session: Session,
    *,
    epochs: int | None = None,
    budget_minutes: float | None = None,
    out: Path | None = None,
    tensorboard: Path | None = None,
) -> Trained:
    """Train a built-in model, going on from where a killed training was, and test it. out: a .keras to copy it to.

    DataError where its data isn't here; OutputError before the training where `out` can't be written.
    """
    if out is not None:
        _check_out(out)
    job = default_job(model, epochs=epochs, tensorboard=tensorboard.resolve() if tensorboard else None)
    usual = default_job(model).key
    if budget_minutes is not None:
        job = dataclasses.replace(job, budget_seconds=budget_minutes * 60)
    session.total = 2
    facts = session.facts(data.resolve(model))
    artifact = session.run(job)
    tested = session.run(Job(Baseline(), artifact, job.settings)).history[-1].metrics
    if out is not None:
        with writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(artifact.model, out)
    metric = facts.metric if facts else None
    return Trained(
        model, artifact, metric, tested.get("test"), tested.get("test_samples"), artifact.history[-1].key == usual
    )


def _check_out(out: Path) -> None:
    if out.suffix != ".keras":
        raise OutputError(f"{out}: a trained model is written as .keras", hint=f"--out {out.with_suffix('.keras')}")
    if out.is_dir():
        raise OutputError(f"{out} is a folder", hint="name a .keras file")
