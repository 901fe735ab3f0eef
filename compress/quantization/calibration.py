"""calibrate(): activation ranges of the int8 matrices from calibration texts, in constant memory.

The fp32 model reads the texts three times. The first pass records the largest value of each input column. The second
pass fills histograms of the inputs, with and without smoothing. The third pass measures the mean error of each output
due to quantization, which is then added to the bias.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from compress.quantization.histogram import Histogram, Method, choose_range, product_error
from export.graph_precision import Activation, Floats, Scales, quantized_weight
from models.classifier import Classifier, TensorBatch
from models.errors import InputError
from models.messages import progress
from models.sublayer import SublayerId
from models.tokenizer import Encoded, Row, TokenBatch, Tokenizer

BATCH_TOKENS = 2048
ENCODED_AT_ONCE = 256
SMOOTHING_POWER = 0.75  # alpha of SmoothQuant (there 0.5): exponent of the activations' size; 1 - alpha: the weights'
SMOOTHING_GAIN = 0.02  # least decrease of a product's relative error for which smoothing gets its own operator
Observer = Callable[[str, Floats, Floats], None]  # name of the matrix, its inputs, 1 / ‖output‖² of each token


class TextBatches:
    """Texts as padded batches of at most BATCH_TOKENS tokens, created again in each pass and never stored."""

    def __init__(self, rows: Sequence[Row], tokenizer: Tokenizer) -> None:
        self._rows, self._tokenizer = rows, tokenizer

    def __iter__(self) -> Iterator[TokenBatch]:
        """Yield the batches, in the order of the texts."""
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
        """Number of texts."""
        return len(self._rows)

    def _encoded(self) -> Iterator[Encoded]:
        for start in range(0, len(self._rows), ENCODED_AT_ONCE):
            yield from self._tokenizer.encode(self._rows[start : start + ENCODED_AT_ONCE])


Batches = TextBatches | Sequence[TokenBatch]


def calibrate(
    model: Classifier, batches: Batches, method: Method = "mse", bits: int = 8, smooth: bool | Collection[str] = True
) -> Scales:
    """Return the quantization of each matrix's input, with smoothing where it helps and a bias correction.

    Where only the first token is computed (the last layer, except for keys and values), only first tokens count.

    Args:
        model: the fp32 model.
        batches: texts like those that will be served; read three times.
        method: how ranges are chosen: see `compress.quantization.histogram`.
        bits: width of the int8 weights.
        smooth: whether columns with outliers may be scaled down. Or the names of the inputs for which this needs an
            operator of its own: the graph then has these operators and no others. Inputs that need none may always
            be smoothed.

    Raises:
        InputError: there are no texts.
    """
    inputs = matrix_inputs(model)
    columns = {name: _ColumnStatistics(one.weight.shape[0]) for name, one in inputs.items()}
    observe(model, inputs, _with_progress(batches, "calibrate 1/3"), lambda name, *values: columns[name].add(*values))
    if not all(c.rows for c in columns.values()):
        raise InputError("there are no calibration texts: wanted texts like those that will be served")
    options = {
        name: _SmoothingOptions(one, columns[name], _allowed_smoothing(name, one, smooth))
        for name, one in inputs.items()
    }
    observe(model, inputs, _with_progress(batches, "calibrate 2/3"), lambda name, *values: options[name].add(*values))
    scales = {name: option.best(method, bits) for name, option in options.items()}
    means = {name: _MeanError(one.weight.shape[0]) for name, one in inputs.items()}
    last_pass = _with_progress(batches, "calibrate 3/3")
    observe(model, inputs, last_pass, lambda name, values, _: means[name].add(values, scales[name]))
    return {
        name: replace(scales[name], correction=means[name].correction(one.weight, scales[name], bits))
        for name, one in inputs.items()
    }


@dataclass(frozen=True, slots=True)
class MatrixInput:
    """The input of one matrix (inputs, outputs): of a linear module, or of some of its output columns."""

    module: str
    weight: Floats
    first_only: bool  # only the first token of each text is multiplied

    @property
    def smooths_at_no_cost(self) -> bool:
        """Whether another matrix can contain the factors: those of attention's output go into the values' matrix."""
        return self.module.endswith(".attention.output")


class _ColumnStatistics:
    """Largest value of each input column, and its sum of squares with the token weights of `Histogram`."""

    def __init__(self, columns: int) -> None:
        self.largest = np.zeros(columns, dtype=np.float32)
        self.squares = np.zeros(columns)
        self.rows = 0

    def add(self, values: Floats, row_weights: Floats) -> None:
        self.largest = np.maximum(self.largest, np.abs(values).max(0))
        self.squares += row_weights @ np.square(values)
        self.rows += len(values)


def _allowed_smoothing(name: str, matrix_input: MatrixInput, smooth: bool | Collection[str]) -> tuple[bool, ...]:
    """Return the options for an input: unsmoothed (False), smoothed (True), or both, of which the better is taken."""
    if isinstance(smooth, bool):
        return (False, True) if smooth else (False,)
    if matrix_input.smooths_at_no_cost:
        return (False, True)
    return (name in smooth,)


class _SmoothingOptions:
    """Histograms of one matrix input, one for each allowed option: unsmoothed, smoothed."""

    def __init__(self, matrix_input: MatrixInput, columns: _ColumnStatistics, allowed: tuple[bool, ...]) -> None:
        self._input, self._columns = matrix_input, columns
        self._smoothings = [_smoothing(self._input.weight, columns.largest) if smooth else None for smooth in allowed]
        self._histograms = [Histogram(np.square(self._weight(s)).sum(axis=1)) for s in self._smoothings]

    def add(self, values: Floats, row_weights: Floats) -> None:
        for histogram, smoothing in zip(self._histograms, self._smoothings, strict=True):
            histogram.add(values if smoothing is None else values * smoothing, row_weights)

    def best(self, method: Method, bits: int) -> Activation:
        """Return the unsmoothed activation, unless smoothing decreases the error enough."""
        results = []
        for histogram, smoothing in zip(self._histograms, self._smoothings, strict=True):
            ends = choose_range(histogram, method)
            error = product_error(histogram, *ends) + self._weight_error(smoothing, bits)
            activation = replace(Activation.of_range(*ends), smoothing=smoothing)
            results.append((float(np.sqrt(error / self._columns.rows)), activation))
        least_gain = 0.0 if self._input.smooths_at_no_cost else SMOOTHING_GAIN
        return results[-1][1] if results[0][0] - results[-1][0] > least_gain else results[0][1]

    def _weight(self, smoothing: Floats | None) -> Floats:
        return self._input.weight if smoothing is None else self._input.weight / smoothing[:, None]

    def _weight_error(self, smoothing: Floats | None, bits: int) -> float:
        """Return the squared relative error of the product due to quantized weights, summed over tokens."""
        weight = self._weight(smoothing)
        values, scale = quantized_weight(weight, bits)
        squares = self._columns.squares if smoothing is None else self._columns.squares * np.square(smoothing)
        return float(squares @ np.square(weight - values * scale).sum(axis=1))


def _smoothing(weight: Floats, largest: Floats) -> Floats:
    """Return factors (inputs,) that move a part of a column's size from inputs to weights (SmoothQuant, 2022)."""
    weight_size = np.maximum(np.abs(weight).max(axis=1), 1e-3)
    size = np.maximum(largest, 1e-3) ** SMOOTHING_POWER / weight_size ** (1 - SMOOTHING_POWER)
    return np.asarray(np.exp(np.log(size).mean()) / size, dtype=np.float32)


