"""collect_grams(): the Gram matrix of the inputs of each output matrix, which is all that least squares needs.

The inputs of a sublayer's output matrix are the outputs of its heads, or the activations of its neurons: to remove
units is to remove rows of this input. A constant 1 is appended, so that the bias corrects for the mean of the removed
units.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from models.classifier import Classifier, TensorBatch
from models.messages import progress
from models.sublayer import SublayerId

Grams = dict[str, Tensor]  # "0.attention", "0.ffn", … → (inputs + 1, inputs + 1), float64


def output_matrix(model: Classifier, name: str) -> nn.Linear | None:
    """Return the matrix with which a sublayer writes into the residual stream; None if the sublayer was dropped."""
    sublayer = model.get_submodule(SublayerId.parse(name).module)
    return sublayer.output if SublayerId.parse(name).part == "attention" else sublayer.fall  # type: ignore[return-value]


def output_bias(matrix: nn.Linear) -> Tensor:
    """Return the bias of an output matrix, (width,); zeros if the family has no biases."""
    return matrix.weight.new_zeros(matrix.out_features) if matrix.bias is None else matrix.bias.detach()


def append_ones(inputs: Tensor) -> Tensor:
    """Return (tokens, inputs) with a column of ones appended."""
    return torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)


def select_tokens(states: Tensor, mask: Tensor, first_only: bool) -> Tensor:
    """Return the states, (tokens, width), of all tokens but padding, or of the first token of each text only."""
    return states[:, 0] if first_only else states[mask.bool()]


def is_first_only(model: Classifier, name: str) -> bool:
    """Whether later computation uses the output of the sublayer at the first token only."""
    return model.architecture.first_only(SublayerId.parse(name).layer)


def hook_output_matrices(
    model: Classifier, names: Sequence[str], callback: Callable[[str, Tensor], None]
) -> list[RemovableHandle]:
    """Call `callback` in each forward pass with a sublayer's name and its output matrix's inputs.

    The inputs are (batch, tokens, inputs).
    """
    handles = []
    for name in names:
        matrix = output_matrix(model, name)
        if matrix is not None:
            handles.append(matrix.register_forward_pre_hook(lambda _, inputs, n=name: callback(n, inputs[0])))
    return handles


def gram_of(rows: Tensor) -> Tensor:
    """Return XᵀX, (inputs, inputs), of X (tokens, inputs).

    numpy computes one half of a product of a matrix with its own transpose, and copies it to the other half; torch
    computes both. With 3,073 inputs numpy takes 0.6 of the time.
    """
    values = rows.numpy()
    return torch.from_numpy(values.T @ values)


@torch.inference_mode()
def collect_grams(model: Classifier, batches: Sequence[TensorBatch]) -> Grams:
    """Return the Gram matrix of each output matrix's inputs, over the tokens whose outputs are used."""
    names = SublayerId.keys(len(model.architecture.layers))
    grams: Grams = {}
    mask: Tensor

    def add(name: str, inputs: Tensor) -> None:
        gram = gram_of(append_ones(select_tokens(inputs, mask, is_first_only(model, name))))
        if name in grams:
            grams[name] += gram
        else:
            grams[name] = gram.double()

    handles = hook_output_matrices(model, names, add)
    try:
        for batch in progress(batches, desc="Gram matrices", unit="batch", delay=1):
            mask = batch.mask
            model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return grams
