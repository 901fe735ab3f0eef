"""Answers to the exercises of docs/learn/07_int8.py."""

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from export.graph_precision import Activation, quantized_weight


def relative_error(approximate, exact):
    return np.linalg.norm(approximate - exact) / np.linalg.norm(exact)


def test_exercise_1_zero_is_exact_and_values_beyond_the_range_become_its_ends():
    for low, high in ((-1.0, 3.0), (0.5, 2.0), (-7.3, -0.2), (-1e-3, 40.0)):
        activation = Activation.of_range(low, high)
        assert activation.rounded(np.zeros(3, np.float32)).tolist() == [0.0, 0.0, 0.0]
        ends = activation.rounded(np.array([-1e6, 1e6], np.float32))
        assert np.allclose(ends, activation.range, atol=1e-5)


def test_exercise_2_smoothing_keeps_the_product_and_makes_it_easier_to_round():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(200, 32)).astype(np.float32)
    x[:, 3] *= 100  # one large column
    weight = generator.normal(size=(32, 16)).astype(np.float32)
    largest = np.abs(x).max(axis=0)
    plain = Activation.of_range(float(x.min()), float(x.max()))
    smoothing = (1 / np.sqrt(largest)).astype(np.float32)
    ends = x * smoothing
    smoothed = Activation(*_scale(ends), smoothing=smoothing)
    assert np.allclose(smoothed.smoothed(x) @ smoothed.smoothed_weight(weight), x @ weight, atol=1e-3)
    errors = []
    for activation in (plain, smoothed):
        values, scale = quantized_weight(activation.smoothed_weight(weight), bits=8)
        product = activation.rounded(activation.smoothed(x)) @ (values * scale)
        others = np.abs(x[:, 3]) < 50  # tokens whose product the large column does not dominate
        errors.append(relative_error(product[others], (x @ weight)[others]))
    assert errors[1] < errors[0] / 2


def _scale(values):
    activation = Activation.of_range(float(values.min()), float(values.max()))
    return activation.scale, activation.zero_point


def test_exercise_3_onnx_runtime_multiplies_the_same_integers():
    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, (5, 64)).astype(np.uint8)
    weight = generator.integers(-63, 64, (64, 7)).astype(np.int8)  # 7 bits never saturate, on no processor
    zero = np.array(117, np.uint8)
    node = helper.make_node("MatMulInteger", ["x", "weight", "zero"], ["product"])
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.UINT8, x.shape),
        helper.make_tensor_value_info("weight", TensorProto.INT8, weight.shape),
        helper.make_tensor_value_info("zero", TensorProto.UINT8, ()),
    ]
    output = helper.make_tensor_value_info("product", TensorProto.INT32, (5, 7))
    graph = helper.make_graph([node], "product", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (product,) = session.run(None, {"x": x, "weight": weight, "zero": zero})
    assert np.array_equal(product, (x.astype(np.int32) - 117) @ weight.astype(np.int32))
