"""In which form a Keras model's recurrent layers are converted.

unrolled: each step's operators one after another. Nothing but plain operators, so all engines and all quantization
schemes take it; the file grows with the steps.
rolled: a WHILE loop whose body is one step. What is in a loop can't be calibrated, so static schemes give it int8
weights and float activations.
fused: an UNIDIRECTIONAL_SEQUENCE_LSTM, which only tf-keras's LSTM becomes. ai-edge-quantizer leaves it in float, and
its state is kept from run to run unless it is reset.

Microseconds with XNNPACK on one core of an x86 server, and KiB of the slimmed file, of one layer and a Dense layer
(30 November 2026):

    steps x units      unrolled        rolled          fused
    LSTM 16x8   float    8 us  14 K     22 us   6 K     10 us   4 K
                int8     8 us  19 K     24 us   4 K     as float
                int16x8 30 us  19 K     24 us   4 K     as float
    LSTM 64x64  float  105 us 128 K    132 us  85 K    158 us  83 K
                int8    67 us  94 K    104 us  29 K     as float
                int16x8 370 us 95 K    103 us  29 K     as float
    GRU 64x64   float   87 us 116 K    130 us  64 K
                int8    65 us  98 K     97 us  22 K
                int16x8 414 us 98 K     97 us  22 K

So unrolled is fastest but for int16 activations, for which LiteRT has no fast kernels, and adds about a KiB a step:
it is taken up to MOST_STEPS, and a loop beyond.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

UNROLLED, ROLLED, FUSED = "unrolled", "rolled", "fused"
FORMS = (UNROLLED, ROLLED, FUSED)
MOST_STEPS = 64  # of all recurrent layers together


def recurrent_layers(model: Any) -> list[Any]:
    """The recurrent layers of a Keras model of either Keras, those inside of wrappers and nested models too."""
    import keras
    import tf_keras

    kinds = (keras.layers.RNN, tf_keras.layers.RNN)
    return [layer for layer in model._flatten_layers() if isinstance(layer, kinds)]


def begin_each_sample_anew(model: Any) -> tuple[str, ...]:
    """Make stateful layers stateless, and say so in a note: samples are independent of each other here, and in what
    the model is converted to."""
    stateful = [layer for layer in recurrent_layers(model) if layer.stateful]
    for layer in stateful:
        layer.stateful = False
    named = ", ".join(layer.name for layer in stateful)
    return (f"stateful layers begin each sample anew: {named}",) if stateful else ()


def forms(layers: Sequence[Any], steps: Mapping[str, int], first: str) -> list[str]:
    """The forms there are for these layers, the best one first, or the one that `first` names ("": none).

    steps: as `count_steps` gives them; a layer whose number of steps isn't known is missing.
    """
    known = all(layer.name in steps for layer in layers)
    short = known and sum(steps.values()) <= MOST_STEPS
    order = [UNROLLED, ROLLED, FUSED] if short else [ROLLED, FUSED, UNROLLED]
    possible = {UNROLLED: known, ROLLED: True, FUSED: any(_fusible(layer) for layer in layers)}
    return sorted((form for form in order if possible[form]), key=lambda form: form != first)


def count_steps(layers: Sequence[Any], trace: Callable[[], object]) -> dict[str, int]:
    """{layer: its steps, over all its calls} while `trace` traces the model; what isn't known then is left out."""
    found: dict[str, int] = {}
    unknown = set()

    def recorded(layer: Any, call: Callable[..., Any]) -> Callable[..., Any]:
        def of(sequences: Any, *args: Any, **kwargs: Any) -> Any:
            steps = sequences.shape[0 if getattr(layer, "time_major", False) else 1]
            if steps is None:
                unknown.add(layer.name)
            else:
                found[layer.name] = found.get(layer.name, 0) + int(steps)
            return call(sequences, *args, **kwargs)

        return of

    try:
        for layer in layers:
            layer.call = recorded(layer, layer.call)
        trace()
    finally:
        for layer in layers:
            vars(layer).pop("call", None)
    return {name: steps for name, steps in found.items() if name not in unknown}


@contextmanager
def converted_as(form: str, layers: Sequence[Any]) -> Iterator[None]:
    """Have the layers traced in that form."""
    # tf-keras gives its LSTM to the converter as one function, which becomes the fused operator, where it might also
    # run on a GPU; without that it is a loop like any other.
    wanted = {"unroll": form == UNROLLED, "_could_use_gpu_kernel": form == FUSED}
    before = [{name: getattr(layer, name) for name in wanted if hasattr(layer, name)} for layer in layers]
    try:
        for layer, kept in zip(layers, before, strict=True):
            for name in kept:
                if name == "unroll" or form != FUSED:
                    setattr(layer, name, wanted[name])
        yield
    finally:
        for layer, kept in zip(layers, before, strict=True):
            for name, value in kept.items():
                setattr(layer, name, value)


def _fusible(layer: Any) -> bool:
    return type(layer).__name__ == "LSTM" and bool(getattr(layer, "_could_use_gpu_kernel", False))
