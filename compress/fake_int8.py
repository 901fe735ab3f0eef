"""fake_int8(): a classifier in torch that computes as its static int8 graph does, and can still learn.

Inputs and weights of int8 products are rounded where `export.layers` rounds them, with the same scales; gradients
pass as if they were not (the straight-through estimator: Bengio et al. 2013; Jacob et al. 2018), except for inputs
outside their range, which have none. Scales of inputs stay as they were calibrated, those of weights follow weights.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from export.precision import PARTS, Activation, Precision, Scales
from models.classifier import Classifier


@contextmanager
def fake_int8(model: Classifier, scales: Scales, precision: Precision) -> Iterator[None]:
    """Within, `model` answers as the graph that `export.onnx.write_int8` makes of it, to rounding.

    Parameters keep their names and identities: optimizers and snapshots see no difference.

    Args:
        model: changed in place, and back.
        scales: of the inputs of each int8 product, as `compress.calibrate` gives them.
        precision: which sublayers are int8, and how wide their weights are.
    """
    with ExitStack() as restored:
        restored.callback(model.encoder.embeddings.tokens.register_forward_hook(_round_rows).remove)
        for index, kinds in enumerate(precision.layers):
            for part in PARTS:
                if getattr(kinds, part) == "int8":
                    for name, linear in model.encoder.layers[index].get_submodule(part).named_children():
                        if isinstance(linear, nn.Linear):
                            place = f"encoder.layers.{index}.{part}.{name}"
                            first = model.architecture.first_only(index)
                            linear.__dict__["forward"] = _rounded_forward(linear, place, scales, precision, first)
                            restored.callback(linear.__dict__.pop, "forward")
        yield


def _rounded_forward(
    linear: nn.Linear, place: str, scales: Scales, precision: Precision, first_only: bool
) -> Callable[[Tensor], Tensor]:
    """Return what a matrix computes; with `first_only` the first token alone is rounded, keys and values aside.

    So it is in the last layer: nothing is served of the other tokens there, but the student's last states are learned
    from all.
    """
    bits = precision.weight_bits
    if first_only and place.endswith(".qkv"):
        inner = linear.out_features // 3
        query = _Product(linear, scales[f"{place}.query"], bits, slice(0, inner), first_only=True)
        rest = _Product(linear, scales[place], bits, slice(inner, None), first_only=False)
        return lambda inputs: torch.cat((query(inputs), rest(inputs)), dim=-1)
    return _Product(linear, scales[place], bits, slice(None), first_only=first_only)


@dataclass(frozen=True, slots=True)
class _Product:
    """Some outputs of a matrix, computed in int8."""

    linear: nn.Linear
    activation: Activation
    bits: int
    outputs: slice
    first_only: bool

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return (batch, tokens, outputs) of (batch, tokens, inputs)."""
        told, weight = self.activation, self.linear.weight[self.outputs]
        bias = None if self.linear.bias is None else self.linear.bias[self.outputs]  # an uncut ModernBERT has none
        inputs = inputs.float()  # autocast gives halves, whose own rounding is as coarse as int8's
        if told.smoothing is not None:
            smoothing = torch.from_numpy(told.smoothing).to(inputs.device)
            inputs, weight = inputs * smoothing, weight / smoothing
        if told.correction is not None:
            correction = torch.from_numpy(told.correction).to(inputs.device)
            bias = correction if bias is None else bias + correction
        rounded = partial(
            torch.fake_quantize_per_tensor_affine, scale=told.scale, zero_point=told.zero_point,
            quant_min=0, quant_max=255,
        )  # fmt: skip
        seen = torch.cat((rounded(inputs[:, :1]), inputs[:, 1:]), dim=1) if self.first_only else rounded(inputs)
        return functional.linear(seen, _rounded_weight(weight, self.bits), bias)


def _rounded_weight(weight: Tensor, bits: int) -> Tensor:
    """Return a matrix (outputs, inputs) as `export.precision.quantized_weight` rounds it."""
    most = 2 ** (bits - 1) - 1
    scale = weight.detach().abs().amax(dim=1).clamp(min=1e-8) / most
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -most, most)


def _round_rows(_: nn.Module, __: tuple[Tensor, ...], rows: Tensor) -> Tensor:
    """Return rows of the token table (batch, tokens, width) with one scale each."""
    scale = rows.detach().abs().amax(dim=-1, keepdim=True).clamp(min=1e-8) / 127
    return rows + (torch.round(rows.detach() / scale) * scale - rows.detach())
