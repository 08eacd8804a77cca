"""What TensorRT's inspector says of an engine's layers, read."""

import pytest

from edgekd_device.runtime import trt_layers


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("", {}),
        ("[]", {}),
        ('{"Layers": "none"}', {}),
        ('{"Layers": ["conv1", "relu1"]}', {}),
        ('{"Layers": [{"Name": "a", "Inputs": []}, {"Inputs": [1]}, {"Inputs": [{"Format": "row major"}]}]}', {}),
        (
            '{"Layers": [{"LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": '
            '"Thirty-two wide channel vectorized row major Int8 format"}]}]}',
            {"int8": 1, "products": 1, "int8 products": 1},
        ),
        (
            '{"Layers": [{"LayerType": "gemm", "Inputs": [{"Format": "Row major", "Datatype": "Half"}]}, '
            '{"LayerType": "Reformat", "Inputs": [{"Format/Datatype": "Row major linear FP32"}]}]}',
            {"fp16": 1, "products": 1, "int8 products": 0},
        ),
        (
            '{"Layers": [{"Name": "Reformatting CopyNode for Input Tensor 0 to Conv_12", "LayerType": "Reformat", '
            '"ParameterType": "Reformat", "Inputs": [{"Format/Datatype": "Row major linear Int8 format"}]}, '
            '{"Name": "Conv_12 + Relu_13", "LayerType": "CaskConvolution", "ParameterType": "Convolution", '
            '"Inputs": [{"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}]}, '
            '{"Name": "conv pool", "LayerType": "CaskPooling", "ParameterType": "Pooling", '
            '"Inputs": [{"Format/Datatype": "Row major linear FP16 format"}]}]}',
            {"fp16": 2, "products": 1, "int8 products": 0},
        ),
    ],
)
def test_what_the_inspector_says(text, counts):
    assert trt_layers.precisions(text) == counts
    kinds = [f"{count} in {kind}" for kind, count in counts.items() if "products" not in kind]
    said = "layers: " + ", ".join(kinds) if kinds else "the layers' precisions are not known"
    assert trt_layers.sentence(counts) == said
