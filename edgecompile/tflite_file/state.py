"""What a .tflite keeps from one run to the next.

A fused LSTM writes its state into variable tensors, which LiteRT sets to zero again on request. A tf.Variable is a
resource, which only a new interpreter has as the file begins it (its initialization runs once, in CALL_ONCE). Samples
are independent of each other here, so whoever runs a model takes all of it back before each: see `Forgetful`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgecompile.tflite_file.graph import TfliteModel

NONE, TENSORS, RESOURCES = "none", "variable tensors", "resource variables"


def state_of(model: TfliteModel) -> str:
    """NONE, TENSORS or RESOURCES, of all subgraphs: what it takes to have the model as new."""
    if any(operator.name == "VAR_HANDLE" for graph in model.subgraphs for operator in graph.operators):
        return RESOURCES
    return TENSORS if any(t.is_variable for graph in model.subgraphs for t in graph.tensors) else NONE


class Forgetful:
    """LiteRT's interpreter of a model, as the file begins it before each run.

    opened: gives a new one, ready to be run: inputs resized, tensors allocated. For RESOURCES it is called before
    every run but the first. as_it_is: the one of the last run.
    """

    def __init__(self, opened: Callable[[], Any], state: str) -> None:
        self._opened, self._state = opened, state
        self._used = False
        self.as_it_is = opened()

    def fresh(self) -> Any:
        """The interpreter to run now, without what earlier runs left in it."""
        if self._used and self._state == RESOURCES:
            self.as_it_is = self._opened()
        elif self._used and self._state == TENSORS:
            self.as_it_is.reset_all_variables()
        self._used = True
        return self.as_it_is
