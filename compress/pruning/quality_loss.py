"""measure_costs(): the quality loss of each width of each sublayer, measured by running the model with it.

A sum of local scores (Fisher information, matrix errors) ranks sublayers in the wrong order (docs/log.md). Therefore
each pruned sublayer is inserted into the full model alone, and its cost is the divergence from the full model's
answers. The inputs of each layer are those of the full model, stored from one run, so only the layers from the pruned
one onwards are computed again.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from compress.pruning.obs import SublayerWidths
from compress.pruning.surgery import cut
from models.classifier import Classifier, TensorBatch
from models.messages import progress
from models.sublayer import SublayerId
from models.task import Kind
from models.train.divergence import divergence

Costs = dict[str, dict[int, float]]  # sublayer → width → mean divergence over the texts


@torch.inference_mode()
def measure_costs(
    model: Classifier, sublayer_widths: Mapping[str, SublayerWidths], batches: Sequence[TensorBatch], kind: Kind
) -> Costs:
    """Return the cost of each width of each sublayer; the full width costs 0."""
    inputs = [_layer_inputs(model, batch) for batch in batches]  # by batch, by layer: (batch, tokens, width)
    reference = [model(batch)[0] for batch in batches]
    texts = sum(len(batch.ids) for batch in batches)
    pairs = [(name, width) for name, by_width in sublayer_widths.items() for width in by_width]
    costs: Costs = {name: {} for name in sublayer_widths}
    for name, width in progress(pairs, desc="quality loss of each width", unit="width"):
        pruned_sublayer = sublayer_widths[name][width]
        if pruned_sublayer.error == 0.0:
            costs[name][width] = 0.0
            continue
        index = SublayerId.parse(name).layer
        smaller = cut(model, {name: pruned_sublayer}, shared=True)
        total = 0.0
        for batch, states, logits in zip(batches, inputs, reference, strict=True):
            total += float(divergence(kind, answer_from(smaller, index, states[index], batch), logits).sum())
        costs[name][width] = max(total / texts, 0.0)  # floating-point error can leave -1e-9
    return costs


def answer_from(model: Classifier, index: int, hidden: Tensor, batch: TensorBatch) -> Tensor:
    """Return the logits (batch, labels) when `hidden` (batch, tokens, width) is the input of layer `index`."""
    views = model.encoder.views(batch.mask)
    for layer, view in zip(model.encoder.layers[index:], views[index:], strict=True):
        hidden = layer(hidden, view, None)
    return model.head(model.encoder.finish(hidden), batch.mask)


def _layer_inputs(model: Classifier, batch: TensorBatch) -> list[Tensor]:
    first = model.encoder.embeddings(batch.ids, batch.types)
    return [first, *model(batch)[1][:-1]]
