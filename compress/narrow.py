"""narrow(): a narrower residual stream, and least squares that makes up for it.

A stream cannot be turned into its principal axes for nothing where norms stand after the residuals: each would need
one more matrix, for its gains (Ashkboos et al. 2024, "SliceGPT"). So channels stay or go, the same ones in every
layer (Xia et al. 2022, "CoFi"). Which go is decided as for neurons: those that what reads the stream misses least.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from compress.ladder import Units, removal_order
from compress.refit import advance, fit_rows, solve_output
from compress.statistics import read_tokens, sublayer_names, with_one
from compress.surgery import assemble
from models.architecture import Architecture
from models.classifier import Classifier, TensorBatch
from models.errors import InputError

STEP = 32  # widths are multiples of it: what ONNX Runtime's int8 kernels pack


@dataclass(frozen=True, slots=True)
class Channels:
    """What stays of each hidden state, (width,), and of the head's inner state, (width,): places in old order."""

    stream: Units
    head: Units

    @classmethod
    def first(cls, width: int) -> "Channels":
        """Return the first `width` of each: which they are does not show in the time."""
        return cls(np.arange(width), np.arange(width))


def narrowed(shape: Architecture, width: int) -> Architecture:
    """Return the architecture with a hidden state of `width`.

    Raises:
        InputError: the width is no multiple of 32, not smaller than it is, or that of an ELECTRA's narrow tables; or
            norms stand before the sublayers.
    """
    if shape.modern is not None:
        raise InputError(f"{shape.family} has norms before its sublayers: its hidden state cannot be made narrower")
    if not 0 < width < shape.width or width % STEP:
        raise InputError(f"a hidden width of {width} was asked for: wanted a multiple of {STEP} below {shape.width}")
    if shape.embedding_width in (shape.width, width):
        raise InputError(f"the embedding tables are {shape.embedding_width} wide: ask for another hidden width")
    return shape.model_copy(update={"width": width})


@torch.no_grad()
def choose_channels(model: Classifier, batches: Sequence[TensorBatch], width: int) -> Channels:
    """Return the `width` channels without which the stream's readers lose least, each reader counting alike.

    Readers are the matrices of query, key and value, those into the FFNs, and the head's first. Channels go by
    structured OBS (`compress.ladder`), on the sum of the readers' Gram matrices; so do the head's inner neurons.
    """
    readers, grams = _readers(model), dict[str, Tensor]()
    last = f"{len(model.architecture.layers) - 1}.ffn"

    def see(name: str, inputs: Tensor, mask: Tensor) -> None:
        rows = inputs if inputs.ndim == 2 else read_tokens(inputs, mask, name == last)
        rows = with_one(rows.double())
        grams[name] = grams.get(name, torch.zeros(1)) + rows.T @ rows

    for batch in batches:
        handles = [
            matrix.register_forward_pre_hook(lambda _, inputs, n=name, m=batch.mask: see(n, inputs[0], m))
            for name, matrix in (readers | {"out": model.head.out}).items()
        ]
        try:
            model(batch)
        finally:
            for handle in handles:
                handle.remove()
    weights, total = [], torch.zeros(1)
    for name, matrix in readers.items():
        weight, gram = matrix.weight.double(), grams[name] / grams[name][-1, -1]
        weights.append(weight / ((weight @ gram[:-1, :-1]) * weight).sum().sqrt())
        total = total + gram
    stream_order = removal_order(torch.cat(weights), total, 1)
    head_order = removal_order(model.head.out.weight, grams["out"], 1)
    return Channels(np.sort(stream_order[-width:]), np.sort(head_order[-width:]))


def narrow(model: Classifier, channels: Channels) -> Classifier:
    """Return a new classifier that has these channels only; what is left of matrices and norms is as it was."""
    shape = model.architecture
    kept, inner = torch.from_numpy(channels.stream), torch.from_numpy(channels.head)
    smaller = shape if len(kept) == shape.width else narrowed(shape, len(kept))
    projected, state = shape.table_width != shape.width, dict[str, Tensor]()
    for name, tensor in model.state_dict().items():
        part = name.split(".", 2)[-1]
        if name.startswith("encoder.embeddings.") and projected and not part.startswith("project"):
            state[name] = tensor
        elif name.startswith("head.out."):
            state[name] = tensor[:, inner] if tensor.ndim == 2 else tensor
        elif name.startswith("head."):
            state[name] = tensor[inner][:, kept] if tensor.ndim == 2 else tensor[inner]
        elif part.endswith((".rise.weight", ".qkv.weight")) or part in _TABLES:
            state[name] = tensor[:, kept]
        elif part.endswith((".rise.bias", ".qkv.bias")):
            state[name] = tensor
        else:  # what writes into the stream: rows of matrices, biases and norms
            state[name] = tensor[kept]
    return assemble(smaller, model.labels, state)


