"""The model's sparse form beside the dense one: a candidate of its own where XNNPACK can run it faster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edgecompile.artifact import TFLITE, Artifact
from edgecompile.backends.litert import SPARSE_FILE, LiteRtRunner, reference_kernels
from edgecompile.errors import CompressionGateError
from edgecompile.sparse_chain import NoChain, find_chain
from edgecompile.sparsifying import sparsify
from edgecompile.stages.base import NOTHING, Context, Outcome
from edgecompile.stages.evaluate import golden_inputs
from edgecompile.tflite_file import read

_TOLERANCE = 1e-5  # of an output's range, as between float engines: only the order of additions changes


@dataclass(frozen=True)
class SparseForm:
    """Leaves the model as it is. Where XNNPACK can run it with sparse kernels, the outcome has its sparse form, as the
    file `sparse`, of which LiteRT's backend makes a candidate. No other file is in it.

    metrics: bytes (of the sparse form, None without one), bytes_before, weights (tensors stored as sparse), zeros and
    elements of these, mirrored (axes). CompressionGateError where the two don't compute the same.
    """

    name: ClassVar[str] = "sparse-form"
    accepts: ClassVar[Mapping[str, str]] = {TFLITE: TFLITE}
    judged: ClassVar[bool] = False
    tensorflow: ClassVar[bool] = False
    needs: ClassVar[str] = NOTHING
    uses: ClassVar[frozenset[str]] = frozenset({"task"})

    def run(self, artifact: Artifact, ctx: Context) -> Outcome:
        model = read(artifact.model)
        metrics: dict[str, Any] = {"bytes": None, "bytes_before": model.size}
        try:
            chain = find_chain(model)
        except NoChain as reason:
            return Outcome(TFLITE, {}, artifact.signature, metrics, (f"no sparse form: {reason}",))
        done = sparsify(model, chain, ctx.out / "sparse.tflite")
        inputs = golden_inputs(ctx.task, artifact.signature, ctx.seed)
        kernels = reference_kernels(model)
        expected = LiteRtRunner(artifact.model, kernels).run(inputs)
        received = LiteRtRunner(done.path, kernels).run(inputs)
        for name, array in expected.items():
            span, apart = np.ptp(array), np.abs(received[name] - array).max(initial=0)
            if not apart <= _TOLERANCE * max(span, np.finfo(np.float32).tiny):
                raise CompressionGateError(
                    f"the sparse form's output {name!r} is {apart:.3g} off, of a range of {span:.3g}; "
                    f"expected at most {_TOLERANCE:g} of it",
                    hint="report it with the model",
                )
        metrics |= {
            "bytes": done.bytes_after,
            "weights": done.weights,
            "zeros": chain.zeros,
            "elements": chain.elements,
            "mirrored": list(done.mirrored),
        }
        return Outcome(TFLITE, {SPARSE_FILE: done.path}, artifact.signature, metrics)
