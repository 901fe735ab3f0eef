"""BenchConfig: what a benchmark measures."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from bench.measure.engine_spec import TIMEOUT
from bench.measure.latency.request_batches import GROUPINGS
from bench.measure.latency.worker_pool import Cell
from models.schema import Record

WEEK = 604_800.0  # seconds
MOST = 1024  # largest batch size and number of threads: more is a typing mistake


def _in_order(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return each value once, the smallest first (None before all), so that the order of the input has no effect."""
    return tuple(sorted(set(values), key=lambda value: -1 if value is None else value))


Count = Annotated[int, Field(ge=1, le=MOST)]
Counts = Annotated[tuple[Count, ...], Field(min_length=1), AfterValidator(_in_order)]
Lengths = Annotated[tuple[Annotated[int, Field(ge=1)] | None, ...], Field(min_length=1), AfterValidator(_in_order)]


class BenchConfig(Record):
    """What to measure. The headline is for the smallest batch size, length and number of threads."""

    against: tuple[str, ...] = Field(
        ("pytorch", "ort_fp32", "stock_int8", "tfidf"), description="engines to compare with"
    )
    batches: Counts = Field((1, 16), description="batch sizes")
    lengths: Lengths = Field((None,), description="exact length of texts in tokens; None: own lengths")
    threads: Counts = Field((1,), description="threads inside one operator")
    texts: int = Field(
        64, ge=1, description="texts that are timed; accuracy uses all rows. A 95th percentile needs 60 requests"
    )
    rounds: int = Field(7, ge=3, description="rounds of interleaved timing")
    openings: int = Field(
        8, ge=2, description="starts of fresh processes of ours and its reference, by which runs are compared"
    )
    timeout: float = Field(
        TIMEOUT,
        gt=0,
        le=WEEK,
        description="seconds in which an engine must start, and answer 256 texts; otherwise it is ended",
    )
    handicap: float = Field(0, ge=0, description="share of its time by which ours is slowed down, to test the guard")


def cells(config: BenchConfig, threads: int) -> list[Cell]:
    """Return the settings to time, that of the headline first; larger batches are timed in both groupings."""
    return [
        Cell(batch, tokens, threads, grouping)
        for tokens in config.lengths
        for batch in config.batches
        for grouping in (GROUPINGS if batch > 1 else ("as received",))
    ]