@torch.no_grad()
def refit_narrow(
    student: Classifier, wide: Classifier, teacher: Classifier, batches: Sequence[TensorBatch], channels: Channels
) -> None:
    """Fit a narrow student to the teacher's residual stream, in place, from the embeddings to the head.

    What reads the stream reads the missing channels through those that are there: the teacher's stream is fitted
    from the student's, and goes through `wide`'s matrices. What writes is solved as by `refit`. A norm, which takes
    mean and variance over fewer channels, gets the gain and bias, a channel, that come nearest to the teacher's.

    Args:
        student: what `narrow` made of `wide`.
        wide: the cut model; it reads a stream like the teacher's.
        teacher: the full model.
        batches: texts.
        channels: those that the student has.
    """
    kept = torch.from_numpy(channels.stream)
    ours = [student.encoder.embeddings(batch.ids, batch.types) for batch in batches]
    theirs = [teacher.encoder.embeddings(batch.ids, batch.types) for batch in batches]
    masks = [batch.mask for batch in batches]
    if student.architecture.table_width == student.architecture.width:
        ours = _fit_norm(student.encoder.embeddings.norm, ours, [t[..., kept] for t in theirs], masks, False)
    ours_of, wide_of, last = _readers(student), _readers(wide), len(student.architecture.layers) - 1
    for name in tqdm(sublayer_names(last + 1), desc="refit, narrower", unit="sublayer", delay=1, file=sys.stderr):
        is_last = name.startswith(f"{last}.")
        if name in ours_of:
            _read(ours_of[name], wide_of[name], _fit_stream(ours, theirs, masks, name == f"{last}.ffn"))
        solve_output(student, name, ours, (s[..., kept] for s in advance(teacher, name, theirs, batches)), batches)
        for _ in advance(student, name, ours, batches):
            pass
        norm = student.encoder.layers.get_submodule(name).get_submodule("norm")
        ours = _fit_norm(norm, ours, [t[..., kept] for t in theirs], masks, is_last)
    _read(ours_of["head"], wide_of["head"], _fit_stream(ours, theirs, masks, first=True), channels.head)


_TABLES = ("tokens.weight", "positions.weight", "types.weight")


def _readers(model: Classifier) -> dict[str, nn.Linear]:
    """Return the matrices that read the stream, by sublayer; dropped ones have none."""
    found: dict[str, nn.Linear] = {}
    for name in sublayer_names(len(model.architecture.layers)):
        sublayer = model.encoder.layers.get_submodule(name)
        matrix = sublayer.qkv if name.endswith("attention") else sublayer.rise
        if isinstance(matrix, nn.Linear):
            found[name] = matrix
    return {**found, "head": model.head.dense}


def _fit_stream(ours: Sequence[Tensor], theirs: Sequence[Tensor], masks: Sequence[Tensor], first: bool) -> Tensor:
    """Return the map (their width, our width + 1) from our stream and a constant to theirs."""
    return fit_rows(
        (read_tokens(our, mask, first), read_tokens(their, mask, first))
        for our, their, mask in zip(ours, theirs, masks, strict=True)
    )


def _read(ours: nn.Linear, wide: nn.Linear, found: Tensor, rows: Units | None = None) -> None:
    """Let a reader read through `found` what the wide one reads, as far as `rows` of it are left."""
    kept = torch.arange(len(wide.weight)) if rows is None else torch.from_numpy(rows)
    weight = wide.weight.double()[kept]
    ours.weight.copy_(weight @ found[:, :-1])
    ours.bias.copy_(wide.bias[kept] + weight @ found[:, -1])


def _fit_norm(
    norm: nn.Module, found: Sequence[Tensor], wanted: Sequence[Tensor], masks: Sequence[Tensor], first: bool
) -> list[Tensor]:
    """Give a norm the gain and bias that bring what it gives, `found`, nearest to `wanted`; return what it gives."""
    width = norm.get_parameter("weight").shape
    ours, theirs, squares, products = (torch.zeros(width, dtype=torch.float64) for _ in range(4))  # sums over tokens
    count = 0
    for pair, mask in zip(zip(found, wanted, strict=True), masks, strict=True):
        our, their = (read_tokens(states, mask, first).double() for states in pair)
        ours, theirs, count = ours + our.sum(0), theirs + their.sum(0), count + len(our)
        squares, products = squares + our.pow(2).sum(0), products + (our * their).sum(0)
    spread = (squares - ours * ours / count).clamp(min=1e-12)
    slope = (products - ours * theirs / count) / spread
    shift = (theirs - slope * ours) / count
    weight, bias = norm.get_parameter("weight"), norm.get_parameter("bias")
    weight.copy_(weight * slope)
    bias.copy_(bias * slope + shift)
    return [f * slope.float() + shift.float() for f in found]
