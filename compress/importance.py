"""measure(): what each head, each FFN neuron and each whole sublayer is worth.

Heads and neurons: the diagonal of the Fisher information of a gate on each, E[(∂loss/∂gate)²], with exact gradients
per text because the gate has a batch dimension (Michel et al. 2019; Kwon et al. 2022). A sum of such local figures
says little about removing a whole sublayer, so that is measured by removing it: the rise of the divergence from the
full model's own answers. It anchors the end of each sublayer's curve.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from torch import Tensor

from models.classifier import Classifier, TensorBatch
from models.encoder import Gates
from models.tokens import Encoded, Tokenizer
from models.train.batches import length_batches


@dataclass(frozen=True, slots=True)
class Importance:
    """Arrays by layer: heads[l] (heads,), neurons[l] (ffn,); removal costs of whole sublayers (layers,)."""

    heads: list[NDArray[np.float64]]
    neurons: list[NDArray[np.float64]]
    without_attention: NDArray[np.float64]
    without_ffn: NDArray[np.float64]


def open_gates(model: Classifier, batch: int) -> Gates:
    """Return gates at 1, (batch, heads) and (batch, ffn) for each layer."""
    layers = model.architecture.layers
    return Gates([torch.ones(batch, s.heads) for s in layers], [torch.ones(batch, s.ffn) for s in layers])


def measure(model: Classifier, encoded: Sequence[Encoded], tokenizer: Tokenizer) -> Importance:
    """Measure on the texts `encoded`; needs no labels, the model's own answers serve."""
    layers = model.architecture.layers
    heads = [np.zeros(s.heads) for s in layers]
    neurons = [np.zeros(s.ffn) for s in layers]
    removal = np.zeros((2, len(layers)))
    generator = torch.Generator().manual_seed(0)
    for rows in length_batches(encoded, 32, seed=0):
        batch = TensorBatch(tokenizer.pad([encoded[i] for i in rows]))
        gates = open_gates(model, len(rows))
        inputs = [gate.requires_grad_() for gate in (*gates.heads, *gates.neurons)]
        logits, _ = model(batch, gates)
        # the Fisher information is an expectation over the model's own labels, not over the true ones
        labels = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
        gradients = torch.autograd.grad(functional.cross_entropy(logits, labels, reduction="sum"), inputs)
        for index in range(len(layers)):
            heads[index] += gradients[index].pow(2).sum(0).double().numpy()
            neurons[index] += gradients[len(layers) + index].pow(2).sum(0).double().numpy()
        removal += _removal(model, batch, logits.detach())
    return Importance(
        [h / len(encoded) for h in heads],
        [n / len(encoded) for n in neurons],
        *np.maximum(removal / len(encoded), 0),  # rounding can leave -1e-9
    )


@torch.inference_mode()
def _removal(model: Classifier, batch: TensorBatch, full: Tensor) -> NDArray[np.float64]:
    layers = len(model.architecture.layers)
    costs = np.zeros((2, layers))
    target = functional.log_softmax(full, dim=-1)
    for kind in (0, 1):
        for index in range(layers):
            gates = open_gates(model, 1)
            (gates.heads, gates.neurons)[kind][index].zero_()
            answer = functional.log_softmax(model(batch, gates)[0], dim=-1)
            costs[kind, index] = float(functional.kl_div(answer, target, reduction="sum", log_target=True))
    return costs
