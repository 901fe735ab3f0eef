import numpy as np
import pytest

from compress.quantization.histogram import BINS, METHODS, SHARES, Histogram, choose_range, product_error
from export.graph_precision import Activation


@pytest.fixture(scope="module")
def heavy():
    """Values with a heavy tail and two columns of outliers, as residual streams have, and a matrix."""
    generator = np.random.default_rng(0)
    values = generator.standard_t(4, (4000, 32)).astype(np.float32)
    values[:, 3] *= 6
    return values, generator.normal(0, 1, (32, 8)).astype(np.float32)


def streamed(values, matrix, parts=16):
    """Count values in parts; each token's weight is 1 / ‖its product‖²."""
    histogram = Histogram((matrix**2).sum(1))
    for part in np.array_split(values, parts):
        histogram.add(part, row_weights(part, matrix))
    return histogram


def row_weights(values, matrix):
    return 1 / np.maximum(((values @ matrix) ** 2).sum(1), 1e-12)


def test_a_stream_is_counted_as_the_whole_is(heavy):
    values, matrix = heavy
    growing = np.sort(values.reshape(-1)).reshape(values.shape)  # the reach must widen again and again
    for array in (values, growing[::-1]):
        histogram = streamed(array, matrix)
        edges = np.linspace(-histogram.reach, histogram.reach, BINS + 1)
        assert (histogram.low, histogram.high) == (array.min(), array.max())
        assert histogram.counts.sum() == array.size
        wanted = np.histogram(array, edges)[0].cumsum()  # a value on an edge may fall to either side
        assert np.abs(histogram.counts.cumsum() - wanted).max() <= 3
        assert histogram.weighted.sum() == pytest.approx(
            (matrix**2).sum() * row_weights(array, matrix).sum(), rel=1e-4
        )


def true_error(values, matrix, ends):
    error = np.square((values - Activation.of_range(*ends).rounded(values)) @ matrix).sum(1)
    return float((error * row_weights(values, matrix)).sum())


def test_the_predicted_error_is_the_error_of_the_product(heavy):
    values, matrix = heavy
    histogram = streamed(values, matrix)
    for share in (0.3, 0.6, 1.0):
        ends = (share * histogram.low, share * histogram.high)
        assert product_error(histogram, *ends) == pytest.approx(true_error(values, matrix, ends), rel=0.1)


def test_least_error_beats_every_other_cut(heavy):
    values, matrix = heavy
    histogram = streamed(values, matrix)
    errors = {method: true_error(values, matrix, choose_range(histogram, method)) for method in METHODS}
    assert errors["mse"] <= 1.02 * min(errors.values())
    assert errors["mse"] < 0.8 * errors["minmax"]
    brute = min(
        true_error(values, matrix, (a * histogram.low, b * histogram.high)) for a in SHARES[::4] for b in SHARES[::4]
    )
    assert errors["mse"] <= 1.02 * brute
