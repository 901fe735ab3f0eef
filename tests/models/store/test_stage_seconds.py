"""The times of the stages of a command."""

import pytest

from models.store import stage_seconds
from models.store.stage_seconds import StageSeconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list whose only number is the time."""
    now = [100.0]
    monkeypatch.setattr(stage_seconds.time, "perf_counter", lambda: now[0])
    return now


def test_a_stage_that_runs_twice_is_summed_and_keeps_its_place(clock):
    seconds = StageSeconds()
    for stage, took in (("prune", 2.0), ("bundle", 1.04), ("prune", 3.0)):
        with seconds.of(stage):
            clock[0] += took
    assert list(seconds.report().items()) == [("prune", 5.0), ("bundle", 1.0)]


def test_a_stage_that_fails_has_its_time_too(clock):
    seconds = StageSeconds()

    def fail() -> None:
        with seconds.of("prune"):
            clock[0] += 7.0
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert seconds.report() == {"prune": 7.0}
