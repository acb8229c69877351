"""TVM's code of whole networks on real inputs: to the bit in LiteRT's rounding, and fast within XNNPACK's distance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from backends.compiled import EXACT, FAST, Array, as_reference, compiled, has_integers
from backends.networks import FILES, built_in, random_weights, real_inputs, task, widened

from edgecompile import catalog, compare
from edgecompile.backends.litert import REFERENCE, XNNPACK, LiteRtRunner
from edgecompile.loaders.interpreter import own_signature
from edgecompile.stages.evaluate import test_set as labelled
from edgecompile.tflite_file import read

pytestmark = pytest.mark.slow

# Weights in int8 and arithmetic in float: TVM's code has no use for LiteRT's quantizing of activations as they come.
DYNAMIC = {"mlperf_tiny/kws/kws_ref_model_float32.tflite"}


def given(model: Path, of: str, data: Path, count: int = 100) -> dict[str, Array]:
    (spec,) = own_signature(read(model)).inputs
    found = real_inputs(of, data, count)
    return {spec.name: found.reshape(len(found), *spec.shape[1:])}


def test_every_file_there_is_is_looked_at(data: Path) -> None:
    assert {str(path.relative_to(data / "models")) for path in (data / "models").rglob("*.tflite")} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_files_as_they_come(name: str, data: Path, tmp_path: Path) -> None:
    model = data / "models" / name
    x = given(model, FILES[name], data)
    if name in DYNAMIC:
        as_reference(model, x, of=widened(model, tmp_path / "widened.tflite"))
    else:
        as_reference(model, x)


@pytest.mark.parametrize("recipe", ["float", "int8"])
@pytest.mark.parametrize("model", catalog.ids())
def test_built_in_models(model: str, recipe: str, data: Path, tmp_path: Path) -> None:
    made = built_in(model, recipe, data, tmp_path)
    # The reference kernels take seconds for a picture of MobileNetV2, and in floats nothing is asked to the bit.
    count = 25 if model == "mobilenet_v2" and recipe == "float" else 100
    as_reference(made, given(made, model, data, count))


@pytest.mark.parametrize("recipe", ["float", "int8"])
@pytest.mark.parametrize("name", ["MobileNet", "MobileNetV3Small", "EfficientNetB0"])
def test_other_networks_with_random_weights(name: str, recipe: str, data: Path, tmp_path: Path) -> None:
    images = real_inputs("mobilenet_v2", data, 32)[:, 64:160, 64:160] * 127.5 + 127.5
    made = random_weights(name, recipe, images, tmp_path)
    (spec,) = own_signature(read(made)).inputs
    x = {spec.name: images[:10]}
    ((output, expected),) = LiteRtRunner(made, REFERENCE).run(x).items()
    found = compiled(made, FAST).run(x)[output]
    if recipe == "float":
        assert np.abs(found - expected).max() <= 1e-4 * np.ptp(expected)
        return
    assert np.array_equal(compiled(made, EXACT).run(x)[output], expected)
    # One step at a layer is many at the end where weights are random, which a gate would take for another network.
    litert = LiteRtRunner(made, XNNPACK).run(x)[output]
    assert np.abs(found - expected).mean() <= 1.2 * np.abs(litert - expected).mean()


@pytest.mark.parametrize("recipe", ["float16", "dynamic", "int8-weights"])
def test_weights_that_are_stored_smaller(recipe: str, data: Path, tmp_path: Path) -> None:
    """The arithmetic is in floats, with weights as what is stored stands for: LiteRT's own of float16, and of int8 that
    of the model with these weights, as LiteRT would quantize activations too."""
    made = built_in("ds_cnn", recipe, data, tmp_path)
    assert any(t.dtype in ("int8", "float16") for t in read(made).main.tensors if t.is_constant)
    dynamic = widened(made, tmp_path / "widened.tflite") if recipe == "dynamic" else None
    as_reference(made, given(made, "ds_cnn", data), of=dynamic)


# {a file below models/mlperf_tiny: whose test set}
TESTED = {
    "ic/pretrainedResnet": "resnet8",
    "ic/pretrainedResnet_quant": "resnet8",
    "kws/kws_ref_model_float32": "ds_cnn",
    "kws/kws_ref_model": "ds_cnn",
    "vww/vww_96_float": "mobilenet_v1_025_96",
    "vww/vww_96_int8": "mobilenet_v1_025_96",
    "ad/ad01_fp32": "fc_autoencoder",
    "ad/ad01_int8": "fc_autoencoder",
}


@pytest.mark.parametrize("name", TESTED)
def test_accuracy_on_whole_test_sets(name: str, data: Path) -> None:
    """In LiteRT's rounding the outputs are the same, and so is the metric. What is fast may differ from XNNPACK's by
    what chance explains, and by less than a third of a point."""
    model = data / "models/mlperf_tiny" / f"{name}.tflite"
    metric, labels, x = labelled(task(TESTED[name], data), own_signature(read(model)))
    if has_integers(model):
        reference, exact = LiteRtRunner(model, REFERENCE).run(x), compiled(model, EXACT).run(x)
        assert all(np.array_equal(exact[key], array) for key, array in reference.items())
    litert, fast = LiteRtRunner(model, XNNPACK).run_real(x), compiled(model, FAST).run_real(x)
    before, value = (metric.score(labels, outputs, x) for outputs in (litert, fast))
    print(f"{name}: {metric.name} {value:.4f} of TVM's code, {before:.4f} of LiteRT's")
    low, high = compare.paired_interval(metric, labels, litert, fast, x)
    assert low <= 0 <= high
    assert compare.metric_drop(metric, before, value) < 1 / 3
