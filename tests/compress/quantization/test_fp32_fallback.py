import numpy as np
import pytest
from cutting import cut_units
from tiny import make_tiny_checkpoint

from compress.quantization.fp32_fallback import fall_back_to_fp32, multiply_adds, rank, sublayers
from export.agreement import Agreement
from export.graph_precision import Precision
from models.checkpoint import load_checkpoint

HARM = {(0, "attention"): 0.02, (0, "ffn"): 0.3, (1, "attention"): 0.1, (1, "ffn"): 0.01}


@pytest.fixture(scope="module")
def shape(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shape")
    make_tiny_checkpoint(folder)
    return load_checkpoint(folder).architecture


def harm(precision, rows):
    """Errors of int8 sublayers add up in squares, and each point of mean error costs ten points of accuracy."""
    found = [HARM[i, part] for i, part in HARM if getattr(precision.layers[i], part) == "int8"]
    error = float(np.sqrt(np.square(found).sum()))
    return Agreement(
        rows=rows or 1000, max_difference=error, mean_difference=error, decisions=1, flips=0, rows_changed=0,
        loss_points=10 * error, loss_is="expected",
    )  # fmt: skip


@pytest.mark.parametrize(("max_loss", "kept"), [(4, []), (1.5, ["layer 0 ffn"]), (0.15, None), (0, None)])
def test_the_worst_sublayers_stay_in_fp32_until_the_loss_is_inside(shape, max_loss, kept, capsys):
    fallen = fall_back_to_fp32(shape, Precision.all_int8(shape), harm, max_loss, tokens=8)
    assert fallen.agreement.loss_points <= max_loss
    assert fallen.agreement == harm(fallen.precision, None)
    names = [s.name for s in fallen.fp32_sublayers]
    assert kept is None or names == kept
    if max_loss == 0:
        assert fallen.precision == Precision.all_fp32(shape)
    assert all(f"{name} stays in fp32" in capsys.readouterr().err for name in names[:1])


@pytest.mark.parametrize(
    ("max_loss", "bits", "names"), [(4.1, 4, []), (3.3, 4, ["1.ffn", "0.ffn"]), (2.4, 8, ["0.ffn"])]
)
def test_a_token_table_in_four_bits_that_loses_too_much_has_eight_before_sublayers_fall_back(
    shape, max_loss, bits, names
):
    """The table alone loses 2.5 points, all sublayers in int8 3.2, and both 4.0."""
    start = Precision.all_int8(shape, embedding_bits=4)

    def with_table(precision, rows):
        error = np.hypot(harm(precision, rows).mean_difference, 0.25 * (precision.embedding_bits == 4))
        return harm(precision, rows).model_copy(update={"mean_difference": error, "loss_points": 10 * error})

    fallen = fall_back_to_fp32(shape, start, with_table, max_loss, tokens=8)
    assert fallen.agreement == with_table(fallen.precision, None)
    assert fallen.agreement.loss_points <= max_loss
    assert fallen.precision.embedding_bits == bits
    assert [name for name in fallen.names if name != "embeddings"] == names
    assert ("embeddings" in fallen.names) == (bits == 8)


def test_a_sublayer_that_saves_little_goes_before_an_equally_harmful_one_that_saves_much(shape):
    def equal(precision, rows):
        return harm(Precision.all_fp32(shape).replaced(0, "ffn", "int8"), rows)

    order = [s.multiply_adds for s in rank(shape, Precision.all_int8(shape), equal, tokens=20)]
    assert order == sorted(order)


def test_costs_are_those_of_the_matrices_that_run(shape):
    width, inner, ffn, tokens = shape.width, shape.layers[0].heads * shape.head_size, shape.layers[0].ffn, 10
    assert multiply_adds(shape, 0, "attention", tokens) == tokens * (3 * width * inner + inner * width)
    assert multiply_adds(shape, 0, "ffn", tokens) == tokens * 2 * width * ffn
    assert multiply_adds(shape, 1, "ffn", tokens) == 2 * width * ffn
    assert multiply_adds(shape, 1, "attention", tokens) == width * inner * (2 * tokens + 2)


def test_sublayers_that_were_cut_off_are_not_looked_at(tmp_path):
    make_tiny_checkpoint(tmp_path)
    none = np.array([], dtype=int)
    cut = cut_units(load_checkpoint(tmp_path), [np.array([0]), none], [none, np.arange(8)])
    assert sublayers(cut.architecture) == [(0, "attention"), (1, "ffn")]
