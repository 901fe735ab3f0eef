"""cut(): a really smaller model, whose sublayers have the units and the corrected matrices of their rungs."""

from collections.abc import Mapping

import torch
from torch import Tensor

from compress.ladder import Ladder, Rung, columns_of
from compress.statistics import output_matrix, sublayer_names
from models.architecture import Architecture
from models.classifier import Classifier
from models.errors import NoEffectError


def choose_rungs(ladders: Mapping[str, Ladder], shape: Architecture) -> dict[str, Rung]:
    """Return the rung of each sublayer that has the width of `shape`."""
    widths = {f"{i}.attention": layer.heads for i, layer in enumerate(shape.layers)}
    widths |= {f"{i}.ffn": layer.ffn for i, layer in enumerate(shape.layers)}
    return {name: ladder[widths[name]] for name, ladder in ladders.items()}


def cut(model: Classifier, rungs: Mapping[str, Rung], shared: bool = False) -> Classifier:
    """Return a new classifier whose sublayers are as `rungs` says, the others as they are; `model` stays as it is.

    A cut ModernBERT has biases, zeros where nothing was cut: the constant that makes up for what is gone needs one.

    Args:
        model: the full model.
        rungs: what its sublayers become.
        shared: whether tensors that are not cut stay the model's own: to look at the result, never to train it.

    Raises:
        NoEffectError: everything was to be kept.
    """
    shape = model.architecture
    widths = [[layer.heads, layer.ffn] for layer in shape.layers]
    for name, rung in rungs.items():
        index, kind = name.split(".")
        widths[int(index)][kind == "ffn"] = len(rung.kept)
    smaller = shape.with_layers([(heads, ffn) for heads, ffn in widths])
    if smaller == shape:
        raise NoEffectError(f"nothing to cut: {shape.summary()} is what was asked for; ask for a larger speed-up")
    state = dict(model.state_dict())
    for name in sublayer_names(len(shape.layers)):
        if name in rungs and output_matrix(model, name) is not None:
            _replace(state, name, shape, rungs[name])
    return assemble(with_biases(smaller), model.labels, state, shared)


def assemble(shape: Architecture, labels: int, state: Mapping[str, Tensor], shared: bool = False) -> Classifier:
    """Return the classifier with these tensors, or copies where not `shared`; biases that it lacks are zero."""
    with torch.device("meta"):  # ten million random weights, for nothing, take longer than a cut
        result = Classifier(shape, labels)
    lacking = {
        name: torch.zeros(tensor.shape)
        for name, tensor in result.state_dict().items()
        if name not in state and name.endswith(".bias")
    }
    known = state if shared else {name: tensor.detach().clone() for name, tensor in state.items()}
    result.load_state_dict({**known, **lacking}, assign=True)
    return result.eval()


def with_biases(shape: Architecture) -> Architecture:
    """Return the shape that a cut model has: a ModernBERT's matrices get biases, every other has them already."""
    if shape.modern is None:
        return shape
    return shape.model_copy(
        update={"modern": shape.modern.model_copy(update={"attention_bias": True, "ffn_bias": True})}
    )


def _replace(state: dict[str, Tensor], name: str, shape: Architecture, rung: Rung) -> None:
    """Exchange the tensors of one sublayer for those of its rung."""
    ours = f"encoder.layers.{name}"
    attention = name.endswith("attention")
    into, out = (f"{ours}.qkv", f"{ours}.output") if attention else (f"{ours}.rise", f"{ours}.fall")
    before = {end: state.pop(f"{into}.{end}") for end in ("weight", "bias") if f"{into}.{end}" in state}
    if not len(rung.kept):
        gone = [f"{out}.weight", f"{out}.bias"]
        if shape.modern is not None:  # a norm that only this sublayer reads
            gone += [f"{ours}.norm.weight", f"{ours}.norm.bias"]
        for lost in gone:
            state.pop(lost, None)
        state[f"{ours}.bias"] = rung.bias
        return
    rows = columns_of(rung.kept, shape.head_size if attention else 1)
    parts = 3 if attention else 1 if shape.modern is None else 2  # query, key, value; GeGLU's two parts
    for end, tensor in before.items():
        state[f"{into}.{end}"] = torch.cat([part[rows] for part in tensor.chunk(parts)])
    state[f"{out}.weight"], state[f"{out}.bias"] = rung.weight, rung.bias
