"""Times of engines with one thread are processor time, which programs on the same core do not lengthen."""

import time
from itertools import count

import numpy as np
import pytest

from bench.measure.engine_spec import EngineSpec, OpenEngine
from bench.measure.latency import clock
from bench.measure.latency.clock import engine_clock, is_fine, name_clock
from bench.measure.latency.engine_worker import _EngineHost
from bench.measure.latency.timing import interleave, machine_card, time_texts
from models.task import Task

IDLE = 0.2  # seconds without the processor, as when another program has it
USED = 0.1  # far more processor time than waiting takes


@pytest.fixture(autouse=True)
def needs_a_fine_clock():
    if not is_fine(time.process_time):
        pytest.skip("processor time is counted in coarse steps on this system")


def idle(*_: object) -> np.ndarray:
    time.sleep(IDLE)
    return np.zeros((1, 2), np.float32)


def test_one_thread_is_timed_by_processor_time_and_several_by_wall_time():
    assert interleave({"idle": idle}, 1, warmup=0, threads=1)["idle"][0] < USED
    assert interleave({"idle": idle}, 1, warmup=0, threads=2)["idle"][0] >= IDLE
    assert interleave({"a device": idle}, 1, warmup=0, threads=0)["a device"][0] >= IDLE
    assert time_texts({"idle": [idle]}, 1, warmup=0)["idle"].item() < USED
    assert time_texts({"idle": [idle]}, 1, warmup=0, threads=2)["idle"].item() >= IDLE


@pytest.mark.parametrize(("threads", "is_wall"), [(1, False), (2, True)])
def test_an_engine_process_times_in_the_same_way(tmp_path, threads, is_wall):
    spec = EngineSpec(
        "graph", tmp_path, Task.model_validate({"labels": ["a", "b"], "max_tokens": 8}), threads=threads
    )
    host = _EngineHost(OpenEngine(idle, idle, 0, False), spec)
    host.prepare([[[("a text",)]]], None)
    ((preparing,),) = host.time_preparing(1)
    for seconds in (*host.time(0, 1), preparing):
        assert (seconds >= IDLE) if is_wall else (seconds < USED)


def test_a_clock_of_coarse_steps_is_not_used(monkeypatch):
    ticks = count()

    def coarse() -> float:
        return next(ticks) // 1000 * 0.01

    monkeypatch.setattr(clock, "process_time", coarse)
    assert not is_fine(coarse)
    assert engine_clock(1) is time.perf_counter
    assert name_clock(1) == "wall time"


def test_a_report_names_its_clocks():
    assert machine_card([1, 2])["clocks"] == {"1": "processor time", "2": "wall time"}
