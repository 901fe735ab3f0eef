import copy
import itertools
import shutil
import tracemalloc
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from cutting import cut_units
from tiny import make_tiny_checkpoint, make_tiny_family, tiny_texts

from compress.quantization.calibration import TextBatches, calibrate
from compress.quantization.calibration_texts import BundleTexts
from compress.quantization.histogram import METHODS
from compress.quantization.quantize import QuantizationContext, QuantizeConfig, quantize
from compress.search.latency_meter import write_served
from export import graph_precision as precision_file
from export.embedding_table import BLOCK, quantized_blocks, rounded_in_blocks
from export.fused_operators import check_fused, check_half, running_operators
from export.graph_precision import LayerPrecision, Precision, quantized_weight
from export.writer import to_onnx, write_fp16, write_int8
from models import task as task_file
from models import tokenizer as tokenizer_file
from models.checkpoint import load_checkpoint, save_checkpoint
from models.data.texts import Texts
from models.errors import CheckError, InputError
from models.finetuning.predict import predict
from models.task import Task
from models.tokenizer import TokenBatch, Tokenizer
from service.model.engine import run_session
from service.model.session import open_session

PRUNED = ([np.array([0, 2]), np.array([], dtype=int)], [np.array([], dtype=int), np.arange(0, 96, 3)])


