"""Answers to the exercises of docs/learn/05_pruning.py."""

import numpy as np
import torch
from tiny import make_tiny_checkpoint, tiny_texts

from compress.pruning.fisher import fisher_order
from compress.pruning.gram import output_bias, output_matrix
from compress.pruning.obs import prune_to_each_width, removal_order
from compress.pruning.surgery import cut
from models.checkpoint import load_checkpoint
from models.classifier import TensorBatch
from models.encoders.layered import Gates
from models.tokenizer import Tokenizer


def gram_of(inputs):
    """Return the Gram matrix of inputs (tokens, units) and a constant 1."""
    rows = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1).double()
    return rows.T @ rows


def test_exercise_1_of_twins_obs_removes_one_at_once_and_loses_nothing():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(500, 6, generator=generator)
    inputs[:, 1] = inputs[:, 0]  # units 0 and 1 are twins
    weight = torch.randn(4, 6, generator=generator)
    weight[:, :2] *= 10  # and both have large weights
    magnitude = fisher_order(weight.pow(2).sum(0))
    assert set(magnitude[-2:]) == {0, 1}  # magnitude removes them last
    order = removal_order(weight, gram_of(inputs), size=1)
    assert order[0] in (0, 1)
    assert order[-1] in (0, 1)  # and the other one last
    full = torch.cat([weight, torch.zeros(4, 1)], dim=1)
    corrected = prune_to_each_width(full, gram_of(inputs), order, [5])[5]
    as_it_is = prune_to_each_width(full, gram_of(inputs), order, [5], refit=False)[5]
    assert corrected.error < 1e-5
    assert as_it_is.error > 0.1


def test_exercise_2_with_inputs_that_do_not_depend_on_each_other_obs_is_magnitude():
    weight = torch.randn(8, 10, generator=torch.Generator().manual_seed(0))
    gram = torch.eye(11).double()  # the units never fire together, and all equally strongly
    assert removal_order(weight, gram, size=1).tolist() == fisher_order(weight.pow(2).sum(0)).tolist()


@torch.no_grad()
def test_exercise_3_a_model_without_neurons_answers_as_one_with_their_gates_at_zero(tmp_path):
    make_tiny_checkpoint(tmp_path)
    model, tokenizer = load_checkpoint(tmp_path).eval(), Tokenizer.open(tmp_path, 24)
    batch = TensorBatch(tokenizer.batch(tiny_texts(8).rows))
    shape = model.architecture
    order = np.random.default_rng(0).permutation(shape.layers[0].ffn)
    matrix = output_matrix(model, "0.ffn")
    full = torch.cat([matrix.weight, output_bias(matrix)[:, None]], dim=1)
    pruned = prune_to_each_width(full, torch.eye(len(order) + 1).double(), order, [32], refit=False)[32]
    gates = Gates(
        [torch.ones(1, one.heads) for one in shape.layers], [torch.ones(1, one.ffn) for one in shape.layers]
    )
    gates.neurons[0][0, order[:-32].copy()] = 0
    smaller = cut(model, {"0.ffn": pruned})
    assert smaller.architecture.layers[0].ffn == 32
    assert torch.allclose(smaller(batch)[0], model(batch, gates)[0], atol=1e-5)
    assert not torch.allclose(smaller(batch)[0], model(batch)[0], atol=1e-2)
