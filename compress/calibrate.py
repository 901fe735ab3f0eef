"""calibrate(): texts → the scale of each int8 matrix's input, in memory that does not grow with the texts.

Three passes through the fp32 model. The first sees how large each column gets, the second counts values, as they are
and smoothed, the third takes the mean of what rounding changes.
"""

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from compress.histogram import Histogram, Method, choose_range, product_error
from export.precision import Activation, Floats, Scales, quantized_weight
from models.classifier import Classifier, TensorBatch
from models.errors import InputError
from models.tokens import Encoded, Row, TokenBatch, Tokenizer

BATCH_TOKENS = 2048
ENCODED_AT_ONCE = 256
POWER = 0.75  # of a column's size in smoothing, the rest is the weights' (0.5 in SmoothQuant)
WORTH = 0.02  # fall of a product's relative error from which smoothing is worth an operator of its own
See = Callable[[str, Floats, Floats], None]


class TextBatches:
    """Texts as padded batches of at most BATCH_TOKENS tokens, made anew in each pass and never kept."""

    def __init__(self, rows: Sequence[Row], tokenizer: Tokenizer) -> None:
        self._rows, self._tokenizer = rows, tokenizer

    def __iter__(self) -> Iterator[TokenBatch]:
        """Give one batch after the other, in the order of the texts."""
        group: list[Encoded] = []
        longest = 0
        for text in self._encoded():
            longest = max(longest, len(text.ids))
            if group and longest * (len(group) + 1) > BATCH_TOKENS:
                yield self._tokenizer.pad(group)
                group, longest = [], len(text.ids)
            group.append(text)
        if group:
            yield self._tokenizer.pad(group)

    @property
    def texts(self) -> int:
        """How many texts there are."""
        return len(self._rows)

    def _encoded(self) -> Iterator[Encoded]:
        for start in range(0, len(self._rows), ENCODED_AT_ONCE):
            yield from self._tokenizer.encode(self._rows[start : start + ENCODED_AT_ONCE])


Batches = TextBatches | Sequence[TokenBatch]


def calibrate(
    model: Classifier, batches: Batches, method: Method = "mse", bits: int = 8, smooth: bool | Collection[str] = True
) -> Scales:
    """Return the fixed scale of each matrix's input, with smoothing where it pays and the mean error given back.

    Where only the first token is computed (the last layer, keys and values aside), only first tokens are looked at.

    Args:
        model: in fp32.
        batches: texts like those that will be served; read three times.
        method: where ranges are cut: see `compress.histogram`.
        bits: width of the int8 weights.
        smooth: whether columns of outliers may be brought nearer to the rest; or the names of the inputs for which
            they are, besides those where that takes no operator: then the graph has these operators and no others.

    Raises:
        InputError: there are no texts.
    """
    points = points_of(model)
    columns = {name: _Columns(point.weight.shape[0]) for name, point in points.items()}
    watch(model, points, _shown(batches, "calibrate 1/3"), lambda name, *seen: columns[name].add(*seen))
    if not all(c.rows for c in columns.values()):
        raise InputError("there are no calibration texts: wanted texts like those that will be served")
    choices = {name: _Choices(point, columns[name], _offered(name, point, smooth)) for name, point in points.items()}
    watch(model, points, _shown(batches, "calibrate 2/3"), lambda name, *seen: choices[name].add(*seen))
    scales = {name: choice.best(method, bits) for name, choice in choices.items()}
    means = {name: _Means(point.weight.shape[0]) for name, point in points.items()}
    last = _shown(batches, "calibrate 3/3")
    watch(model, points, last, lambda name, values, _: means[name].add(values, scales[name]))
    return {
        name: replace(scales[name], correction=means[name].correction(point.weight, scales[name], bits))
        for name, point in points.items()
    }


@dataclass(frozen=True, slots=True)
class Point:
    """The input of one matrix (inputs, outputs), which is that of a linear module or of some of its columns."""

    module: str
    weight: Floats
    first_only: bool

    @property
    def smooths_for_nothing(self) -> bool:
        """Whether the factors can be put into another matrix: those of attention's sums into the values'."""
        return self.module.endswith(".attention.output")


class _Columns:
    """How large each column of a stream gets, and its mean square among tokens weighted as in Histogram."""

    def __init__(self, columns: int) -> None:
        self.most = np.zeros(columns, dtype=np.float32)
        self.squares = np.zeros(columns)
        self.rows = 0

    def add(self, values: Floats, row_weights: Floats) -> None:
        self.most = np.maximum(self.most, np.abs(values).max(0))
        self.squares += row_weights @ np.square(values)
        self.rows += len(values)


def _offered(name: str, point: Point, smooth: bool | Collection[str]) -> tuple[bool, ...]:
    """Return the forms of an input from which the better one is taken: as it is (False), smoothed (True)."""
    if isinstance(smooth, bool):
        return (False, True) if smooth else (False,)
    if point.smooths_for_nothing:
        return (False, True)
    return (name in smooth,)


