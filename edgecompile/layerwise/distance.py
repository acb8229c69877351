"""How far the values of one tensor are from another's, summed up sample by sample: nothing of a sample is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgecompile.task import Array


@dataclass
class Distance:
    """Sums over all values added so far, in float64.

    snr_db and cosine are those of `edgecompile.compare.snr_db` and `cosine` on all samples at once.
    nonfinite: values that are NaN or infinite in one tensor and not the same in the other; the sums leave out
    whatever is not finite. low, high: the reference's least and largest value, with zero in between.
    """

    power: float = 0.0
    other_power: float = 0.0
    product: float = 0.0
    error: float = 0.0
    max_abs: float = 0.0
    low: float = 0.0
    high: float = 0.0
    nonfinite: int = 0

    def add(self, reference: Array, other: Array) -> None:
        """Count in values of both, real numbers (or booleans) of one shape."""
        a, b = reference.astype(np.float64).ravel(), other.astype(np.float64).ravel()
        finite = np.isfinite(a) & np.isfinite(b)
        if not finite.all():
            odd = ~finite
            self.nonfinite += int(np.count_nonzero(~((a == b) | (np.isnan(a) & np.isnan(b)))[odd]))
            a, b = a[finite], b[finite]
        if not a.size:
            return
        noise = b - a
        self.power += float(a @ a)
        self.other_power += float(b @ b)
        self.product += float(a @ b)
        self.error += float(noise @ noise)
        self.max_abs = max(self.max_abs, float(np.abs(noise).max()))
        self.low, self.high = min(self.low, float(a.min())), max(self.high, float(a.max()))

    @property
    def snr_db(self) -> float:
        """Infinite where all values are equal, minus infinity where the reference is 0 everywhere or NaN came in."""
        if self.nonfinite or (self.error and not self.power):
            return -math.inf
        return 10 * math.log10(self.power / self.error) if self.error else math.inf

    @property
    def cosine(self) -> float:
        if not self.power or not self.other_power:
            return 1.0 if self.power == self.other_power else 0.0
        return max(-1.0, min(1.0, self.product / math.sqrt(self.power) / math.sqrt(self.other_power)))

    @property
    def relative(self) -> float:
        """The largest error as a share of the reference's range, which includes zero; of 1 where that is empty."""
        return self.max_abs / ((self.high - self.low) or 1.0)
