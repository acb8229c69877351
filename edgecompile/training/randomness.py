"""What layers draw at random in training, made to depend on the epoch alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_CACHES = {
    "_dropout_mask_cache": "_create_dropout_mask",
    "_recurrent_dropout_mask_cache": "_create_recurrent_dropout_mask",
}


def random_generators(model: Any) -> list[tuple[Any, int]] | None:
    """(generator, its seed) of each layer that was given one; None where no layer draws at random in training."""
    if not any(_draws(module) for module in model.submodules):
        return None
    generators = [module._random_generator for module in model.submodules if hasattr(module, "_random_generator")]
    return [(g, g._seed) for g in generators if isinstance(getattr(g, "_seed", None), int)]


def _draws(module: Any) -> bool:
    kind, rates = type(module).__name__, _rates(module)
    return any(rates.values()) if rates else any(word in kind for word in ("Dropout", "Gaussian", "Random"))


def _rates(module: Any) -> dict[str, float]:
    """What share of values a layer or a recurrent cell drops, by the attribute that says so."""
    names = ("rate",) if "Dropout" in type(module).__name__ else ("dropout", "recurrent_dropout")
    found = {name: getattr(module, name, None) for name in names if not hasattr(type(module), name)}
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


@contextmanager
def dropout_at(share: float, model: Any) -> Iterator[None]:
    """Every layer of it drops this share of what it would drop."""
    rates = [(module, name, rate) for module in model.submodules for name, rate in _rates(module).items()]
    try:
        for module, name, rate in rates:
            object.__setattr__(module, name, rate * share)
        yield
    finally:
        for module, name, rate in rates:
            object.__setattr__(module, name, rate)


class _Mask:
    """The masks of one recurrent cell for one batch, in place of tf-keras' cache of them."""

    def __init__(self, create: Callable[..., Any]) -> None:
        self._create, self._made = create, None

    def setdefault(self, *, kwargs: dict[str, Any]) -> Any:
        if self._made is None:
            self._made = self._create(**kwargs)
        return self._made

    def clear(self) -> None:
        self._made = None


@contextmanager
def one_mask_a_batch(model: Any) -> Iterator[None]:
    """Recurrent dropout masks that hold for all time steps of a batch, as Gal and Ghahramani, "A Theoretically
    Grounded Application of Dropout in Recurrent Neural Networks" (2016), section 4, and tf-keras' own comments say.

    tf-keras keys its cache by graph, so the body of the loop over time makes new ones. Its iterations run in
    parallel, and which of them draws first is chance: two runs from one seed differ now and then. A layer calls
    its cell once before the loop, after clearing the cache; those masks the body can capture.
    """
    cells = [(cell, name) for cell in model.submodules for name in _CACHES if hasattr(cell, name)]
    kept = [getattr(cell, name) for cell, name in cells]
    for cell, name in cells:
        object.__setattr__(cell, name, _Mask(getattr(cell, _CACHES[name])))
    try:
        yield
    finally:
        for (cell, name), cache in zip(cells, kept, strict=True):
            cache.clear()
            object.__setattr__(cell, name, cache)
