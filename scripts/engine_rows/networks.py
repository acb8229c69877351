"""What the rows are of."""

# {precision: recipe}
PRECISIONS = {"int8": "int8", "float32": "float"}
# {name: (source below EDGECOMPILE_DATA, --data)}
MODELS = {
    "resnet8": ("models/mlperf_tiny/ic/pretrainedResnet.h5", "resnet8"),
    "ds-cnn": ("models/mlperf_tiny/kws/kws_ref_model", "ds_cnn"),
    "mobilenet-v1-025-96": ("models/mlperf_tiny/vww/vww_96.h5", "mobilenet_v1_025_96"),
    "autoencoder": ("models/mlperf_tiny/ad/ad01.h5", "fc_autoencoder"),
    "mobilenet-v1-224": ("", ""),
    "mobilenet-v2-224": ("models/imagenet/mobilenet_v2_1.0_224_imagenet1001.h5", "mobilenet_v2"),
}
# In int8 as they come: there are no images to calibrate these with.
QUANTIZED = {
    "mobilenet-v1-025-96": "models/mlperf_tiny/vww/vww_96_int8.tflite",
    "mobilenet-v2-224": "models/imagenet/tf2_mobilenet_v2_1.0_224_ptq.tflite",
}
