"""Post-training quantization of float .tflite files, operator by operator.

schemes.py      what each scheme makes of weights and activations, and its recipe for ai-edge-quantizer
operators.py    the operators of a float model, as the quantizer knows them, and what became of each
overrides.py    `[[steps.overrides]]` of a recipe: other schemes for some operators
calibration.py  ranges of activations, from training samples
biases.py       biases too large for int32 at their scale
engine.py       one float model, quantized once or many times with one calibration
search.py       how few operators must stay in higher precision to hold a drop
"""

from edgecompile.quantization.engine import FloatModel
from edgecompile.quantization.operators import Deviation, Place, deviations, places
from edgecompile.quantization.overrides import Override, assign
from edgecompile.quantization.schemes import FLOAT, SCHEMES, Scheme

__all__ = [
    "FLOAT",
    "SCHEMES",
    "Deviation",
    "FloatModel",
    "Override",
    "Place",
    "Scheme",
    "assign",
    "deviations",
    "places",
]