class _Choices:
    """A point's values counted as they are, smoothed, or both: `offered`."""

    def __init__(self, point: Point, columns: _Columns, offered: tuple[bool, ...]) -> None:
        self._point, self._columns = point, columns
        self._smoothings = [_smoothing(point.weight, columns.most) if smooth else None for smooth in offered]
        self._histograms = [Histogram(np.square(self._weight(s)).sum(axis=1)) for s in self._smoothings]

    def add(self, values: Floats, row_weights: Floats) -> None:
        for histogram, smoothing in zip(self._histograms, self._smoothings, strict=True):
            histogram.add(values if smoothing is None else values * smoothing, row_weights)

    def best(self, method: Method, bits: int) -> Activation:
        """Return the unsmoothed activation, unless smoothing is worth what it costs."""
        found = []
        for histogram, smoothing in zip(self._histograms, self._smoothings, strict=True):
            ends = choose_range(histogram, method)
            error = product_error(histogram, *ends) + self._weight_error(smoothing, bits)
            activation = replace(Activation.of_range(*ends), smoothing=smoothing)
            found.append((float(np.sqrt(error / self._columns.rows)), activation))
        worth = 0.0 if self._point.smooths_for_nothing else WORTH
        return found[-1][1] if found[0][0] - found[-1][0] > worth else found[0][1]

    def _weight(self, smoothing: Floats | None) -> Floats:
        return self._point.weight if smoothing is None else self._point.weight / smoothing[:, None]

    def _weight_error(self, smoothing: Floats | None, bits: int) -> float:
        """Return the squared relative error, summed over tokens, that rounded weights bring into the product."""
        weight = self._weight(smoothing)
        values, scale = quantized_weight(weight, bits)
        squares = self._columns.squares if smoothing is None else self._columns.squares * np.square(smoothing)
        return float(squares @ np.square(weight - values * scale).sum(axis=1))


def _smoothing(weight: Floats, most: Floats) -> Floats:
    """Return factors (inputs,) that share a column's size between activations and weights (SmoothQuant, 2022)."""
    size = np.maximum(most, 1e-3) ** POWER / np.maximum(np.abs(weight).max(axis=1), 1e-3) ** (1 - POWER)
    return np.asarray(np.exp(np.log(size).mean()) / size, dtype=np.float32)


class _Means:
    """Means of each column of a stream, before and after rounding; what is cut off is no mean error: it stays out."""

    def __init__(self, columns: int) -> None:
        self._sums: NDArray[np.float64] = np.zeros((2, columns))
        self._rows = 0

    def add(self, values: Floats, activation: Activation) -> None:
        low, high = activation.range
        inside = np.clip(activation.smoothed(values), low, high)
        self._sums += inside.sum(0, dtype=np.float64), activation.rounded(inside).sum(0, dtype=np.float64)
        self._rows += len(values)

    def correction(self, weight: Floats, activation: Activation, bits: int) -> Floats:
        """Return E[XW - Q(X)Q(W)], (outputs,)."""
        smoothed = activation.smoothed_weight(weight)
        values, scale = quantized_weight(smoothed, bits)
        exact, rounded = self._sums / self._rows
        return np.asarray(exact @ smoothed - rounded @ (values * scale), dtype=np.float32)


def points_of(model: Classifier) -> dict[str, Point]:
    """Return the inputs of the matrices that may be int8, by the names of `Scales`."""
    found = {}
    for module, linear in model.named_modules():
        if not (isinstance(linear, torch.nn.Linear) and module.startswith("encoder.layers.")):
            continue
        weight = linear.weight.detach().numpy().T
        if not model.architecture.first_only(int(module.split(".")[2])):
            found[module] = Point(module, weight, first_only=False)
        elif module.endswith(".qkv"):
            inner = weight.shape[1] // 3
            found[module] = Point(module, weight[:, inner:], first_only=False)
            found[f"{module}.query"] = Point(module, weight[:, :inner], first_only=True)
        else:
            found[module] = Point(module, weight, first_only=True)
    return found


def _shown(batches: Batches, told: str) -> Iterator[TokenBatch]:
    """Give the batches, and show a bar where that takes long."""
    texts = batches.texts if isinstance(batches, TextBatches) else sum(batch.rows for batch in batches)
    with tqdm(total=texts, desc=told, unit="text", delay=1, file=sys.stderr) as bar:
        for batch in batches:
            yield batch
            bar.update(batch.rows)


def watch(model: Classifier, points: dict[str, Point], batches: Iterable[TokenBatch], see: See) -> None:
    """Show `see` the input of each point, (tokens, inputs), and 1 / ‖output‖² of each token; no padding."""
    for batch in batches:
        real = batch.mask.astype(bool)
        with _hooks(model, points, real, see), torch.inference_mode():
            model(TensorBatch(batch))


@contextmanager
def _hooks(model: Classifier, points: dict[str, Point], real: NDArray[np.bool_], see: See) -> Iterator[None]:
    def hook(name: str, point: Point) -> Any:
        def show(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            kept = (slice(None), 0) if point.first_only else real
            products = output.numpy()[kept]
            see(name, inputs[0].numpy()[kept], 1 / np.maximum(np.square(products).sum(axis=1), 1e-12))

        return show

    modules = dict(model.named_modules())
    handles = [modules[p.module].register_forward_hook(hook(name, p)) for name, p in points.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
