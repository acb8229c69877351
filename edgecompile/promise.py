"""What a bundle's manifest says that can be recomputed, and the checks that come of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecompile import bundle, data
from edgecompile.artifact import Signature
from edgecompile.backends.base import Candidate
from edgecompile.compare import Allowance
from edgecompile.data import Expected
from edgecompile.errors import DiskFullError, EdgecompileError, MissingDependencyError, OutputError, VerifyError
from edgecompile.gates import Check
from edgecompile.manifest import metric_of

HINT = bundle.AGAIN


@dataclass(frozen=True)
class Promised:
    """An output's own metric on the test set; worst: as Promise's."""

    metric: str
    higher_is_better: bool
    value: float
    worst: float


@dataclass(frozen=True)
class Promise:
    """What the manifest says that can be recomputed.

    model: the .tflite, which the reference outputs are of. files: those of the bundle that are loaded. allowed: how far
    the winner may be from them, by output. worst: the far end of the metric's 95% interval, which another machine's
    engine may reach. data: the task's facts, None for a bundle made without data. outputs: the same of each output that
    has a metric of its own.
    """

    winner: Candidate
    model: Path
    files: frozenset[str]
    allowed: Mapping[str, Allowance]
    signature: Signature
    data: Mapping[str, Any] | None
    metric: float | None
    worst: float | None
    same_machine: bool
    outputs: Mapping[str, Promised] = field(default_factory=dict)

    @property
    def expected(self) -> Expected:
        """How the build read the data."""
        kinds = {output["name"]: output["kind"] for output in (self.data or {}).get("outputs", ())}
        return data.expected(self.signature, kinds=kinds)

    def named(self, found: Mapping[str, Any]) -> dict[str, float]:
        """{figure's name: value} of {"value": of all outputs, "outputs": {output: its own}}."""
        assert self.data is not None
        each = {metric_of(told.metric, name): found["outputs"][name] for name, told in self.outputs.items()}
        return {self.data["metric"]: found["value"], **each}

    def of_output(self, name: str) -> Promise:
        """What is promised of one output, as if there were no other."""
        told = self.outputs[name]
        facts = {**(self.data or {}), "metric": told.metric, "higher_is_better": told.higher_is_better}
        return dataclasses.replace(self, data=facts, metric=told.value, worst=told.worst, outputs={})


def check(name: str, passed: bool | None, text: str) -> Check:
    return Check(name, passed, text, VerifyError, HINT)


def failed(name: str, problem: EdgecompileError) -> Check:
    """The bundle's fault. What this machine lacks is none: it is raised, as nothing is known of the bundle then."""
    if isinstance(problem, OutputError | DiskFullError | MissingDependencyError):
        raise problem
    return check(name, False, problem.message)
