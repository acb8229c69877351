"""How much a weight matters: the magnitude of it, or what the loss would change without it."""

from __future__ import annotations

from typing import Any

MAGNITUDE, TAYLOR = "magnitude", "taylor"
SALIENCIES = (MAGNITUDE, TAYLOR)

_MEMORY = 0.99  # of the moving average: about a hundred batches


class Taylor:
    """First-order Taylor expansion of the loss in single weights, squared and averaged over batches.

    (w * dL/dw)^2 is the squared change of the loss L when w becomes zero: Molchanov et al., "Importance Estimation
    for Neural Network Pruning" (2019), section 3.1; their "Pruning Convolutional Neural Networks for Resource
    Efficient Inference" (2017), section 2.2, has its magnitude. The average is a moving one, so that it follows the
    training; in units of the loss it can be compared between layers.
    """

    def __init__(self, variables: list[Any]) -> None:
        import tensorflow as tf

        self._averages = {
            v.ref(): tf.Variable(tf.zeros_like(v), trainable=False, name=f"taylor_{i}") for i, v in enumerate(variables)
        }

    @property
    def state(self) -> tuple[Any, ...]:
        """What has to survive a kill, in the order of the variables."""
        return tuple(self._averages.values())

    def take(self, variable: Any, gradient: Any) -> None:
        """One batch's gradient (dense or IndexedSlices) of any variable, within a traced step, before it is applied."""
        import tensorflow as tf

        average = self._averages.get(variable.ref())
        if average is not None:
            change = tf.square(variable * tf.convert_to_tensor(gradient))
            average.assign(_MEMORY * average + (1 - _MEMORY) * change)

    def of(self, variable: Any) -> Any:
        """float32 array of the variable's shape."""
        return self._averages[variable.ref()].numpy()
