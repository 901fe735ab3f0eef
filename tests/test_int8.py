import itertools

import numpy as np
import pytest
from tiny import make_tiny_checkpoint, make_tiny_family, tiny_texts

from compress.calibrate import TextBatches, calibrate
from compress.histogram import METHODS
from compress.surgery import cut
from export.graph import check_fused
from export.onnx import to_onnx, write_int8
from export.precision import LayerPrecision, Precision, quantized_weight
from models.checkpoint import load_checkpoint
from models.errors import CheckError, InputError
from models.tokens import TokenBatch, Tokenizer
from models.train.predict import predict
from service.engine import run_session
from service.runtime import open_session

PRUNED = ([np.array([0, 2]), np.array([], dtype=int)], [np.array([], dtype=int), np.arange(0, 96, 3)])


class Tiny:
    """A random classifier with its texts and its fp32 answers."""

    def __init__(self, folder, pair=False, family=None, pruned=False):
        if family:
            make_tiny_family(folder, family)
        else:
            make_tiny_checkpoint(folder)
        model = load_checkpoint(folder)
        self.model = cut(model, *PRUNED) if pruned else model
        self.shape, self.pair = self.model.architecture, pair
        self.tokenizer = Tokenizer.open(folder, 32)
        self.encoded = self.tokenizer.encode(tiny_texts(24, pair).rows)
        self.wanted = predict(self.model, self.encoded, self.tokenizer)

    def scales(self, method="error"):
        return calibrate(self.model, TextBatches(self.encoded, self.tokenizer), method)

    def alone(self, path):
        session = open_session(path)
        return np.concatenate([run_session(session, self.tokenizer.pad([e])) for e in self.encoded])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return Tiny(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("recipe", ["static", "dynamic"])
@pytest.mark.parametrize(
    "made",
    [{}, {"pair": True}, {"pruned": True}, {"family": "roberta"}, {"family": "electra"}, {"family": "distilbert"}],
    ids=str,
)
def test_int8_answers_as_torch_does(tmp_path, made, recipe):
    tiny = Tiny(tmp_path, **made)
    write_int8(tiny.model, tmp_path / "int8.onnx", tiny.pair, tiny.scales() if recipe == "static" else None)
    check_fused(tmp_path / "int8.onnx", tiny.shape, Precision.all_int8(tiny.shape), recipe == "static")
    assert np.abs(tiny.alone(tmp_path / "int8.onnx") - tiny.wanted).max() < 0.1 * np.ptp(tiny.wanted)


@pytest.mark.parametrize("pruned", [False, True])
def test_every_plan_of_precisions_runs_as_it_says(tmp_path, pruned):
    tiny, path = Tiny(tmp_path, pruned=pruned), tmp_path / "plan.onnx"
    scales = tiny.scales()
    for kinds in itertools.product(("fp32", "int8"), repeat=4):
        layers = tuple(LayerPrecision(attention=kinds[i], ffn=kinds[i + 1]) for i in (0, 2))
        precision = Precision(layers=layers)
        write_int8(tiny.model, path, False, scales, precision)
        check_fused(path, tiny.shape, precision, static=True)
        assert np.abs(tiny.alone(path) - tiny.wanted).max() < 0.1 * np.ptp(tiny.wanted)


def test_without_int8_sublayers_only_the_token_table_is_rounded(tiny, tmp_path):
    write_int8(tiny.model, tmp_path / "none.onnx", False, {}, Precision.all_fp32(tiny.shape))
    to_onnx(tiny.model, tmp_path / "table.onnx", False, int8_embeddings=True)
    assert np.array_equal(tiny.alone(tmp_path / "none.onnx"), tiny.alone(tmp_path / "table.onnx"))


def test_a_graph_that_is_not_what_it_should_be_is_an_error(tiny, tmp_path):
    to_onnx(tiny.model, tmp_path / "fp32.onnx", False)
    with pytest.raises(CheckError, match="MatMulIntegerToFloat: 0 run, 8 wanted"):
        check_fused(tmp_path / "fp32.onnx", tiny.shape, Precision.all_int8(tiny.shape), static=True)


def test_static_answers_do_not_depend_on_batch_padding_or_order(tiny, tmp_path):
    path = tmp_path / "static.onnx"
    write_int8(tiny.model, path, False, tiny.scales())
    session, alone, generator = open_session(path), tiny.alone(path), np.random.default_rng(0)
    for _ in range(40):
        chosen = generator.permutation(len(tiny.encoded))[: generator.integers(1, 20)]
        batch = tiny.tokenizer.pad([tiny.encoded[i] for i in chosen])
        more = ((0, 0), (0, int(generator.integers(0, 48 - batch.ids.shape[1]))))
        padded = TokenBatch(*(np.pad(a, more) for a in (batch.ids, batch.mask, batch.types)))
        assert np.array_equal(run_session(session, padded), alone[chosen])


@pytest.mark.parametrize("method", METHODS)
def test_every_way_to_cut_ranges_gives_a_working_model(tiny, tmp_path, method):
    write_int8(tiny.model, tmp_path / "static.onnx", False, tiny.scales(method))
    assert np.abs(tiny.alone(tmp_path / "static.onnx") - tiny.wanted).max() < 0.1 * np.ptp(tiny.wanted)


def test_the_correction_is_the_mean_error_of_the_rounded_product(tiny):
    scales = tiny.scales("minmax")
    found = {}

    def keep(module, inputs):
        found.setdefault("x", []).append(inputs[0][0].numpy())  # (tokens, inputs), one text a batch: no padding

    linear = tiny.model.encoder.layers[0].ffn.rise
    handle = linear.register_forward_pre_hook(keep)
    for e in tiny.encoded:
        predict(tiny.model, [e], tiny.tokenizer)
    handle.remove()
    x, weight = np.concatenate(found["x"]).astype(np.float64), linear.weight.detach().numpy().T
    rounded, scale = quantized_weight(weight, 8)
    activation = scales["encoder.layers.0.ffn.rise"]
    low, high = min(x.min(), 0), max(x.max(), 0)
    assert activation.scale == pytest.approx((high - low) / 255, rel=1e-5)
    error = x @ weight - activation.quantized(x.astype(np.float32)) @ (rounded * scale)
    assert np.allclose(activation.correction, error.mean(0), atol=1e-5)


def test_calibration_without_texts_is_refused(tiny):
    with pytest.raises(InputError, match="no calibration texts"):
        calibrate(tiny.model, [])
