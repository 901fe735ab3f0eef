"""calibrate(): texts → the scale of each int8 matrix's input, in memory that does not grow with the texts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from compress.histogram import Histogram, Method, choose_range
from export.precision import Activation, Floats, Scales, quantized_weight
from models.classifier import Classifier, TensorBatch
from models.errors import InputError
from models.tokens import Encoded, TokenBatch, Tokenizer

BATCH_TOKENS = 2048
See = Callable[[str, Floats], None]


class TextBatches:
    """Encoded texts as padded batches of at most BATCH_TOKENS tokens, made anew in each pass and never kept."""

    def __init__(self, encoded: Sequence[Encoded], tokenizer: Tokenizer) -> None:
        self._encoded, self._tokenizer = encoded, tokenizer

    def __iter__(self) -> Iterator[TokenBatch]:
        """Give one batch after the other, in the order of the texts."""
        group: list[Encoded] = []
        for text in self._encoded:
            longest = max(len(e.ids) for e in (*group, text))
            if group and longest * (len(group) + 1) > BATCH_TOKENS:
                yield self._tokenizer.pad(group)
                group = []
            group.append(text)
        if group:
            yield self._tokenizer.pad(group)


def calibrate(
    model: Classifier, batches: "TextBatches | Sequence[TokenBatch]", method: Method = "error", bits: int = 8
) -> Scales:
    """Return the fixed scale of each matrix's input, with the bias that gives back what rounding takes on average.

    Two passes through the fp32 model: one for the ranges, one for the mean error. Where only the first token is
    computed (the last layer, keys and values aside), only first tokens are looked at.

    Args:
        model: in fp32.
        batches: texts like those that will be served; read twice.
        method: where ranges are cut: see `compress.histogram`.
        bits: width of the int8 weights, which the mean error depends on.

    Raises:
        InputError: there are no texts.
    """
    points = _points(model)
    histograms = {name: Histogram((point.weight**2).sum(axis=1)) for name, point in points.items()}
    _watch(model, points, batches, lambda name, values: histograms[name].add(values))
    if not all(h.counts.any() for h in histograms.values()):
        raise InputError("there are no calibration texts: wanted texts like those that will be served")
    scales = {name: Activation.of_range(*choose_range(h, method)) for name, h in histograms.items()}
    means = {name: _Means(point.weight.shape[0]) for name, point in points.items()}
    _watch(model, points, batches, lambda name, values: means[name].add(values, scales[name]))
    return {
        name: Activation(scales[name].scale, scales[name].zero_point, means[name].correction(point.weight, bits))
        for name, point in points.items()
    }


@dataclass(frozen=True, slots=True)
class _Point:
    """The input of one matrix (inputs, outputs), which is that of a linear module or of some of its columns."""

    module: str
    weight: Floats
    first_only: bool


class _Means:
    """Means of each column of a stream, before and after rounding."""

    def __init__(self, columns: int) -> None:
        self._sums: NDArray[np.float64] = np.zeros((2, columns))
        self._rows = 0

    def add(self, values: Floats, activation: Activation) -> None:
        self._sums += values.sum(0, dtype=np.float64), activation.quantized(values).sum(0, dtype=np.float64)
        self._rows += len(values)

    def correction(self, weight: Floats, bits: int) -> Floats:
        """Return E[XW - Q(X)Q(W)], (outputs,)."""
        values, scale = quantized_weight(weight, bits)
        exact, rounded = self._sums / self._rows
        return np.asarray(exact @ weight - rounded @ (values * scale), dtype=np.float32)


def _points(model: Classifier) -> dict[str, _Point]:
    found, last = {}, len(model.architecture.layers) - 1
    for module, linear in model.named_modules():
        if not (isinstance(linear, torch.nn.Linear) and module.startswith("encoder.layers.")):
            continue
        weight = linear.weight.detach().numpy().T
        if int(module.split(".")[2]) != last:
            found[module] = _Point(module, weight, first_only=False)
        elif module.endswith(".qkv"):
            inner = weight.shape[1] // 3
            found[module] = _Point(module, weight[:, inner:], first_only=False)
            found[f"{module}.query"] = _Point(module, weight[:, :inner], first_only=True)
        else:
            found[module] = _Point(module, weight, first_only=True)
    return found


def _watch(model: Classifier, points: dict[str, _Point], batches: Any, see: See) -> None:
    """Show `see` the input of each point, (tokens, inputs), padding left out, batch after batch."""
    for batch in batches:
        real = batch.mask.astype(bool)
        with _hooks(model, points, real, see), torch.inference_mode():
            model(TensorBatch(batch))


@contextmanager
def _hooks(model: Classifier, points: dict[str, _Point], real: NDArray[np.bool_], see: See) -> Iterator[None]:
    def hook(name: str, point: _Point) -> Callable[[torch.nn.Module, tuple[torch.Tensor, ...]], None]:
        def show(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            values = inputs[0].numpy()
            see(name, values[:, 0] if point.first_only else values[real])

        return show

    modules = dict(model.named_modules())
    handles = [modules[p.module].register_forward_pre_hook(hook(name, p)) for name, p in points.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
