"""Unstructured pruning: single weights, or small blocks of them, become zero while the rest trains on.

kernels.py   which weights of a model are pruned, and how the deployed file lays them out
masks.py     which of them become zero: pure functions of arrays
saliency.py  how much a weight matters
schedule.py  how much of them is zero at which step
pruner.py    all of this around a training
"""
