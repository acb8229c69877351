"""Masks around a training: recomputed on the way to the target sparsity, laid on the weights after every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgecompile.pruning.kernels import Kernel
from edgecompile.pruning.masks import Mask
from edgecompile.pruning.saliency import TAYLOR, Taylor
from edgecompile.training import Hooks


class Pruner:
    """Zeroes weights of `kernels` while they train; what is zero stays zero.

    choose: saliencies, [outputs, positions, inputs] each, and sparsity -> the masks of what stays.
    updates: number of steps in all -> {step: sparsity}. saliency: "magnitude" or "taylor". l1: weight of the sum
    of the kernels' magnitudes in the loss.

    TF-MOT's wrapper holds masks too, but it recomputes them itself, of one layer and by magnitude, and takes no
    depthwise layer; with masks of our own all variants go one way.
    """

    def __init__(
        self,
        kernels: Sequence[Kernel],
        choose: Callable[[list[Any], float], list[Mask]],
        updates: Callable[[int], dict[int, float]],
        saliency: str,
        l1: float = 0.0,
    ) -> None:
        import tensorflow as tf

        self._kernels = list(kernels)
        self._weights = [kernel.variable for kernel in kernels]
        self._masks = [
            tf.Variable(tf.ones_like(w), trainable=False, name=f"mask_{i}") for i, w in enumerate(self._weights)
        ]
        self._choose = choose
        self._plan = updates
        self._updates: dict[int, float] | None = None
        self._taylor = Taylor(self._weights) if saliency == TAYLOR else None
        self._l1 = l1

    def hooks(self) -> Hooks:
        """For the training of the model that the kernels are of."""
        import tensorflow as tf

        pairs = list(zip(self._weights, self._masks, strict=True))

        @tf.function  # type: ignore[untyped-decorator]
        def lay() -> None:
            for weight, mask in pairs:
                weight.assign(weight * mask)

        def planned(steps: int) -> None:
            self._updates = self._plan(steps)

        def after_step(step: int) -> None:
            assert self._updates is not None, "training is planned before its first step"
            if step in self._updates:
                self._update(self._updates[step])
            lay()

        return Hooks(
            planned=planned,
            after_step=after_step,
            gradient=self._observe if self._taylor else None,
            penalty=self._penalty if self._l1 else None,
            variables=(*self._masks, *(self._taylor.state if self._taylor else ())),
        )

    def _observe(self, variable: Any, gradient: Any) -> Any:
        # Before the plan is made steps are only timed, and undone; they must leave nothing here either.
        if self._taylor is not None and self._updates is not None:
            self._taylor.take(variable, gradient)
        return gradient

    def _penalty(self) -> Any:
        import tensorflow as tf

        return self._l1 * tf.add_n([tf.reduce_sum(tf.abs(w)) for w in self._weights])

    def _update(self, sparsity: float) -> None:
        saliencies = []
        for kernel, mask in zip(self._kernels, self._masks, strict=True):
            weight = kernel.variable
            matters = self._taylor.of(weight) if self._taylor else np.abs(weight.numpy())
            # Below all that is left, so that what was zeroed stays so and keeps its pattern.
            saliencies.append(kernel.view(np.where(mask.numpy() > 0, matters, -1.0)))
        for kernel, mask, keep in zip(self._kernels, self._masks, self._choose(saliencies, sparsity), strict=True):
            mask.assign(kernel.unview(keep).astype(mask.dtype.as_numpy_dtype))
