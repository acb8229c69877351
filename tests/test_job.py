"""One stage as a job, outside of a build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from edgecompile import job as jobs
from edgecompile.artifact import TFLITE, Artifact, Signature
from edgecompile.job import Job, Settings, run_job
from edgecompile.loaders.base import LoadOptions
from edgecompile.stages.base import NOTHING, Context, Outcome, Progress


@dataclass(frozen=True)
class Slow:
    """Three steps of 10 seconds by `clock`; it is killed in the step that its work folder's file names."""

    clock: list[float]
    name: ClassVar[str] = "slow"
    accepts: ClassVar[Mapping[str, str]] = {}
    judged: ClassVar[bool] = False
    tensorflow: ClassVar[bool] = False
    needs: ClassVar[str] = NOTHING
    uses: ClassVar[frozenset[str]] = frozenset()

    def run(self, artifact: Artifact | None, ctx: Context) -> Outcome:
        del artifact
        for step in range(3):
            self.clock[0] += 10
            ctx.report(Progress("step", step, 3))
            if step == 1 and not (ctx.work / "killed").exists():
                (ctx.work / "killed").touch()
                raise KeyboardInterrupt
        return Outcome(TFLITE, {}, Signature((), ()))


def test_the_time_of_a_stage_is_that_of_all_who_worked_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(jobs.time, "monotonic", lambda: clock[0])
    job = Job(Slow(clock), None, Settings(None, None, LoadOptions(), io="float", seed=0, tensorboard=None))  # type: ignore[arg-type]

    def run() -> Artifact:
        return run_job(job, tmp_path, tmp_path, report=lambda _: None)

    with pytest.raises(KeyboardInterrupt):
        run()
    clock[0] += 1000  # nobody works on it
    assert run().history[-1].seconds == 20 + 30
