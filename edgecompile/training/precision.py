"""Training in bfloat16 where the CPU has instructions for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_OPTION = "auto_mixed_precision_onednn_bfloat16"
_LIST = "TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_{}"  # TensorFlow reads both whenever it rewrites a graph
_NORMS = ("FusedBatchNormV3", "FusedBatchNormGradV3", "_FusedBatchNormEx")
_BLOCK = 16  # channels


@contextmanager
def bfloat16(norms: list[Any]) -> Iterator[None]:
    """TensorFlow's own rewrite of convolutions and matrix products to bfloat16, for what is traced within.

    norms: the model's BatchNorms. oneDNN has bfloat16 kernels for them only where channels come in blocks of 16, and
        else its reference takes several times as long as the whole rest of the step (seen with TensorFlow 2.21):
        one such among them keeps all in float32.
    """
    import tensorflow as tf

    before = tf.config.optimizer.get_experimental_options().get(_OPTION, False)
    changed = {}
    if any(layer.moving_mean.shape[0] % _BLOCK for layer in norms):
        changed = {_LIST.format("INFERLIST_REMOVE"): ",".join(_NORMS), _LIST.format("DENYLIST_ADD"): ",".join(_NORMS)}
    environment = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    tf.config.optimizer.set_experimental_options({_OPTION: True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({_OPTION: before})
        for name, value in environment.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
