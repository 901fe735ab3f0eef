"""cut(): build a smaller model from a full one and the pruned forms of its sublayers."""

from collections.abc import Mapping

import torch
from torch import Tensor

from compress.pruning.gram import output_matrix
from compress.pruning.obs import PrunedSublayer, SublayerWidths, Units, columns_of
from models.architecture import Architecture
from models.classifier import Classifier
from models.errors import NoEffectError
from models.sublayer import SublayerId

ENDS = ("weight", "bias")


def choose_pruned_sublayers(
    sublayer_widths: Mapping[str, SublayerWidths], shape: Architecture
) -> dict[str, PrunedSublayer]:
    """Return the pruned form of each sublayer at its width in `shape`."""
    return {name: by_width[shape.width_of(SublayerId.parse(name))] for name, by_width in sublayer_widths.items()}


def cut(model: Classifier, pruned_sublayers: Mapping[str, PrunedSublayer], shared: bool = False) -> Classifier:
    """Return a new classifier with `pruned_sublayers`; the other sublayers, and `model`, are unchanged.

    A pruned ModernBERT has biases, which are zero in unpruned sublayers: the correction for removed units needs one.

    Args:
        model: the full model.
        pruned_sublayers: the new form of each sublayer to prune, by name.
        shared: whether unpruned tensors are shared with `model`, not copied: for evaluation, never for training.

    Raises:
        NoEffectError: all units of all sublayers are kept.
    """
    shape = model.architecture
    widths = [[layer.heads, layer.ffn] for layer in shape.layers]
    for name, pruned_sublayer in pruned_sublayers.items():
        layer, part = SublayerId.parse(name)
        widths[layer][part == "ffn"] = len(pruned_sublayer.kept)
    smaller = shape.with_layers([(heads, ffn) for heads, ffn in widths])
    if smaller == shape:
        raise NoEffectError(f"nothing to cut: the target allows all of {shape.summary()}; ask for a larger speed-up")
    state = dict(model.state_dict())
    for name in SublayerId.keys(len(shape.layers)):
        if name in pruned_sublayers and output_matrix(model, name) is not None:
            _replace(state, name, shape, pruned_sublayers[name])
    return assemble(with_biases(smaller), model.labels, state, shared)


def assemble(shape: Architecture, labels: int, state: Mapping[str, Tensor], shared: bool = False) -> Classifier:
    """Return a classifier with these tensors, copied unless `shared`; biases missing from `state` are zero."""
    with torch.device("meta"):  # initializing ten million weights, only to replace them, takes longer than pruning
        result = Classifier(shape, labels)
    missing = {
        name: torch.zeros(tensor.shape)
        for name, tensor in result.state_dict().items()
        if name not in state and name.endswith(".bias")
    }
    tensors = state if shared else {name: tensor.detach().clone() for name, tensor in state.items()}
    result.load_state_dict({**tensors, **missing}, assign=True)
    return result.eval()


def with_biases(shape: Architecture) -> Architecture:
    """Return the architecture of a pruned model: ModernBERT's matrices get biases, other families have them."""
    if shape.modern is None:
        return shape
    return shape.model_copy(
        update={"modern": shape.modern.model_copy(update={"attention_bias": True, "ffn_bias": True})}
    )


def _replace(state: dict[str, Tensor], name: str, shape: Architecture, pruned_sublayer: PrunedSublayer) -> None:
    """Replace the tensors of one sublayer by those of its pruned form."""
    prefix = f"encoder.layers.{name}"
    attention = name.endswith("attention")
    into, out = (f"{prefix}.qkv", f"{prefix}.output") if attention else (f"{prefix}.rise", f"{prefix}.fall")
    before = {end: state.pop(f"{into}.{end}") for end in ENDS if f"{into}.{end}" in state}
    if attention and shape.relative is not None:
        _keep_columns(state, f"{prefix}.columns.weight", pruned_sublayer.kept, shape.relative.heads)
    positions = [f"{prefix}.{part}" for part in ("pos_key", "pos_query")]  # of a DeBERTa, if it has its own
    if not len(pruned_sublayer.kept):
        unused = [f"{out}.weight", f"{out}.bias", *(f"{module}.{end}" for module in positions for end in ENDS)]
        if shape.modern is not None:  # the norm whose output only this sublayer uses
            unused += [f"{prefix}.norm.weight", f"{prefix}.norm.bias"]
        for key in unused:
            state.pop(key, None)
        state[f"{prefix}.bias"] = pruned_sublayer.bias
        return
    rows = columns_of(pruned_sublayer.kept, shape.head_size if attention else 1)
    parts = 3 if attention else 1 if shape.modern is None else 2  # query, key, value; the two halves of GeGLU
    for end, tensor in before.items():
        state[f"{into}.{end}"] = torch.cat([part[rows] for part in tensor.chunk(parts)])
    for key in (f"{module}.{end}" for module in positions for end in ENDS):
        if key in state:
            state[key] = state[key][rows]
    state[f"{out}.weight"], state[f"{out}.bias"] = pruned_sublayer.weight, pruned_sublayer.bias


def _keep_columns(state: dict[str, Tensor], key: str, kept: Units, heads: int) -> None:
    """Set which of the `heads` columns of MPNet's shared table a layer reads; `kept` counts the heads that it had."""
    before = state.pop(key, torch.arange(heads))
    if 0 < len(kept) < heads:
        state[key] = before[torch.from_numpy(kept)]
