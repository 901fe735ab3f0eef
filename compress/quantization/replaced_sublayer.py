"""at_each_sublayer(): how much the answers change when one sublayer is replaced by another module.

The states before a sublayer are those of the full model. They are computed once, sublayer by sublayer, and only the
sublayers from the replaced one onwards are run again for each module that is tried.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from models.classifier import Classifier, TensorBatch
from models.sublayer import SublayerId
from models.task import Kind
from models.train.divergence import divergence

DivergenceWith = Callable[[nn.Module], float]  # a module in the sublayer's place → mean divergence over the texts


@torch.inference_mode()
def at_each_sublayer(
    model: Classifier, batches: Sequence[TensorBatch], kind: Kind
) -> Iterator[tuple[str, DivergenceWith]]:
    """Yield the key of each sublayer, in the order of computation, and its `DivergenceWith` from the full model.

    A `DivergenceWith` is valid until the next one is yielded. It costs the share of a forward pass that the sublayers
    from its own onwards take. Memory: the states of one layer, (batch, tokens, width), for all batches.

    Args:
        model: the full model.
        batches: the texts.
        kind: kind of the task, which decides how answers are compared.
    """
    reference = [model(batch)[0] for batch in batches]
    states = [model.encoder.embeddings(batch.ids, batch.types) for batch in batches]
    texts = sum(len(batch.ids) for batch in batches)

    def divergence_with(sublayer: SublayerId, module: nn.Module) -> float:
        with torch.inference_mode():
            total = sum(
                float(divergence(kind, answer_from(model, sublayer, hidden, batch, module), logits).sum())
                for batch, hidden, logits in zip(batches, states, reference, strict=True)
            )
        return max(total / texts, 0.0)  # floating-point error can leave -1e-9

    for sublayer in SublayerId.all_of(len(model.encoder.layers)):
        yield sublayer.key, partial(divergence_with, sublayer)
        module = model.get_submodule(sublayer.module)
        for i, batch in enumerate(batches):
            states[i] = _run(module, sublayer, states[i], model.encoder.views(batch.mask))


def answer_from(
    model: Classifier, sublayer: SublayerId, hidden: Tensor, batch: TensorBatch, module: nn.Module
) -> Tensor:
    """Return the logits (batch, labels) of the model with `module` as its `sublayer`.

    Args:
        model: the full model.
        sublayer: the one that is replaced.
        hidden: its input, (batch, tokens, width).
        batch: the texts.
        module: what is run in its place.
    """
    views, shape = model.encoder.views(batch.mask), model.architecture
    order = SublayerId.all_of(len(shape.layers))
    for current in order[order.index(sublayer) :]:
        if current.part == "ffn" and shape.first_only(current.layer):
            hidden = hidden[:, :1]  # the head reads no other token
        hidden = _run(module if current == sublayer else model.get_submodule(current.module), current, hidden, views)
    return model.head(model.encoder.finish(hidden), batch.mask)


def _run(module: nn.Module, sublayer: SublayerId, hidden: Tensor, views: Sequence[Any]) -> Tensor:
    if sublayer.part == "ffn":
        return module(hidden, None)
    return module(hidden, views[sublayer.layer], None)
