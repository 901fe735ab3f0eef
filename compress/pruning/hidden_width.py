"""narrow(): reduce the hidden width, and refit the narrower model by least squares.

SliceGPT (Ashkboos et al. 2024) rotates the residual stream to its principal axes. With norms after the residual
additions, each norm would then need one more matrix for its gains. Therefore channels are removed instead, the same
ones in every layer (Xia et al. 2022, "CoFi"). They are chosen as neurons are: the channels whose removal changes the
inputs of the matrices that read the residual stream least.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from compress.pruning.gram import append_ones, select_tokens
from compress.pruning.obs import Units, removal_order
from compress.pruning.refit import advance, fit_rows, solve_output
from compress.pruning.surgery import assemble
from models.architecture import Architecture
from models.classifier import Classifier, TensorBatch
from models.errors import InputError
from models.messages import progress
from models.sublayer import SublayerId

STEP = 32  # widths are multiples of it, the block size of ONNX Runtime's int8 kernels
CHANNELS = "channels.npy"  # the channels of the full model's hidden state that a narrower student keeps


@dataclass(frozen=True, slots=True)
class Channels:
    """The channels that are kept, as sorted indices."""

    hidden: Units  # of the hidden states, (width,)
    head: Units  # of the inner layer of the classification head, (width,)

    @classmethod
    def first(cls, width: int) -> "Channels":
        """Return the first `width` channels of each; for timing, any choice is as good."""
        return cls(np.arange(width), np.arange(width))


def narrowed(shape: Architecture, width: int) -> Architecture:
    """Return the architecture with the hidden width `width`.

    Raises:
        InputError: the width is not a multiple of 32, not below the current one, or equal to the width of ELECTRA's
            embedding tables; or the family has norms before its sublayers, or is DeBERTa.
    """
    if shape.modern is not None:
        raise InputError(f"{shape.family} has norms before its sublayers: its hidden state cannot be made narrower")
    if shape.deberta is not None:
        raise InputError(f"{shape.family} has a table of positions that all layers read: it cannot be made narrower")
    if shape.pooling != "cls" or shape.head != "dense":
        raise InputError("the head reads a mean, or has one layer only: the hidden state cannot be made narrower")
    if not 0 < width < shape.width or width % STEP:
        raise InputError(f"the hidden width is {width}: wanted a multiple of {STEP} below {shape.width}")
    if shape.embedding_width in (shape.width, width):
        raise InputError(f"the embedding tables are {shape.embedding_width} wide: ask for another hidden width")
    return shape.model_copy(update={"width": width})


@torch.no_grad()
def choose_channels(model: Classifier, batches: Sequence[TensorBatch], width: int) -> Channels:
    """Return the `width` channels to keep, so that the outputs of the reading matrices change least.

    Reading matrices are those of query, key and value, the first of each FFN, and the first of the head; all have the
    same weight. Channels are removed by structured OBS (`compress.pruning.obs`) on the sum of their Gram matrices.
    The inner neurons of the head are removed in the same way, on their own Gram matrix.
    """
    readers, grams = _readers(model), dict[str, Tensor]()
    last = f"{len(model.architecture.layers) - 1}.ffn"

    def add(name: str, inputs: Tensor, mask: Tensor) -> None:
        rows = inputs if inputs.ndim == 2 else select_tokens(inputs, mask, name == last)
        rows = append_ones(rows.double())
        grams[name] = grams.get(name, torch.zeros(1)) + rows.T @ rows

    for batch in batches:
        handles = [
            matrix.register_forward_pre_hook(lambda _, inputs, n=name, m=batch.mask: add(n, inputs[0], m))
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
    hidden_order = removal_order(torch.cat(weights), total, 1)
    head_order = removal_order(model.head.out.weight, grams["out"], 1)
    return Channels(np.sort(hidden_order[-width:]), np.sort(head_order[-width:]))


def narrow(model: Classifier, channels: Channels) -> Classifier:
    """Return a new classifier with these channels only; the remaining weights are unchanged."""
    shape = model.architecture
    kept, inner = torch.from_numpy(channels.hidden), torch.from_numpy(channels.head)
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
        elif part.endswith((".rise.bias", ".qkv.bias")) or name.endswith(_BIAS_TABLE):
            state[name] = tensor
        else:  # output matrices, their biases, and norms: one row or entry for each channel
            state[name] = tensor[kept]
    return assemble(smaller, model.labels, state)


@torch.no_grad()
def refit_narrow(
    student: Classifier, wide: Classifier, teacher: Classifier, batches: Sequence[TensorBatch], channels: Channels
) -> None:
    """Fit a narrow student to the teacher's residual stream, in place, from the embeddings to the head.

    For matrices that read the stream, a least-squares map predicts the teacher's stream from the student's; the map
    is then multiplied into `wide`'s matrices, so missing channels are estimated from the present ones. Matrices that
    write into the stream are solved as in `refit`. A norm takes its mean and variance over fewer channels; each
    channel gets the gain and bias that fit the teacher's output best.

    Args:
        student: the result of `narrow(wide, channels)`.
        wide: the pruned model at full hidden width.
        teacher: the full model.
        batches: texts.
        channels: the channels that the student keeps.
    """
    kept = torch.from_numpy(channels.hidden)
    student_states = [student.encoder.embeddings(batch.ids, batch.types) for batch in batches]
    teacher_states = [teacher.encoder.embeddings(batch.ids, batch.types) for batch in batches]
    masks = [batch.mask for batch in batches]
    if student.architecture.table_width == student.architecture.width:
        targets = [states[..., kept] for states in teacher_states]
        student_states = _fit_norm(student.encoder.embeddings.norm, student_states, targets, masks, False)
    student_readers, wide_readers, last = _readers(student), _readers(wide), len(student.architecture.layers) - 1
    for name in progress(SublayerId.keys(last + 1), desc="refit", unit="sublayer", delay=1):
        is_last = name.startswith(f"{last}.")
        if name in student_readers:
            states_map = _fit_states(student_states, teacher_states, masks, name == f"{last}.ffn")
            _compose(student_readers[name], wide_readers[name], states_map)
        added = (states[..., kept] for states in advance(teacher, name, teacher_states, batches))
        solve_output(student, name, student_states, added, batches)
        for _ in advance(student, name, student_states, batches):
            pass
        norm = student.encoder.layers.get_submodule(name).get_submodule("norm")
        targets = [states[..., kept] for states in teacher_states]
        student_states = _fit_norm(norm, student_states, targets, masks, is_last)
    states_map = _fit_states(student_states, teacher_states, masks, first_only=True)
    _compose(student_readers["head"], wide_readers["head"], states_map, channels.head)


_BIAS_TABLE = (".relative.weight", ".columns.weight")  # of MPNet: no row or column of it is a channel
_TABLES = ("tokens.weight", "positions.weight", "types.weight")


def _readers(model: Classifier) -> dict[str, nn.Linear]:
    """Return the matrices that read the residual stream, by sublayer; dropped sublayers have none."""
    readers: dict[str, nn.Linear] = {}
    for name in SublayerId.keys(len(model.architecture.layers)):
        sublayer = model.encoder.layers.get_submodule(name)
        matrix = sublayer.qkv if name.endswith("attention") else sublayer.rise
        if isinstance(matrix, nn.Linear):
            readers[name] = matrix
    assert model.head.dense is not None, "narrowed() refuses a model without it"
    return {**readers, "head": model.head.dense}


def _fit_states(
    student_states: Sequence[Tensor], teacher_states: Sequence[Tensor], masks: Sequence[Tensor], first_only: bool
) -> Tensor:
    """Return the map (teacher width, student width + 1) from the student's stream and a constant to the teacher's."""
    return fit_rows(
        (select_tokens(ours, mask, first_only), select_tokens(theirs, mask, first_only))
        for ours, theirs, mask in zip(student_states, teacher_states, masks, strict=True)
    )


def _compose(reader: nn.Linear, wide: nn.Linear, states_map: Tensor, rows: Units | None = None) -> None:
    """Set `reader` to `wide` applied after `states_map`; of the rows of `wide`, only `rows` if given."""
    kept = torch.arange(len(wide.weight)) if rows is None else torch.from_numpy(rows)
    weight = wide.weight.double()[kept]
    reader.weight.copy_(weight @ states_map[:, :-1])
    reader.bias.copy_(wide.bias[kept] + weight @ states_map[:, -1])


def _fit_norm(
    norm: nn.Module,
    outputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    masks: Sequence[Tensor],
    first_only: bool,
) -> list[Tensor]:
    """Set a norm's gain and bias so that its `outputs` come nearest to `targets`; return the new outputs."""
    width = norm.get_parameter("weight").shape
    sums, target_sums, squares, products = (torch.zeros(width, dtype=torch.float64) for _ in range(4))  # over tokens
    count = 0
    for output, target, mask in zip(outputs, targets, masks, strict=True):
        x, y = (select_tokens(states, mask, first_only).double() for states in (output, target))
        sums, target_sums, count = sums + x.sum(0), target_sums + y.sum(0), count + len(x)
        squares, products = squares + x.pow(2).sum(0), products + (x * y).sum(0)
    spread = (squares - sums * sums / count).clamp(min=1e-12)
    slope = (products - sums * target_sums / count) / spread
    shift = (target_sums - slope * sums) / count
    weight, bias = norm.get_parameter("weight"), norm.get_parameter("bias")
    weight.copy_(weight * slope)
    bias.copy_(bias * slope + shift)
    return [output * slope.float() + shift.float() for output in outputs]
