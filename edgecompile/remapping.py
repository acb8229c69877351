"""TensorFlow's graphs where it fuses operators that it then has no kernel for.

Its remapper joins a convolution without bias, its BatchNorm and the activation after it to one operator, and TensorFlow
2.21 has that for ReLU but not, among others, for tanh: "Fusion is not implemented: [FusedBatchNorm,Tanh]".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


def run_fused(run: Callable[[], T], again: Callable[[], T]) -> T:
    """What `run` gives; where TensorFlow has no kernel for what it fused, what `again`, which traces anew, gives
    without fusion."""
    import tensorflow as tf

    try:
        return run()
    except tf.errors.UnimplementedError as problem:
        if "Fusion is not implemented" not in str(problem):
            raise
    with _unfused():
        return again()


@contextmanager
def _unfused() -> Iterator[None]:
    """Undone at the end: rounding depends on it, and what comes after must not depend on what was before."""
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"remapping": False})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({"remapping": True})
