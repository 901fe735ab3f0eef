import numpy as np
import pytest
import torch
from test_int8 import Tiny

from compress.fake_int8 import fake_int8
from compress.sensitivity import sublayers
from export.onnx import write_int8
from export.precision import LayerPrecision, Precision
from models.classifier import TensorBatch
from models.train.predict import predict


def in_torch(tiny, scales, precision):
    with fake_int8(tiny.model, scales, precision):
        return np.concatenate([predict(tiny.model, [e], tiny.tokenizer) for e in tiny.encoded])


def in_onnx(tiny, scales, precision, path):
    write_int8(tiny.model, path, tiny.pair, scales, precision)
    return tiny.alone(path)


def check_equal(found, wanted, fp32):
    """An input halfway between two steps may go to either: few rows, and no further than int8 itself is off."""
    differ = np.abs(found - wanted).max(axis=1)
    assert (differ < 1e-5).mean() > 0.9
    assert differ.max() < np.abs(wanted - fp32).max()
    assert np.abs(found - fp32).max() > 1e-3  # it does round


@pytest.mark.parametrize(
    "made",
    [{}, {"pair": True}, {"pruned": True}, {"family": "roberta"}, {"family": "electra"}, {"family": "distilbert"}],
    ids=str,
)
def test_torch_answers_as_the_static_graph(tmp_path, made):
    tiny = Tiny(tmp_path, **made)
    scales, precision = tiny.scales(), Precision.all_int8(tiny.shape)
    check_equal(in_torch(tiny, scales, precision), in_onnx(tiny, scales, precision, tmp_path / "a.onnx"), tiny.wanted)


@pytest.mark.parametrize("made", [{}, {"pruned": True}, {"classifier_pooling": "mean"}], ids=str)
def test_each_sublayer_of_a_modernbert_answers_as_in_the_graph(tmp_path, made):
    """One at a time: with all four layers an input or a weight halfway between two steps decides many after it."""
    tiny = Tiny(tmp_path, family="modernbert", **made)
    scales, nothing = tiny.scales(), Precision.all_fp32(tiny.shape)
    for index, part in sublayers(tiny.shape):
        precision = nothing.replaced(index, part, "int8")
        found, wanted = in_torch(tiny, scales, precision), in_onnx(tiny, scales, precision, tmp_path / "a.onnx")
        differ = np.abs(found - wanted).max(axis=1)
        assert differ.mean() < 0.1 * np.abs(wanted - tiny.wanted).mean()


def test_outliers_are_smoothed_and_weights_of_seven_bits_rounded_as_in_the_graph(tmp_path):
    tiny = Tiny(tmp_path)
    with torch.no_grad():
        for layer in tiny.model.encoder.layers:
            layer.attention.norm.weight[3] = layer.ffn.norm.weight[5] = 60.0
            layer.attention.qkv.weight[-60] *= 12
    tiny.wanted = predict(tiny.model, tiny.encoded, tiny.tokenizer)
    scales, precision = tiny.scales(), Precision.all_int8(tiny.shape, weight_bits=7)
    assert any(a.smoothing is not None for a in scales.values())
    check_equal(in_torch(tiny, scales, precision), in_onnx(tiny, scales, precision, tmp_path / "a.onnx"), tiny.wanted)


def test_only_what_the_plan_puts_into_int8_is_rounded(tmp_path):
    tiny = Tiny(tmp_path)
    scales = tiny.scales()
    for one, other in (("fp32", "int8"), ("int8", "fp32")):
        layers = (LayerPrecision(attention=one, ffn=other), LayerPrecision(attention=other, ffn=one))
        precision = Precision(layers=layers)
        check_equal(
            in_torch(tiny, scales, precision), in_onnx(tiny, scales, precision, tmp_path / "a.onnx"), tiny.wanted
        )


def test_the_model_is_as_it_was_afterwards(tmp_path):
    tiny = Tiny(tmp_path)
    names = {name: id(parameter) for name, parameter in tiny.model.named_parameters()}
    with fake_int8(tiny.model, tiny.scales(), Precision.all_int8(tiny.shape)):
        assert {name: id(parameter) for name, parameter in tiny.model.named_parameters()} == names
    assert np.array_equal(predict(tiny.model, tiny.encoded, tiny.tokenizer), tiny.wanted)


@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_pass_and_are_near_those_without_rounding(tmp_path, autocast):
    tiny = Tiny(tmp_path)
    batch, parameters = TensorBatch(tiny.tokenizer.pad(tiny.encoded)), dict(tiny.model.named_parameters())

    def gradients():
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = tiny.model(batch)[0].float().pow(2).sum()
        return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))

    plain = gradients()
    with fake_int8(tiny.model, tiny.scales(), Precision.all_int8(tiny.shape)):
        rounded = gradients()
    for name, wanted in plain.items():
        near = torch.cosine_similarity(wanted.flatten().float(), rounded[name].flatten().float(), dim=0)
        assert near > 0.9, name


def test_an_input_outside_its_range_has_no_gradient(tmp_path):
    tiny = Tiny(tmp_path)
    scales, linear = tiny.scales(), tiny.model.encoder.layers[0].ffn.rise
    _, high = scales["encoder.layers.0.ffn.rise"].range
    inputs = torch.zeros(1, 2, linear.in_features)
    inputs[0, 0, 0], inputs[0, 1, 0] = 2 * high, 0.9 * high
    with fake_int8(tiny.model, scales, Precision.all_int8(tiny.shape)):
        (gradient,) = torch.autograd.grad(linear(inputs.requires_grad_()).sum(), [inputs])
    assert gradient[0, 0, 0] == 0
    assert gradient[0, 1, 0] != 0
