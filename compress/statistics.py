"""collect_grams(): what goes into each output matrix, summed up as a Gram matrix: all that least squares needs.

The inputs of a sublayer's output matrix are its heads' mixtures or its neurons' activations: cutting units is cutting
rows of this input. A constant 1 is appended, so that the bias makes up for the mean of what is gone.
"""

import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from tqdm import tqdm

from models.classifier import Classifier, TensorBatch

Grams = dict[str, Tensor]  # "0.attention", "0.ffn", … → (inputs + 1, inputs + 1), float64


def sublayer_names(layers: int) -> list[str]:
    """Return the names of the sublayers in the order in which a text passes them."""
    return [f"{index}.{kind}" for index in range(layers) for kind in ("attention", "ffn")]


def output_matrix(model: Classifier, name: str) -> nn.Linear | None:
    """Return the matrix with which a sublayer writes into the residual stream, or None where it is dropped."""
    index, kind = name.split(".")
    sublayer = model.encoder.layers[int(index)].get_submodule(kind)
    return sublayer.output if kind == "attention" else sublayer.fall  # type: ignore[return-value]


def output_bias(matrix: nn.Linear) -> Tensor:
    """Return the bias of an output matrix, (width,): zeros where the family has none."""
    return matrix.weight.new_zeros(matrix.out_features) if matrix.bias is None else matrix.bias.detach()


def with_one(inputs: Tensor) -> Tensor:
    """Return (tokens, inputs) with a column of ones after the last."""
    return torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)


def read_tokens(states: Tensor, mask: Tensor, first_only: bool) -> Tensor:
    """Return the states that matter, (tokens, width): of real tokens, or the first one's of each text."""
    return states[:, 0] if first_only else states[mask.bool()]


def is_read_first(model: Classifier, name: str) -> bool:
    """Whether of what a sublayer makes only the first token is read."""
    return model.architecture.first_only(int(name.split(".")[0]))


def watch(model: Classifier, names: Sequence[str], see: Callable[[str, Tensor], None]) -> list[RemovableHandle]:
    """Call `see` with a sublayer's name and its output matrix's inputs (batch, tokens, inputs) whenever it runs."""
    handles = []
    for name in names:
        matrix = output_matrix(model, name)
        if matrix is not None:
            handles.append(matrix.register_forward_pre_hook(lambda _, inputs, n=name: see(n, inputs[0])))
    return handles


@torch.inference_mode()
def collect_grams(model: Classifier, batches: Sequence[TensorBatch]) -> Grams:
    """Return the Gram matrix of each sublayer's inputs over the tokens that matter."""
    names = sublayer_names(len(model.architecture.layers))
    grams: Grams = {}
    mask: Tensor

    def see(name: str, inputs: Tensor) -> None:
        rows = with_one(read_tokens(inputs, mask, is_read_first(model, name)))
        gram = (rows.T @ rows).double()
        grams[name] = grams[name] + gram if name in grams else gram

    handles = watch(model, names, see)
    try:
        for batch in tqdm(batches, desc="what goes into each matrix", unit="batch", delay=1, file=sys.stderr):
            mask = batch.mask
            model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return grams
