"""Quantization-aware twins of tf-keras models: what is rounded where, and what stays in float.

The scheme is that of Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference" (2018), of TF-MOT's parts (layers.py). TF-MOT's own graph transformations aren't used: they know few layers,
patterns of chains alone, and lose masks and shared layers. Here a graph is first rewritten into an equal one that the
scheme takes (rewriting.py), every tensor of it gets a range unless the .tflite has none there (placement.py), and the
converter's own answer says what is lost (check.py).
"""

from __future__ import annotations

from edgecompile.quantization_aware.check import Settled, settle
from edgecompile.quantization_aware.integer import check_integer
from edgecompile.quantization_aware.ranges import calibrate
from edgecompile.quantization_aware.rewriting import rewrite
from edgecompile.quantization_aware.twin import Twin, load_quantization_aware, quantization_aware

__all__ = [
    "Settled",
    "Twin",
    "calibrate",
    "check_integer",
    "load_quantization_aware",
    "quantization_aware",
    "rewrite",
    "settle",
]
