"""Which weights of a tf-keras model are pruned, and how the deployed file lays them out.

TF-MOT takes blocks of rank-2 weights only and leaves convolutions without a word. Here blocks are those of the weights
as the .tflite has them and its engines read them: [outputs, height, width, inputs] for a convolution, [outputs, inputs]
for a dense layer. Inputs are the innermost dimension, along which dot products run in XNNPACK, CMSIS-NN and the NPUs,
so a block spans neighbouring input channels at one position (height, width) of the kernel and never crosses it.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from edgecompile.pruning.masks import Array, fits

DENSE, PRUNE = "dense", "prune"
POLICIES = (DENSE, PRUNE)


@dataclass(frozen=True)
class Kernel:
    """A weight that is pruned.

    layer: its layer's name. variable: the TensorFlow variable, in Keras' layout. axes: the variable's axes in the
    order outputs, positions, inputs; ends: how many are outputs, and where inputs begin.
    """

    layer: str
    variable: Any
    axes: tuple[int, ...]
    ends: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """[outputs, positions, inputs]."""
        sizes = [int(self.variable.shape[axis]) for axis in self.axes]
        first, last = self.ends
        return math.prod(sizes[:first]), math.prod(sizes[first:last]), math.prod(sizes[last:])

    def view(self, array: Array) -> Array:
        """An array of the variable's shape as [outputs, positions, inputs]."""
        viewed: Array = array.transpose(self.axes).reshape(self.shape)
        return viewed

    def unview(self, array: Array) -> Array:
        """The inverse of `view`."""
        sizes = [int(self.variable.shape[axis]) for axis in self.axes]
        back = sorted(range(len(self.axes)), key=self.axes.__getitem__)
        unviewed: Array = array.reshape(sizes).transpose(back)
        return unviewed


def find_kernels(
    model: Any, structure: str, *, depthwise: str = DENSE, first_last: str = PRUNE
) -> tuple[list[Kernel], dict[str, str]]:
    """(kernels to prune, why each other layer with a kernel is left dense), of a flat tf-keras model.

    What is prunable is what TF-MOT's registry names, and depthwise kernels for depthwise = "prune".
    first_last: "dense" leaves out the layers that no other pruned one comes before, or after.
    """
    found: dict[str, list[Kernel]] = {}
    left: dict[str, str] = {}
    for layer in model.layers:
        kernels, reason = _kernels(layer, structure, depthwise)
        if kernels:
            found[layer.name] = kernels
        if reason:
            left[layer.name] = reason
    if first_last == DENSE:
        for name, end in end_layers(model, found).items():
            del found[name]
            left[name] = end
    return [kernel for kernels in found.values() for kernel in kernels], left


def end_layers(model: Any, names: Collection[str]) -> dict[str, str]:
    """Of the layers named, those that none of them comes before ("first layer") or after ("last layer")."""
    nodes = [node for depth in sorted(model._nodes_by_depth, reverse=True) for node in model._nodes_by_depth[depth]]
    before: dict[int, bool] = {}
    after = {id(node): False for node in nodes}
    for node in nodes:
        before[id(node)] = any(before[id(p)] or p.layer.name in names for p in node.parent_nodes)
    for node in reversed(nodes):
        for parent in node.parent_nodes:
            after[id(parent)] |= after[id(node)] or node.layer.name in names
    found = {}
    for node in nodes:
        if node.layer.name in names and not (before[id(node)] and after[id(node)]):
            found[node.layer.name] = "last layer" if before[id(node)] else "first layer"
    return found


def _kernels(layer: Any, structure: str, depthwise: str) -> tuple[list[Kernel], str]:
    """(kernels of the layer to prune, why others of its kernels are left dense)."""
    candidates = [_laid_out(layer, part, variable) for part in _parts(layer) for variable in _prunable(part)]
    apart = getattr(layer, "depthwise_kernel", None)
    reasons = []
    if apart is not None and depthwise == PRUNE:
        candidates.append(_laid_out(layer, layer, apart))
    elif apart is not None:
        reasons.append("depthwise")
    elif not candidates and any("kernel" in w.name for w in layer.trainable_weights):
        reasons.append(f"TF-MOT can't prune {type(layer).__name__}")
    trained = {v.ref() for v in layer.trainable_weights}
    kernels = []
    for kernel in candidates:
        if kernel.variable.ref() not in trained:
            reasons.append("not trainable")
        elif not fits(kernel.shape, structure):
            reasons.append(f"its [outputs, positions, inputs] {list(kernel.shape)} don't divide into {structure}")
        else:
            kernels.append(kernel)
    return kernels, ", ".join(dict.fromkeys(reasons))


def _parts(layer: Any) -> list[Any]:
    """The layers that a wrapper runs, or the layer itself: TF-MOT knows no wrappers."""
    from tf_keras import layers

    if isinstance(layer, layers.Bidirectional):
        return [layer.forward_layer, layer.backward_layer]
    return [layer.layer] if isinstance(layer, layers.TimeDistributed) else [layer]


def _prunable(layer: Any) -> list[Any]:
    """What TF-MOT's registry names: for a recurrent layer or attention not just one weight."""
    from tensorflow_model_optimization.python.core.sparsity.keras import prune_registry

    registry = prune_registry.PruneRegistry
    return list(registry.make_prunable(layer).get_prunable_weights()) if registry.supports(layer) else []


def _laid_out(outer: Any, layer: Any, variable: Any) -> Kernel:
    """outer: the layer of the model that `layer` is, or is in."""
    from tf_keras import layers

    axes = tuple(range(len(variable.shape)))
    *window, a, b = axes
    positions = tuple(window)
    if variable is getattr(layer, "depthwise_kernel", None):  # [..., channels, multiplier]: an output has one input
        return Kernel(outer.name, variable, (a, b, *positions), (2, len(axes)))
    if isinstance(layer, layers.Conv2DTranspose | layers.Conv3DTranspose):  # [..., outputs, inputs]
        return Kernel(outer.name, variable, (a, *positions, b), (1, len(axes) - 1))
    unordered = layers.Embedding | layers.MultiHeadAttention | layers.LocallyConnected1D | layers.LocallyConnected2D
    if isinstance(layer, unordered):  # looked up, or in other shapes once deployed: single weights only
        return Kernel(outer.name, variable, axes, (len(axes), len(axes)))
    return Kernel(outer.name, variable, (b, *positions, a), (1, len(axes) - 1))
