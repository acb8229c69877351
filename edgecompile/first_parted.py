"""From which operator on does a model compute something else there than here?"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

from edgecompile.backends.base import Candidate
from edgecompile.stages.base import Progress
from edgecompile.tflite_file import cut, read


def first_parted(
    candidate: Candidate, differs: Callable[[Candidate], bool], *, report: Callable[[Progress], None]
) -> str:
    """Told as a clause. `differs`: whether the candidate, cut off after some operator, computes something else there.

    By bisection, as what differs once differs from there on: as many cut models as it takes to halve the operators
    down to one.
    """
    model = read(candidate.model)
    low, high = 0, len(model.main.operators) - 1
    with tempfile.TemporaryDirectory(prefix="edgecompile-cut-") as scratch:
        while low < high:
            middle = (low + high) // 2
            report(Progress(f"the first operator that differs is one of {high - low + 1}"))
            part = cut(model, middle, Path(scratch, f"upto{middle}.tflite"))
            if differs(dataclasses.replace(candidate, model=part.path)):
                high = middle
            else:
                low = middle + 1
    op = model.main.operators[low]
    return f"the first operator that differs is {op.name} #{op.index}"
