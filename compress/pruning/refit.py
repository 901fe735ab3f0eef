"""refit(): fit the pruned model to the teacher's residual stream by least squares, one sublayer after the other.

`compress.pruning.obs` corrects a sublayer for its inputs in the full model. In the pruned model its inputs come from
pruned sublayers. Therefore each output matrix is solved once more: from the student's own inputs to the
teacher's residual stream after that sublayer (Park et al. 2024, "K-prune"). So errors do not accumulate over the
layers, and a dropped sublayer gets the best bias.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from compress.pruning.gram import append_ones, gram_of, is_first_only, output_matrix, select_tokens
from compress.pruning.obs import least_squares
from models.classifier import Classifier, TensorBatch
from models.messages import progress
from models.sublayer import SublayerId


@torch.no_grad()
def refit(student: Classifier, teacher: Classifier, batches: Sequence[TensorBatch]) -> None:
    """Solve every output matrix and bias of `student` again, in place, from the first sublayer to the last."""
    student_states = [student.encoder.embeddings(batch.ids, batch.types) for batch in batches]
    teacher_states = [teacher.encoder.embeddings(batch.ids, batch.types) for batch in batches]
    names = SublayerId.keys(len(student.architecture.layers))
    for name in progress(names, desc="refit", unit="sublayer", delay=1):
        solve_output(student, name, student_states, advance(teacher, name, teacher_states, batches), batches)
        for _ in advance(student, name, student_states, batches):
            pass


def advance(model: Classifier, name: str, states: list[Tensor], batches: Sequence[TensorBatch]) -> Iterator[Tensor]:
    """Yield the residual stream after the sublayer's addition for each batch; replace `states` by its outputs.

    One batch at a time limits memory: the states of a thousand long texts are 400 MB, and those of two models are
    kept anyway.
    """
    for i, batch in enumerate(batches):
        added, states[i] = residual_stream(model, name, states[i], batch)
        yield added


def solve_output(
    student: Classifier,
    name: str,
    states: Sequence[Tensor],
    targets: Iterable[Tensor],
    batches: Sequence[TensorBatch],
) -> None:
    """Solve the output matrix and bias of one sublayer, in place.

    Args:
        student: the model that is fitted.
        name: the sublayer.
        states: input of the sublayer, (batch, tokens, width) for each batch.
        targets: the residual stream that its addition should give, before a norm that follows; same shapes.
        batches: the texts.
    """
    first_only = is_first_only(student, name)
    solution = fit_rows(
        (
            select_tokens(_inputs(student, name, hidden, batch), batch.mask, first_only),
            select_tokens(target - hidden, batch.mask, first_only),
        )
        for hidden, target, batch in zip(states, targets, batches, strict=True)
    )
    _set(student, name, solution.float())


def fit_rows(pieces: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the least-squares map (outputs, inputs + 1), float64, from inputs and a constant 1 to outputs.

    Args:
        pieces: inputs (tokens, inputs) and outputs (tokens, outputs) of a part of the texts at a time.
    """
    gram, cross = torch.zeros(1, 1), torch.zeros(1, 1)
    for inputs, outputs in pieces:
        rows = append_ones(inputs.double())
        gram, cross = gram + gram_of(rows), cross + outputs.double().T @ rows
    return least_squares(gram, cross)


def residual_stream(model: Classifier, name: str, hidden: Tensor, batch: TensorBatch) -> tuple[Tensor, Tensor]:
    """Return the residual stream after the sublayer's addition: before the norm that follows, and after it.

    Both are (batch, tokens, width); they are the same in a family with norms before the sublayers.
    """
    sublayer, captured = _sublayer(model, name), list[Tensor]()
    if model.architecture.modern is not None:  # pre-norm
        after = _run(model, name, hidden, batch)
        return after, after
    handle = sublayer.get_submodule("norm").register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0]))
    try:
        after = _run(model, name, hidden, batch)
    finally:
        handle.remove()
    return captured[0], after


def _sublayer(model: Classifier, name: str) -> nn.Module:
    return model.encoder.layers.get_submodule(name)


def _inputs(model: Classifier, name: str, hidden: Tensor, batch: TensorBatch) -> Tensor:
    """Return the inputs of the sublayer's output matrix, (batch, tokens, inputs); a dropped sublayer has 0 inputs."""
    matrix, captured = output_matrix(model, name), list[Tensor]()
    if matrix is None:
        return hidden[:, :, :0]
    handle = matrix.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0]))
    try:
        _run(model, name, hidden, batch)
    finally:
        handle.remove()
    return captured[0]


def _run(model: Classifier, name: str, hidden: Tensor, batch: TensorBatch) -> Tensor:
    sublayer = _sublayer(model, name)
    if name.endswith("ffn"):
        return sublayer(hidden, None)
    return sublayer(hidden, model.encoder.views(batch.mask)[SublayerId.parse(name).layer], None)


def _set(model: Classifier, name: str, solution: Tensor) -> None:
    """Write a solution (width, inputs + 1) into the sublayer."""
    matrix = output_matrix(model, name)
    if matrix is None:
        _sublayer(model, name).get_parameter("bias").copy_(solution[:, -1])
        return
    matrix.weight.copy_(solution[:, :-1])
    matrix.bias.copy_(solution[:, -1])
