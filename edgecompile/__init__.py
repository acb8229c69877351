"""edgecompile: from a trained model to a bundle that keeps its promise on a board."""

__version__ = "0.1.0"
