"""The candidates of a build: what each backend makes of the model, for each number of threads."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from edgecompile.artifact import Artifact
from edgecompile.backends import BACKENDS
from edgecompile.backends.base import Candidate, with_threads
from edgecompile.stages.base import Stage
from edgecompile.target import Target


def stages(backend: str, target: Target, threads: Sequence[int]) -> list[Stage]:
    """What the backend runs on the final .tflite, for all numbers of threads."""
    found: list[Stage] = []
    for number in threads:
        found += [stage for stage in BACKENDS[backend].stages(target, number) if stage not in found]
    return found


def candidates(backends: Sequence[str], artifact: Artifact, target: Target, threads: Sequence[int]) -> list[Candidate]:
    """In the order of preference: numbers of threads, then backends. An engine that there are several of has its number
    of threads in its id."""
    found: list[Candidate] = []
    for number in threads:
        for name in backends:
            found += [each for each in BACKENDS[name].compile(artifact, target, number) if each not in found]
    times = Counter(each.id for each in found)
    return [
        dataclasses.replace(each, id=with_threads(each.id, each.threads)) if times[each.id] > 1 else each
        for each in found
    ]
