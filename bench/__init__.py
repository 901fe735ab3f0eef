"""What it cost and what it gained. Everything is timed with `bench.time` and judged with `bench.compare`."""

from bench.accuracy import compare
from bench.timing import interleave as time

__all__ = ["compare", "time"]
