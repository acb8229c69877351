"""What a build would do, as far as it can be told before it: the model and the data are read, nothing is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from edgecompile.artifact import Signature
from edgecompile.compression import load_teacher, trains_first
from edgecompile.devices.base import Device
from edgecompile.job import Settings, task_of
from edgecompile.pipeline import make_plan, read_model, settings_of
from edgecompile.request import BuildRequest, Plan, after
from edgecompile.session import Session
from edgecompile.stages.base import Progress
from edgecompile.stages.evaluate import check_fits


def dry_run(request: BuildRequest, session: Session, device: Device) -> Mapping[str, object]:
    """The plan as plain data. Errors that a build would end with before it compresses anything are raised: of the
    request, of a model that can't be loaded, of data that don't fit it.

    A built-in model that isn't trained yet has nothing to be read.
    """
    made = make_plan(request, session, device)
    settings, signature = settings_of(made), None
    read = [source for source in (made.source, made.teacher) if source and not trains_first(source, settings, session)]
    session.total = len(read)
    if made.source in read:
        made, settings, source = read_model(made, session)
        signature = source.signature
        if made.data is not None:
            what = "checking the data against the model"
            session.worker.call(what, check_data, settings, signature, report=session.display.progress)
    if made.teacher in read and signature is not None:
        load_teacher(made.teacher, signature, settings, session)
    return _described(made, signature)


def check_data(settings: Settings, signature: Signature, *, report: Callable[[Progress], None]) -> None:
    """DataError where the model can't take the samples or give the labels. In the worker: it may run a user's code."""
    del report
    task = task_of(settings)
    assert task is not None
    check_fits(task, signature)


def _described(plan: Plan, signature: Signature | None) -> Mapping[str, object]:
    steps = ["search"] if plan.recipe.search else [step.name for step in plan.steps]
    sides = {"inputs": None, "outputs": None} if signature is None else dataclasses.asdict(signature)
    return {
        "model": plan.source.name,
        "format": plan.source.kind,
        **{side: tensors and list(tensors) for side, tensors in sides.items()},
        "target": plan.target.id,
        "recipe": plan.recipe.name,
        "reason": plan.reason,
        "first": plan.first,
        "prefers": list(plan.target.prefers) if plan.first else None,
        "budget_minutes": plan.budget_minutes,
        "data": plan.data.spec if plan.data else None,
        "io": plan.io,
        "threads": plan.threads_told,
        "backends": list(plan.backends),
        "left_out": dict(plan.left_out) or None,
        "stages": [plan.source.first.name, "baseline", *steps, *after(plan)],
        "gates": {
            "max_drop_percent": plan.max_drop,
            "max_size_bytes": plan.max_size,
            "max_latency_ms": plan.request.max_latency_ms,
            "parity": True,
        },
        "out": str(plan.out),
    }