class Tiny:
    """A random classifier with its texts and its fp32 answers."""

    def __init__(self, folder, pair=False, family=None, pruned=False, **changes):
        if family:
            make_tiny_family(folder, family, **changes)
        else:
            make_tiny_checkpoint(folder)
        self.folder, model = folder, load_checkpoint(folder)
        self.model = cut_units(model, *PRUNED) if pruned else model
        self.shape, self.pair = self.model.architecture, pair
        self.tokenizer = Tokenizer.open(folder, 32)
        self.rows = tiny_texts(24, pair).rows
        self.encoded = self.tokenizer.encode(self.rows)
        self.wanted = predict(self.model, self.encoded, self.tokenizer)

    def scales(self, method="mse", smooth=True):
        return calibrate(self.model, TextBatches(self.rows, self.tokenizer), method, smooth=smooth)

    def alone(self, path):
        session = open_session(path)
        return np.concatenate([run_session(session, self.tokenizer.pad([e])) for e in self.encoded])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return Tiny(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("recipe", ["static", "dynamic"])
@pytest.mark.parametrize(
    "made",
    [
        {}, {"pair": True}, {"pruned": True}, {"family": "roberta"}, {"family": "electra"}, {"family": "distilbert"},
        {"family": "modernbert"}, {"family": "modernbert", "pruned": True},
        {"family": "deberta-v2"}, {"family": "deberta-v2", "pruned": True},
        {"family": "deberta-v2", "share_att_key": False, "pair": True, "type_vocab_size": 2},
        {"family": "ernie", "hidden_act": "relu"}, {"family": "bert", "hidden_act": "relu", "pruned": True},
        {"family": "roberta", "hidden_act": "gelu_new"}, {"family": "distilbert", "activation": "relu"},
    ],
    ids=str,
)  # fmt: skip
def test_int8_answers_as_torch_does(tmp_path, made, recipe):
    tiny = Tiny(tmp_path, **made)
    write_int8(tiny.model, tmp_path / "int8.onnx", tiny.pair, tiny.scales() if recipe == "static" else None)
    check_fused(tmp_path / "int8.onnx", tiny.shape, Precision.all_int8(tiny.shape), recipe == "static")
    assert np.abs(tiny.alone(tmp_path / "int8.onnx") - tiny.wanted).max() < 0.1 * np.ptp(tiny.wanted)


def test_attention_without_a_bias_runs_in_int8(tmp_path):
    tiny = Tiny(tmp_path)
    with torch.no_grad():
        for name, parameter in tiny.model.named_parameters():
            if name.endswith("qkv.bias"):
                parameter.zero_()
    path = tmp_path / "dynamic.onnx"
    write_int8(tiny.model, path, False, None)
    check_fused(path, tiny.shape, Precision.all_int8(tiny.shape), static=False)
    wanted = predict(tiny.model, tiny.encoded, tiny.tokenizer)
    assert np.abs(tiny.alone(path) - wanted).max() < np.abs(tiny.wanted - wanted).max()


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_fp16_has_the_activation_of_the_checkpoint(tmp_path, activation):
    tiny, path = Tiny(tmp_path, family="bert", hidden_act=activation), tmp_path / "fp16.onnx"
    write_fp16(tiny.model, path, pair=False)
    check_half(path, tiny.shape)
    assert np.abs(tiny.alone(path) - tiny.wanted).max() < 0.02 * np.ptp(tiny.wanted)


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


def in_int8(table):
    scale = np.abs(table).max(axis=1, keepdims=True) / 127
    return np.round(table / scale) * scale


@pytest.mark.parametrize(("bits", "rounded"), [(8, in_int8), (4, rounded_in_blocks)], ids=["8", "4"])
@pytest.mark.parametrize("made", [{}, {"hidden_size": 40}, {"pair": True}, {"family": "modernbert"}], ids=str)
def test_without_int8_sublayers_only_the_token_table_is_rounded(tmp_path, made, bits, rounded):
    family = made.get("family", "bert")
    tiny = Tiny(tmp_path, **made | {"family": family})
    precision = Precision.all_fp32(tiny.shape).model_copy(update={"embedding_bits": bits})
    write_int8(tiny.model, tmp_path / "table.onnx", tiny.pair, {}, precision)
    table = tiny.model.encoder.embeddings.tokens.weight
    with torch.no_grad():
        table.copy_(torch.from_numpy(rounded(table.numpy())))
    wanted = predict(tiny.model, tiny.encoded, tiny.tokenizer)
    assert not np.allclose(wanted, tiny.wanted, atol=1e-6)  # rounding is seen
    assert np.abs(tiny.alone(tmp_path / "table.onnx") - wanted).max() < 1e-5


def test_in_four_bits_a_largest_value_stays_and_none_moves_by_more_than_a_step():
    table = np.random.default_rng(0).standard_t(3, size=(64, 96)).astype(np.float32)  # a few values are large
    values, scales = quantized_blocks(table)
    assert values.shape == (64, 3, BLOCK)
    assert scales.shape == (64, 3, 1)
    assert values.min() == -8
    assert values.max() == 7
    blocks = table.reshape(64, 3, BLOCK)
    moved = np.abs(rounded_in_blocks(table).reshape(blocks.shape) - blocks)
    largest = np.abs(blocks).max(axis=2, keepdims=True)
    assert np.all(moved[np.abs(blocks) == largest] < 1e-3 * largest[..., 0].ravel())  # scales are in fp16
    assert np.all(moved <= largest / 8 * 1.001)
    assert np.median(moved / largest) < 1 / 16  # half a step, but for what lies beyond 7 of 8


def test_rounding_to_four_bits_twice_changes_nothing_more():
    table = np.random.default_rng(1).normal(scale=0.05, size=(500, 384)).astype(np.float32)
    once = rounded_in_blocks(table)
    assert np.array_equal(rounded_in_blocks(once), once)
    assert not np.array_equal(once, table)


def test_a_token_without_values_is_zero_in_four_bits():
    assert not rounded_in_blocks(np.zeros((2, 40), dtype=np.float32)).any()


def test_four_bits_take_half_the_space(tiny, tmp_path):
    sizes = {}
    for bits in (8, 4):
        path = tmp_path / f"{bits}.onnx"
        write_int8(tiny.model, path, False, None, Precision.all_int8(tiny.shape, embedding_bits=bits))
        tensors = {w.name: len(w.raw_data) for w in onnx.load(str(path)).graph.initializer}
        sizes[bits] = tensors[f"tokens.int{bits}"]
    assert sizes[4] * 2 == sizes[8] == tiny.shape.vocabulary * tiny.shape.width


def test_a_graph_that_is_not_what_it_should_be_is_an_error(tiny, tmp_path):
    to_onnx(tiny.model, tmp_path / "fp32.onnx", False)
    with pytest.raises(CheckError, match="MatMulIntegerToFloat: 0 run, 8 expected"):
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


def inputs_of(tiny, linear):
    """Return what a linear module reads, (tokens, inputs), one text a batch: no padding."""
    found = []
    handle = linear.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0][0].numpy()))
    for e in tiny.encoded:
        predict(tiny.model, [e], tiny.tokenizer)
    handle.remove()
    return np.concatenate(found)


def test_the_correction_is_the_mean_error_of_the_rounded_product(tiny):
    scales, linear = tiny.scales("minmax", smooth=False), tiny.model.encoder.layers[0].ffn.rise
    x, weight = inputs_of(tiny, linear), linear.weight.detach().numpy().T
    values, scale = quantized_weight(weight, 8)
    activation = scales["encoder.layers.0.ffn.rise"]
    assert activation.scale == pytest.approx((max(x.max(), 0) - min(x.min(), 0)) / 255, rel=1e-5)
    x = np.clip(x, *activation.range)  # the zero point is a whole number, so an end may lie half a step outside
    error = x @ weight.astype(np.float64) - activation.rounded(x) @ (values * scale)
    assert np.allclose(activation.correction, error.mean(0), atol=1e-5)


