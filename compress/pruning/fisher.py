"""fisher(): importance of each head and each FFN neuron, as the Fisher information of a multiplicative gate on it.

This is E[(∂loss/∂gate)²]. The gates have a batch dimension, so the gradients of each text are exact (Michel et al.
2019; Kwon et al. 2022). It is used only as a baseline: `compress.pruning.obs` orders units by the effect of their
removal on the sublayer's output.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as functional
from torch import Tensor

from compress.pruning.obs import Units
from models.classifier import Classifier, TensorBatch
from models.encoders.layered import Gates
from models.sublayer import PARTS, SublayerId
from models.task import Kind


def open_gates(model: Classifier, batch: int) -> Gates:
    """Return gates at 1, (batch, heads) and (batch, ffn) for each layer."""
    layers = model.architecture.layers
    return Gates([torch.ones(batch, s.heads) for s in layers], [torch.ones(batch, s.ffn) for s in layers])


def fisher(model: Classifier, batches: Sequence[TensorBatch], kind: Kind = "single") -> dict[str, Tensor]:
    """Return the diagonal of the Fisher information by sublayer, (units,), float64; needs no labels."""
    layers = len(model.architecture.layers)
    names = [SublayerId(layer, part).key for part in PARTS for layer in range(layers)]  # in the order of the gates
    totals = {name: torch.zeros(1, dtype=torch.float64) for name in names}
    generator = torch.Generator().manual_seed(0)
    for batch in batches:
        gates = open_gates(model, len(batch.ids))
        inputs = [gate.requires_grad_() for gate in (*gates.heads, *gates.neurons)]
        gradients = torch.autograd.grad(_sampled_loss(model(batch, gates)[0], kind, generator), inputs)
        for name, gradient in zip(names, gradients, strict=True):
            totals[name] = totals[name] + gradient.pow(2).sum(0).double()
    texts = sum(len(batch.ids) for batch in batches)
    return {name: total / texts for name, total in totals.items()}


def _sampled_loss(logits: Tensor, kind: Kind, generator: torch.Generator) -> Tensor:
    """Return the sum of -log p of labels sampled from the model's own predictions, not of the true labels.

    For a regression, labels would be sampled from a normal distribution with the prediction as mean and variance 1.
    The expectation of the squared gradient is then the squared gradient of the prediction itself, so nothing is
    sampled.
    """
    if kind == "regression":
        return logits.sum()
    if kind == "multi":
        labels = torch.bernoulli(logits.detach().sigmoid(), generator=generator)
        return functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
    labels = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
    return functional.cross_entropy(logits, labels, reduction="sum")


def fisher_order(information: Tensor) -> Units:
    """Return the units in order of removal: the least informative first."""
    return torch.argsort(information, stable=True).numpy()