class _MeanError:
    """Mean of each input column before and after rounding; values are clipped first, as clipping is no mean error."""

    def __init__(self, columns: int) -> None:
        self._sums: NDArray[np.float64] = np.zeros((2, columns))
        self._rows = 0

    def add(self, values: Floats, activation: Activation) -> None:
        low, high = activation.range
        clipped = np.clip(activation.smoothed(values), low, high)
        self._sums += clipped.sum(0, dtype=np.float64), activation.rounded(clipped).sum(0, dtype=np.float64)
        self._rows += len(values)

    def correction(self, weight: Floats, activation: Activation, bits: int) -> Floats:
        """Return E[XW - Q(X)Q(W)], (outputs,)."""
        smoothed = activation.smoothed_weight(weight)
        values, scale = quantized_weight(smoothed, bits)
        exact, rounded = self._sums / self._rows
        return np.asarray(exact @ smoothed - rounded @ (values * scale), dtype=np.float32)


def matrix_inputs(model: Classifier) -> dict[str, MatrixInput]:
    """Return the inputs of the matrices that may be int8, by the names of `Scales`."""
    inputs = {}
    for module, linear in model.named_modules():
        if not (isinstance(linear, torch.nn.Linear) and module.startswith("encoder.layers.")):
            continue
        weight = linear.weight.detach().numpy().T
        if not model.architecture.first_only(SublayerId.of_module(module).layer):
            inputs[module] = MatrixInput(module, weight, first_only=False)
        elif module.endswith(".qkv"):
            inner = weight.shape[1] // 3
            inputs[module] = MatrixInput(module, weight[:, inner:], first_only=False)
            inputs[f"{module}.query"] = MatrixInput(module, weight[:, :inner], first_only=True)
        else:
            inputs[module] = MatrixInput(module, weight, first_only=True)
    return inputs


def _with_progress(batches: Batches, description: str) -> Iterator[TokenBatch]:
    """Yield the batches, with a progress bar if it takes longer than a second."""
    texts = batches.texts if isinstance(batches, TextBatches) else sum(batch.rows for batch in batches)
    with progress(total=texts, desc=description, unit="text", delay=1) as bar:
        for batch in batches:
            yield batch
            bar.update(batch.rows)


def observe(
    model: Classifier, inputs: dict[str, MatrixInput], batches: Iterable[TokenBatch], observer: Observer
) -> None:
    """Run the model, and call `observer` with each matrix input (tokens, inputs) and 1 / ‖output‖² of its tokens.

    Padding is left out.
    """
    for batch in batches:
        mask = batch.mask.astype(bool)
        with _hooks(model, inputs, mask, observer), torch.inference_mode():
            model(TensorBatch(batch))


@contextmanager
def _hooks(
    model: Classifier, inputs: dict[str, MatrixInput], mask: NDArray[np.bool_], observer: Observer
) -> Iterator[None]:
    """Register forward hooks that call `observer`, and remove them on exit."""

    def hook(name: str, matrix_input: MatrixInput) -> Any:
        def call(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            tokens = (slice(None), 0) if matrix_input.first_only else mask
            products = output.numpy()[tokens]
            observer(name, arguments[0].numpy()[tokens], 1 / np.maximum(np.square(products).sum(axis=1), 1e-12))

        return call

    modules = dict(model.named_modules())
    handles = [modules[one.module].register_forward_hook(hook(name, one)) for name, one in inputs.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
