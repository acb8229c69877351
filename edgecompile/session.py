"""One build's cache, worker and display: whoever runs jobs runs them through a session."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Any, Protocol

from edgecompile import data
from edgecompile.artifact import Artifact, StageRecord
from edgecompile.cache import Cache
from edgecompile.data import DataSource
from edgecompile.errors import WorkerCrashError
from edgecompile.job import Job, Settings, replay_losses, run_job
from edgecompile.loaders.limits import call_within
from edgecompile.locate import crashing_layer
from edgecompile.stages.base import Progress
from edgecompile.stages.convert import FORMS_IN_WORK, Convert
from edgecompile.stages.load import Load
from edgecompile.tasks import TaskFacts, read_facts, read_facts_for, remember, remembered
from edgecompile.worker import Worker


class Display(Protocol):
    """Where a build says what it does; the command line has two, a progress bar and plain lines."""

    def stage(self, number: int, total: int, name: str) -> None: ...
    def progress(self, progress: Progress) -> None: ...
    def done(self, record: StageRecord, cached: bool) -> None: ...
    def line(self, text: str) -> None: ...


class Session:
    """One build's cache, worker and display."""

    def __init__(self, display: Display, cache: Cache | None = None, *, verbose: bool = False) -> None:
        self.display = display
        self.cache = cache or Cache(say=display.line)
        self.worker = Worker(self.cache.root / "logs" / f"{os.getpid()}.log", verbose=verbose)
        # Jobs of which the converter died, by key, as they were done in the end.
        self._instead: dict[str, Job] = {}
        self.total = self.number = self.cached = self.ran = 0
        self._steps: list[list[Any]] = []  # [name, seconds of jobs]
        self._announced = time.monotonic()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.worker.close()
        if kind is None:  # an error's message names the log
            self.worker.log.unlink(missing_ok=True)

    def announce(self, name: str) -> None:
        self.number += 1
        self._steps.append([name, 0.0])
        self._announced = time.monotonic()
        self.display.stage(self.number, self.total, name)

    def took(self, seconds: float) -> None:
        """Counts to the step that was announced last: of work whose result was known, what it took when it was done."""
        if self._steps:
            self._steps[-1][1] += seconds

    def steps(self) -> list[dict[str, Any]]:
        """Each step that was announced, with its seconds; the last is still under way, so by the clock."""
        found = [{"name": name, "seconds": round(seconds, 3)} for name, seconds in self._steps]
        if found:
            found[-1]["seconds"] = round(max(found[-1]["seconds"], time.monotonic() - self._announced), 3)
        return found

    def run(self, job: Job, *, announce: bool = True) -> Artifact:
        """The job's artifact, from the cache where it is there."""
        job = self._instead.get(job.key, job)
        if announce:
            self.announce(job.stage.name)
        found = self._known(job)
        cached = found is not None
        if found is None:
            with self.cache.lock(job.key, waiting=self._waiting):
                found = self._known(job) or self._publish(job, self._run(job))
        self.cached += cached
        self.ran += not cached
        self.took(found.history[-1].seconds)
        if announce:
            self.display.done(found.history[-1], cached)
        if cached:
            self._log_again(job, found.history[-1])
        # An entry holds the history of the build that made it; ours is that of our own input.
        before = job.artifact.history if job.artifact else ()
        return found.replace(history=(*before, found.history[-1]))

    def _known(self, job: Job) -> Artifact | None:
        """From the cache. A training that no budget cut serves every budget: it takes no time any more."""
        return self.cache.get(job.key) or self.cache.get(job.unlimited.key)

    def _publish(self, job: Job, made: Artifact) -> Artifact:
        key = made.history[-1].key
        if key == job.key:
            return self.cache.put(key, made)
        with self.cache.lock(key):  # a build with another budget may have come to the same
            return self.cache.get(key) or self.cache.put(key, made, worked_as=job.key)

    def _log_again(self, job: Job, record: StageRecord) -> None:
        """TensorBoard logs of a training that was done before, from what its record kept."""
        logs = job.logs
        if logs is not None and "losses" in record.metrics and not logs.exists():
            losses = record.metrics["losses"]
            self.worker.call("writing TensorBoard logs", replay_losses, losses, logs, report=self.display.progress)

    def _waiting(self) -> None:
        self.display.line("waiting for another build that is in this stage")

    def _run(self, job: Job, first: Job | None = None) -> Artifact:
        """first: the job as it was asked for, where a conversion is tried in another way; its folder is worked in."""
        key = (first or job).key
        out, work = self.cache.new_folder(key), self.cache.work_folder(key)
        tried = work / FORMS_IN_WORK
        tried.unlink(missing_ok=True)
        try:
            what, say = f"stage {job.stage.name}", self.display.progress
            made: Artifact
            if isinstance(job.stage, Load):
                path = Path(job.stage.path)
                made = call_within(self.worker, path, f"loading {path}", run_job, job, out, work, report=say)
            else:
                made = self.worker.call(what, run_job, job, out, work, report=say)
        except WorkerCrashError as crash:
            if not isinstance(job.stage, Convert):
                raise
            form, *left = tried.read_text().split() if tried.is_file() else [""]
            if left:
                self.display.line(f"the converter died of recurrent layers {form}; trying another form")
                other = dataclasses.replace(job, stage=dataclasses.replace(job.stage, avoid=(*job.stage.avoid, form)))
                self._instead[key] = other
                return self._known(other) or self._run(other, first or job)
            place = crashing_layer(self.worker, job, self.display.line)
            raise WorkerCrashError(f"{crash.message}{place}", hint=crash.hint) from None
        return made

    def facts(self, source: DataSource | None) -> TaskFacts | None:
        """What the data is; loaded only where its fingerprint isn't known here."""
        if source is None:
            return None
        known = remembered(self.cache, data.fingerprint(source), source)
        if known is not None:
            return known
        self.display.line(f"reading {source.spec}")
        facts: TaskFacts = self.worker.call("reading the data", read_facts, source, report=self.display.progress)
        remember(self.cache, facts, source)
        return facts

    def facts_for_model(self, facts: TaskFacts, settings: Settings) -> TaskFacts:
        """The same, now that the settings say what the model gives: some labels are what it makes of them."""
        source = settings.data
        if source is None or source.kind not in data.READ_BY_MODEL:
            return facts
        known = remembered(self.cache, settings.fingerprint, source, settings.expected)
        if known is None:
            report = self.display.progress
            known = self.worker.call("reading the data", read_facts_for, settings, report=report)
            remember(self.cache, known, source, settings.expected)
        for line in known.words():
            self.display.line(line)
        return known
