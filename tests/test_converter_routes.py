"""What TensorFlow's converter refuses as it is, it takes by another way, which is named; or the operator is."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from edgecompile.artifact import Signature, TensorInfo
from edgecompile.backends.litert import BUILTIN, LiteRtRunner
from edgecompile.errors import ConversionError
from edgecompile.stages.convert import keras_call, variables_of
from edgecompile.stages.converter_routes import convert_by_any


def converted(function: Callable[[Any], Any], shape: tuple[int, ...]) -> tuple[bytes, tuple[str, ...], Any]:
    x = keras.Input(shape, name="x")
    out = function(keras.layers.Dense(shape[-1], name="mix")(x))
    model = keras.Model(x, out)
    signature = Signature(
        (TensorInfo("x", (1, *shape), "float32"),), (TensorInfo("y", (1, *out.shape[1:]), str(out.dtype)),)
    )
    return (*convert_by_any(keras_call(model), variables_of(model), signature, None), model)


@pytest.mark.parametrize(
    ("function", "note"),
    [
        (lambda z: keras.ops.argmax(z, axis=-1), "in place of Keras's: .*BitwiseAnd"),
        (lambda z: keras.ops.one_hot(keras.ops.argmin(z, axis=-1), 6), "in place of Keras's: .*BitwiseAnd"),
        (lambda z: z * (1 + keras.ops.erf(z / 1.5)), "in place of Keras's: .*Erf"),
        (lambda z: keras.ops.gelu(z, approximate=False), ""),
    ],
)
def test_another_way_computes_the_same_and_is_named(function: Callable[[Any], Any], note: str, tmp_path: Path) -> None:
    content, notes, model = converted(function, (5, 6))
    (tmp_path / "m.tflite").write_bytes(content)
    assert len(notes) == (1 if note else 0)
    assert all(re.search(note, found) for found in notes)
    x = np.random.default_rng(0).normal(0, 3, (20, 5, 6)).astype(np.float32)
    received = LiteRtRunner(tmp_path / "m.tflite", BUILTIN).run({"x": x})["y"]
    np.testing.assert_allclose(received, np.asarray(model(x)), atol=1e-5, rtol=1e-5)


def test_an_operator_that_no_way_has_is_named() -> None:
    with pytest.raises(ConversionError, match="MatrixDiagPart") as caught:
        converted(lambda z: keras.ops.diagonal(z, axis1=1, axis2=2), (6, 6))
    assert caught.value.hint
