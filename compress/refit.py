"""refit(): least squares, sublayer by sublayer, towards the teacher's residual stream.

A rung is corrected for the full model's inputs. In the smaller model its inputs are those of a smaller prefix: so
each output matrix is solved once more, from the student's own inputs towards what the teacher's residual stream has
after that sublayer (Park et al. 2024, "K-prune"). Errors do not add up; a dropped sublayer gets the best bias.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

from compress.ladder import least_squares
from compress.statistics import is_read_first, output_matrix, read_tokens, sublayer_names, with_one
from models.classifier import Classifier, TensorBatch


@torch.no_grad()
def refit(student: Classifier, teacher: Classifier, batches: Sequence[TensorBatch]) -> None:
    """Solve every output matrix and bias of `student` anew, in place, from the first sublayer to the last."""
    ours = [student.encoder.embeddings(batch.ids, batch.types) for batch in batches]
    theirs = [teacher.encoder.embeddings(batch.ids, batch.types) for batch in batches]
    names = sublayer_names(len(student.architecture.layers))
    for name in tqdm(names, desc="refit", unit="sublayer", delay=1, file=sys.stderr):
        solve_output(student, name, ours, advance(teacher, name, theirs, batches), batches)
        for _ in advance(student, name, ours, batches):
            pass


def advance(model: Classifier, name: str, states: list[Tensor], batches: Sequence[TensorBatch]) -> Iterator[Tensor]:
    """Yield the residual stream with what the sublayer adds, batch by batch, and put what leaves it into `states`.

    A batch at a time: the states of a thousand long texts are 400 MB, and those of two models are kept as it is.
    """
    for place, batch in enumerate(batches):
        with_it, states[place] = stream(model, name, states[place], batch)
        yield with_it


def solve_output(
    student: Classifier, name: str, ours: Sequence[Tensor], wanted: Iterable[Tensor], batches: Sequence[TensorBatch]
) -> None:
    """Solve the output matrix and bias of one sublayer, in place.

    Args:
        student: what is fitted.
        name: of the sublayer.
        ours: the states that go into it, (batch, tokens, width) a batch.
        wanted: what the residual stream should be with what it adds, before a norm that follows, likewise.
        batches: the texts.
    """
    first = is_read_first(student, name)
    found = fit_rows(
        (
            read_tokens(_inputs(student, name, hidden, batch), batch.mask, first),
            read_tokens(target - hidden, batch.mask, first),
        )
        for hidden, target, batch in zip(ours, wanted, batches, strict=True)
    )
    _set(student, name, found.float())


def fit_rows(pieces: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the map (outputs, inputs + 1), float64, from inputs and a constant that comes nearest to the outputs.

    Args:
        pieces: inputs (tokens, inputs) and outputs (tokens, outputs), of some texts at a time.
    """
    gram, cross = torch.zeros(1, 1), torch.zeros(1, 1)
    for inputs, outputs in pieces:
        rows = with_one(inputs.double())
        gram, cross = gram + rows.T @ rows, cross + outputs.double().T @ rows
    return least_squares(gram, cross)


def _sublayer(model: Classifier, name: str) -> nn.Module:
    return model.encoder.layers.get_submodule(name)


def stream(model: Classifier, name: str, hidden: Tensor, batch: TensorBatch) -> tuple[Tensor, Tensor]:
    """Return the residual stream with what the sublayer adds, and after the norm that follows, if any does.

    Both are (batch, tokens, width).
    """
    sublayer, seen = _sublayer(model, name), list[Tensor]()
    if model.architecture.modern is not None:  # its norms stand before the sublayers
        after = _run(model, name, hidden, batch)
        return after, after
    handle = sublayer.get_submodule("norm").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        after = _run(model, name, hidden, batch)
    finally:
        handle.remove()
    return seen[0], after


def _inputs(model: Classifier, name: str, hidden: Tensor, batch: TensorBatch) -> Tensor:
    """Return what goes into the sublayer's output matrix, (batch, tokens, inputs); no inputs where it is dropped."""
    matrix, seen = output_matrix(model, name), list[Tensor]()
    if matrix is None:
        return hidden[:, :, :0]
    handle = matrix.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        _run(model, name, hidden, batch)
    finally:
        handle.remove()
    return seen[0]


def _run(model: Classifier, name: str, hidden: Tensor, batch: TensorBatch) -> Tensor:
    sublayer = _sublayer(model, name)
    if name.endswith("ffn"):
        return sublayer(hidden, None)
    return sublayer(hidden, model.encoder.views(batch.mask)[int(name.split(".")[0])], None)


def _set(model: Classifier, name: str, found: Tensor) -> None:
    """Write a solution (width, inputs + 1) into the sublayer."""
    matrix = output_matrix(model, name)
    if matrix is None:
        _sublayer(model, name).get_parameter("bias").copy_(found[:, -1])
        return
    matrix.weight.copy_(found[:, :-1])
    matrix.bias.copy_(found[:, -1])
