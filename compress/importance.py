"""fisher(): what each head and each FFN neuron is worth, by the Fisher information of a gate on it.

E[(∂loss/∂gate)²], with exact gradients per text because the gate has a batch dimension (Michel et al. 2019; Kwon et
al. 2022). Kept to compare with: `compress.ladder` orders units by what their removal does to the sublayer's output.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as functional
from torch import Tensor

from compress.ladder import Units
from models.classifier import Classifier, TensorBatch
from models.layered import Gates
from models.task import Kind


def open_gates(model: Classifier, batch: int) -> Gates:
    """Return gates at 1, (batch, heads) and (batch, ffn) for each layer."""
    layers = model.architecture.layers
    return Gates([torch.ones(batch, s.heads) for s in layers], [torch.ones(batch, s.ffn) for s in layers])


def fisher(model: Classifier, batches: Sequence[TensorBatch], kind: Kind = "single") -> dict[str, Tensor]:
    """Return the diagonal of the Fisher information by sublayer, (units,), float64; needs no labels."""
    layers = len(model.architecture.layers)
    names = [f"{i}.attention" for i in range(layers)] + [f"{i}.ffn" for i in range(layers)]
    found = {name: torch.zeros(1, dtype=torch.float64) for name in names}
    generator = torch.Generator().manual_seed(0)
    for batch in batches:
        gates = open_gates(model, len(batch.ids))
        inputs = [gate.requires_grad_() for gate in (*gates.heads, *gates.neurons)]
        gradients = torch.autograd.grad(_surprise(model(batch, gates)[0], kind, generator), inputs)
        for name, gradient in zip(names, gradients, strict=True):
            found[name] = found[name] + gradient.pow(2).sum(0).double()
    texts = sum(len(batch.ids) for batch in batches)
    return {name: total / texts for name, total in found.items()}


def _surprise(logits: Tensor, kind: Kind, generator: torch.Generator) -> Tensor:
    """Return -log p of labels that are drawn from the model's own answers, not of the true ones, summed.

    Of a regression, numbers are drawn from a normal distribution of width 1 about its answers: the expectation of the
    squared gradient is then exactly that of the answers themselves, and nothing is drawn.
    """
    if kind == "regression":
        return logits.sum()
    if kind == "multi":
        given = torch.bernoulli(logits.detach().sigmoid(), generator=generator)
        return functional.binary_cross_entropy_with_logits(logits, given, reduction="sum")
    labels = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
    return functional.cross_entropy(logits, labels, reduction="sum")


def fisher_order(information: Tensor) -> Units:
    """Return the units in the order in which they go: the least informative first."""
    return torch.argsort(information, stable=True).numpy()
