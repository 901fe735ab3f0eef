"""cut(): a really smaller model, equal to the full one with the removed heads and neurons gated to zero."""

import numpy as np
import torch
from torch import Tensor

from compress.importance import Importance
from models.architecture import Architecture, LayerShape
from models.classifier import Classifier
from models.errors import NoEffectError


def kept_units(importance: Importance, shape: Architecture) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return, by layer, which heads and which neurons stay: the most important, in their old order."""
    heads = [
        np.sort(np.argsort(-w, kind="stable")[: s.heads]) for w, s in zip(importance.heads, shape.layers, strict=True)
    ]
    neurons = [
        np.sort(np.argsort(-w, kind="stable")[: s.ffn]) for w, s in zip(importance.neurons, shape.layers, strict=True)
    ]
    return heads, neurons


def cut(model: Classifier, heads: list[np.ndarray], neurons: list[np.ndarray]) -> Classifier:
    """Return a new classifier with only the given heads and neurons of each layer; `model` stays as it is.

    Raises:
        NoEffectError: everything was to be kept.
    """
    shape = model.architecture
    smaller = shape.with_layers([(len(h), len(n)) for h, n in zip(heads, neurons, strict=True)])
    if smaller == shape:
        raise NoEffectError(f"nothing to cut: {shape.summary()} is what was asked for; ask for a larger speed-up")
    state = dict(model.state_dict())
    for index, layer in enumerate(smaller.layers):
        name = f"encoder.layers.{index}"
        _cut_attention(state, f"{name}.attention", shape, heads[index], layer)
        _cut_ffn(state, f"{name}.ffn", neurons[index], layer)
    result = Classifier(smaller, model.labels)
    result.load_state_dict(state)
    return result.eval()


def _cut_attention(
    state: dict[str, Tensor], name: str, shape: Architecture, kept: np.ndarray, layer: LayerShape
) -> None:
    if f"{name}.qkv.weight" not in state:
        return
    columns = torch.from_numpy((kept[:, None] * shape.head_size + np.arange(shape.head_size)).reshape(-1)).long()
    weight, bias = state.pop(f"{name}.qkv.weight"), state.pop(f"{name}.qkv.bias")
    output, output_bias = state.pop(f"{name}.output.weight"), state.pop(f"{name}.output.bias")
    if not layer.heads:
        state[f"{name}.bias"] = output_bias
        return
    state[f"{name}.qkv.weight"] = torch.cat([part[columns] for part in weight.chunk(3)])
    state[f"{name}.qkv.bias"] = torch.cat([part[columns] for part in bias.chunk(3)])
    state[f"{name}.output.weight"], state[f"{name}.output.bias"] = output[:, columns], output_bias


def _cut_ffn(state: dict[str, Tensor], name: str, kept: np.ndarray, layer: LayerShape) -> None:
    if f"{name}.rise.weight" not in state:
        return
    rows = torch.from_numpy(kept).long()
    rise, rise_bias = state.pop(f"{name}.rise.weight"), state.pop(f"{name}.rise.bias")
    fall, fall_bias = state.pop(f"{name}.fall.weight"), state.pop(f"{name}.fall.bias")
    if not layer.ffn:
        state[f"{name}.bias"] = fall_bias
        return
    state[f"{name}.rise.weight"], state[f"{name}.rise.bias"] = rise[rows], rise_bias[rows]
    state[f"{name}.fall.weight"], state[f"{name}.fall.bias"] = fall[:, rows], fall_bias
