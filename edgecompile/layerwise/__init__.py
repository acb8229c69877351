"""How far each tensor of two models is apart on the same inputs, and where they first part.

graph.py      a .tflite's operators as a graph of values: casts looked through, activations counted to their operator
match.py      which operator of the one is which of the other: by name, by what they read, by order
distance.py   SNR, cosine similarity and largest error, summed up over samples
report.py     runs both with LiteRT's reference kernels and makes the rows: `compare`, `layer_errors`
subjects.py   `edgecompile diff`: what A and B are, and which inputs they get
"""

from edgecompile.layerwise.report import Comparison, Limit, Row, compare, layer_errors

__all__ = ["Comparison", "Limit", "Row", "compare", "layer_errors"]
