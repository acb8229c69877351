"""Weights that are tied while they train: members of a cluster stay equal, and zeros stay zero.

Members get the mean of their gradients, zeros none: Deep Compression's rule (Han, Mao and Dally, "Deep
Compression" (2016), section 3). Adam then moves members alike, since it only sees their gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgecompile.task import Array


@dataclass(frozen=True)
class Ties:
    """labels: int32, of the kernel's shape; weights with the same label stay equal. zeros: those that stay zero."""

    labels: Array
    zeros: Array

    @staticmethod
    def of(kernel: Array, *, sparsity: bool, clusters: bool) -> Ties:
        """Ties that keep what `kernel` has: its zeros, or that equal values are equal, or both."""
        labels = np.unique(kernel, return_inverse=True)[1] if clusters else np.arange(kernel.size)
        zeros = (kernel == 0) if sparsity else np.zeros(kernel.shape, bool)
        return Ties(labels.reshape(kernel.shape).astype(np.int32), zeros)

    def snap(self, kernel: Array) -> Array:
        """`kernel` with members of a cluster exactly equal: vectorised arithmetic may part them by a last bit."""
        first = np.unique(self.labels, return_index=True)[1]
        return np.where(self.zeros, 0, kernel.reshape(-1)[first][self.labels]).astype(kernel.dtype)

    def tie(self, gradient: Any) -> Any:
        """The gradient of a kernel, averaged over each cluster, and none where the weight is zero."""
        import tensorflow as tf

        free = tf.constant((~self.zeros).astype(np.float32))
        sizes = np.bincount(self.labels.reshape(-1)).astype(np.float32)
        if len(sizes) == self.labels.size:  # nothing is equal to anything
            return gradient * free
        labels = tf.constant(self.labels.reshape(-1))
        mean = tf.math.unsorted_segment_sum(tf.reshape(gradient, [-1]), labels, len(sizes)) / sizes
        return tf.reshape(tf.gather(mean, labels), self.labels.shape) * free
