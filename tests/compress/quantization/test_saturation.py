import numpy as np
import pytest
from tiny import make_tiny_checkpoint, tiny_texts

from compress.quantization.calibration import TextBatches, calibrate
from compress.quantization.saturation import PairSums, saturation
from export.graph_precision import Activation, Precision, quantized_weight
from models.checkpoint import load_checkpoint
from models.tokenizer import Tokenizer


def product_in_16_bits(rounded, weight):
    """Multiply u8 by s8 as VPMADDUBSW and VPMADDWD do: pairs are added in 16 bits, then all in 32."""
    products = rounded.astype(np.int64)[:, :, None] * weight.astype(np.int64)[None]
    pairs = products.reshape(len(rounded), -1, 2, weight.shape[1]).sum(axis=2)
    return np.clip(pairs, -(2**15), 2**15 - 1).sum(axis=1), pairs


@pytest.mark.parametrize("bits", [7, 8])
def test_pair_sums_are_those_of_the_instruction(bits):
    generator = np.random.default_rng(0)
    values = np.abs(generator.normal(0, 1, (40, 12))).astype(np.float32)
    values[:, 4:6] = 3.9
    weight = generator.normal(0, 1, (12, 9)).astype(np.float32)
    weight[4:6, 2] = 4
    activation = Activation.of_range(0, 4)
    outputs = values @ weight
    sums = PairSums(activation, weight, bits)
    for part in np.array_split(np.arange(40), 3):
        sums.add(values[part], 1 / np.square(outputs[part]).sum(1))
    found = sums.result()
    steps, scale = quantized_weight(weight, bits)
    rounded = np.clip(np.rint(values / activation.scale), 0, 255)
    wrong, pairs = product_in_16_bits(rounded, steps)
    error = (rounded @ steps - wrong) * scale * activation.scale
    assert found.pairs == pairs.size
    assert found.saturated == np.count_nonzero((pairs > 2**15 - 1) | (pairs < -(2**15)))
    assert found.error == pytest.approx(np.sqrt((np.square(error).sum(1) / np.square(outputs).sum(1)).mean()))
    assert found.is_safe == (bits == 7)


def test_seven_bits_are_safe_everywhere_and_eight_are_told_by_matrix(tmp_path):
    make_tiny_checkpoint(tmp_path)
    model, tokenizer, rows = load_checkpoint(tmp_path), Tokenizer.open(tmp_path, 32), tiny_texts(24).rows
    for bits in (7, 8):
        scales = calibrate(model, TextBatches(rows, tokenizer), bits=bits)
        precision = Precision.all_int8(model.architecture, bits).replaced(0, "ffn", "fp32")
        found = saturation(model, rows, tokenizer, scales, precision)
        assert set(found) == {n for n in scales if "layers.0.ffn" not in n}
        assert all(one.is_safe for one in found.values()) == (bits == 7)
