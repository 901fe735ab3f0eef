"""measure_costs(): what each width of each sublayer costs in answers, measured by running the model with it.

A sum of local figures (Fisher information, matrix errors) puts sublayers in the wrong order (docs/log.md). So each
rung is put into the model by itself, and the divergence from the full model's answers is its cost. A layer's input
is the full model's, kept from one run: only the layers from there on are computed again.
"""

import sys
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from compress.divergence import divergence
from compress.ladder import Ladder
from compress.surgery import cut
from models.classifier import Classifier, TensorBatch
from models.task import Kind

Costs = dict[str, dict[int, float]]  # sublayer → width → mean divergence over the texts


@torch.inference_mode()
def measure_costs(
    model: Classifier, ladders: Mapping[str, Ladder], batches: Sequence[TensorBatch], kind: Kind
) -> Costs:
    """Return the cost of each rung; a full one costs nothing."""
    inputs = [_layer_inputs(model, batch) for batch in batches]  # by batch, by layer: (batch, tokens, width)
    answers = [model(batch)[0] for batch in batches]
    texts = sum(len(batch.ids) for batch in batches)
    todo = [(name, width) for name, ladder in ladders.items() for width in ladder]
    costs: Costs = {name: {} for name in ladders}
    for name, width in tqdm(todo, desc="what each width costs", unit="width", file=sys.stderr):
        rung = ladders[name][width]
        if rung.error == 0.0:
            costs[name][width] = 0.0
            continue
        index = int(name.split(".")[0])
        smaller = cut(model, {name: rung}, shared=True)
        total = 0.0
        for batch, states, wanted in zip(batches, inputs, answers, strict=True):
            found = answer_from(smaller, index, states[index], batch)
            total += float(divergence(kind, found, wanted).sum())
        costs[name][width] = max(total / texts, 0.0)  # rounding can leave -1e-9
    return costs


def answer_from(model: Classifier, index: int, hidden: Tensor, batch: TensorBatch) -> Tensor:
    """Return the logits (batch, labels) of hidden states (batch, tokens, width) that go into layer `index`."""
    views = model.encoder.views(batch.mask)
    for layer, view in zip(model.encoder.layers[index:], views[index:], strict=True):
        hidden = layer(hidden, view, None)
    return model.head(model.encoder.finish(hidden), batch.mask)


def _layer_inputs(model: Classifier, batch: TensorBatch) -> list[Tensor]:
    first = model.encoder.embeddings(batch.ids, batch.types)
    return [first, *model(batch)[1][:-1]]