@pytest.fixture(scope="module")
def outliers(tmp_path_factory):
    """Give a model whose activations have columns of outliers where the matrices read them."""
    tiny = Tiny(tmp_path_factory.mktemp("outliers"))
    with torch.no_grad():
        for layer in tiny.model.encoder.layers:
            layer.attention.norm.weight[3] = 60.0
            layer.ffn.norm.weight[5] = 60.0
            layer.ffn.rise.weight[7] *= 8
            layer.attention.qkv.weight[-60] *= 12
    tiny.wanted = predict(tiny.model, tiny.encoded, tiny.tokenizer)
    return tiny


def test_smoothing_is_used_where_outliers_are_and_makes_int8_truer(outliers, tmp_path):
    errors = {}
    for smooth in (True, False):
        scales = outliers.scales(smooth=smooth)
        assert smooth == any(a.smoothing is not None for a in scales.values())
        write_int8(outliers.model, tmp_path / "int8.onnx", False, scales)
        errors[smooth] = np.abs(outliers.alone(tmp_path / "int8.onnx") - outliers.wanted).mean()
    assert errors[True] < 0.75 * errors[False]


def test_smoothed_values_cost_no_operator(outliers, tmp_path):
    plain, scales = tmp_path / "plain.onnx", outliers.scales()
    output = "encoder.layers.0.attention.output"
    assert scales[output].smoothing is not None
    write_int8(outliers.model, plain, False, outliers.scales(smooth=False))
    write_int8(outliers.model, tmp_path / "smooth.onnx", False, scales)
    separate = sum(a.smoothing is not None and not n.endswith(".output") for n, a in scales.items())
    more = running_operators(tmp_path / "smooth.onnx") - running_operators(plain)
    assert more == Counter({"Mul": separate})


class Repeated:
    """Rows that are made when they are asked for: what they take is not calibration's memory."""

    def __init__(self, rows, count):
        self.rows, self.count = rows, count

    def __len__(self):
        return self.count

    def __getitem__(self, chosen):
        return [self.rows[i % len(self.rows)] for i in range(self.count)[chosen]]


def test_calibration_takes_no_more_memory_for_more_texts(tiny, monkeypatch):
    monkeypatch.setattr("compress.quantization.calibration.BATCH_TOKENS", 128)
    monkeypatch.setattr("compress.quantization.calibration.ENCODED_AT_ONCE", 16)
    peaks = {}
    for count in (16, 48, 144, 432):
        tracemalloc.start()
        calibrate(tiny.model, TextBatches(Repeated(tiny.rows, count), tiny.tokenizer), "minmax")
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[432] < 1.1 * peaks[48], peaks


def test_calibration_without_texts_is_refused(tiny):
    with pytest.raises(InputError, match="no calibration texts"):
        calibrate(tiny.model, [])


@pytest.mark.parametrize("smoothed", [(), ("encoder.layers.0.ffn.rise", "encoder.layers.1.attention.qkv.query")])
def test_inputs_that_are_named_are_smoothed_and_no_others(outliers, tmp_path, smoothed):
    scales = calibrate(outliers.model, TextBatches(outliers.rows, outliers.tokenizer), smooth=smoothed)
    write_int8(outliers.model, tmp_path / "int8.onnx", False, scales)
    write_int8(outliers.model, tmp_path / "plain.onnx", False, outliers.scales(smooth=False))
    more = running_operators(tmp_path / "int8.onnx") - running_operators(tmp_path / "plain.onnx")
    assert more == (Counter({"Mul": len(smoothed)}) if smoothed else Counter())


def test_a_healed_student_is_served_by_the_operators_that_were_timed(outliers, tmp_path):
    """Healing moves the outliers: by itself, calibration would smooth other inputs than when the shape was chosen."""
    batches = [outliers.tokenizer.batch(outliers.rows)]
    timed = write_served(outliers.model, tmp_path / "timed.onnx", False, batches, Precision.all_int8(outliers.shape))
    healed = copy.deepcopy(outliers.model)
    with torch.no_grad():
        for layer in healed.encoder.layers:
            layer.attention.norm.weight[3] = 1.0
            layer.ffn.norm.weight[5] = 1.0
    task, operators = Task(labels=("a", "b"), max_tokens=32), {}
    save_checkpoint(healed, task, tmp_path)
    task.write(tmp_path / task_file.FILE)
    shutil.copyfile(outliers.folder / tokenizer_file.FILE, tmp_path / tokenizer_file.FILE)
    texts = BundleTexts.of(Texts(outliers.rows, None, "tiny"))
    for name, precision in (("as timed", timed), ("as it pays", timed.model_copy(update={"smoothed": None}))):
        precision.write(tmp_path / precision_file.FILE)
        path = tmp_path / f"{name}.onnx"
        quantize(QuantizationContext(tmp_path, texts), "static", QuantizeConfig(recipe="static", max_loss=100), path)
        operators[name] = running_operators(path)
    assert operators["as timed"] == running_operators(tmp_path / "timed.onnx")
    assert operators["as it pays"] != operators["as timed"]
