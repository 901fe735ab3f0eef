"""Service times of a bundle on this machine: seconds of a batch by length and number of texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bench.measure.latency.timing import interleave
from models.tokenizer import Encoded, Row
from service.model.engine import Engine

LENGTHS = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)  # tokens, up to the longest text
ROUNDS, SECONDS = 15, 20.0  # of the measurement: at most


@dataclass(frozen=True, slots=True)
class ServiceTimes:
    """Median seconds of one thread, by length (rows) and number of texts in a batch (columns: 1, 2, … texts)."""

    lengths: tuple[int, ...]
    seconds: NDArray[np.float64]  # (lengths, texts)
    variation: NDArray[np.float64]  # of each measured time over its median: how the machine disturbs the model

    def of(self, tokens: int, texts: int) -> float:
        """Return the seconds of a batch whose longest text has `tokens` tokens, interpolated between lengths."""
        return float(np.interp(tokens, self.lengths, self.seconds[:, texts - 1]))


def measure_service_times(engine: Engine, rows: Sequence[Row], largest: int) -> ServiceTimes:
    """Measure the seconds of batches of 1 to `largest` texts at several lengths.

    The cells take turns, so that a disturbance does not hit one of them alone.

    Args:
        engine: an engine of one thread.
        rows: texts like those of the load; the longest decides the lengths that are measured.
        largest: number of texts in a batch.
    """
    encoded = engine.encode(rows)
    longest = max(len(one.ids) for one in encoded)
    lengths = (*(n for n in LENGTHS if n < longest), longest)
    sample = max(encoded, key=lambda one: len(one.ids))
    cells = {
        f"{n} {texts}": partial(engine.infer, [_of_length(sample, n)] * texts)
        for n in lengths
        for texts in range(1, largest + 1)
    }
    times = interleave(cells, ROUNDS, warmup=1, within=SECONDS)
    seconds = np.array([times[name] for name in cells])  # (cells, rounds)
    medians = np.median(seconds, axis=1)
    table = medians.reshape(len(lengths), largest)
    return ServiceTimes(lengths, table, (seconds / medians[:, None]).ravel())


def _of_length(sample: Encoded, tokens: int) -> Encoded:
    return Encoded(sample.ids[:tokens], sample.types[:tokens])
