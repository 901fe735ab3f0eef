"""StageSeconds: the wall-clock time of each stage of a command, for its report."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class StageSeconds:
    """Seconds by stage, in the order in which the stages began; a stage that runs several times is summed."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Add the time of the block to `stage`, also if the block raises."""
        begin = time.perf_counter()
        self._seconds.setdefault(stage, 0.0)
        try:
            yield
        finally:
            self._seconds[stage] += time.perf_counter() - begin

    def report(self) -> dict[str, float]:
        """Return the seconds of each stage, to a tenth."""
        return {stage: round(seconds, 1) for stage, seconds in self._seconds.items()}
