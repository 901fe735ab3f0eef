"""simulate(): one replica of the service under requests of one text each that arrive at random times (open loop).

The queue is the service's own scheduler, with its rules on batches and refusals, on a simulated clock. Before the
queue each request passes the event loop, one at a time. The loop shares the cores with the runners and goes first.
The time of a batch is the median of its kind times the variation that was measured on this machine, and what the
server takes for a batch beside the model.
"""

import heapq
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.capacity.server_times import ServerTimes
from bench.capacity.service_times import ServiceTimes
from service.inference.scheduler import Job, Overloaded, Rules, Scheduler

REQUESTS = 20_000
WARM = 1_000  # first requests, which find an empty queue
TIMEOUT = 10.0  # seconds: the service's default deadline
LONG = 1e6  # seconds after the last request: longer than any simulation goes on
ARRIVAL, END = 0, 1


@dataclass(frozen=True, slots=True)
class Model:
    """The attributes of a model that the scheduler reads."""

    serial: int
    single_row_only: bool


@dataclass(frozen=True, slots=True)
class Replica:
    """What a replica computes with."""

    times: ServiceTimes
    rules: Rules
    cores: int
    server: ServerTimes
    single_row_only: bool  # whether each text is a batch of its own


@dataclass(frozen=True, slots=True)
class Simulated:
    """Figures of one simulation."""

    rate: float  # requests a second
    mean: float  # seconds
    p50: float
    p99: float
    refused: int
    busy: float  # share of the cores' time

    def keeps_up(self, p99: float) -> bool:
        """Whether every request was answered with a p99 within the limit, as `loadtest --find-knee` has it."""
        return not self.refused and self.p99 <= p99


def simulate(
    replica: Replica, lengths: Sequence[int], rate: float, requests: int = REQUESTS, seed: int = 0
) -> Simulated:
    """Simulate a replica.

    Args:
        replica: its times, rules and cores.
        lengths: tokens of the texts of the load, from which the requests are drawn.
        rate: requests a second; the times between two of them are exponentially distributed.
        requests: number of requests.
        seed: of the random numbers.
    """
    random = np.random.default_rng(seed)
    arrivals = np.cumsum(random.exponential(1 / rate, requests)).tolist()
    tokens = random.choice(np.asarray(lengths), requests).tolist()
    return _Run(replica, rate, arrivals, tokens).run()


class SharedCores:
    """The cores of a replica, on which the event loop goes first: the runners share what it leaves them."""

    def __init__(self, arrivals: NDArray[np.float64], request: float, cores: int) -> None:
        """Lay out the work of the event loop: one request after the other, `request` seconds each."""
        done = request * np.arange(1, len(arrivals) + 1)  # seconds of work up to and with each request
        self.loop_ends = done + np.maximum.accumulate(arrivals - (done - request))
        begins = self.loop_ends - request
        times = np.ravel(np.column_stack([begins, self.loop_ends]))
        left = times - np.ravel(np.column_stack([done - request, done])) / cores  # for one runner, since the start
        self._times = [times[0] - LONG, *times.tolist(), times[-1] + LONG]
        self._left = [left[0] - LONG, *left.tolist(), left[-1] + LONG]

    def end(self, begin: float, seconds: float) -> float:
        """Return when a runner has done `seconds` of work that it begins at `begin`."""
        left = _interpolate(begin, self._times, self._left)
        return _interpolate(left + seconds, self._left, self._times)


def _interpolate(x: float, known: list[float], values: list[float]) -> float:
    """Return the value at `x`, between those of the two points beside it; faster than np.interp for one x."""
    i = min(bisect_right(known, x), len(known) - 1)
    return values[i - 1] + (x - known[i - 1]) * (values[i] - values[i - 1]) / (known[i] - known[i - 1])


class _Run:
    """State of one simulation; all times are simulated seconds."""

    def __init__(self, replica: Replica, rate: float, arrivals: list[float], tokens: list[int]) -> None:
        self._replica, self._rate, self._tokens, self._arrivals = replica, rate, tokens, arrivals
        self._scheduler = Scheduler(replica.rules)
        self._model = Model(0, replica.single_row_only)
        self._free = list(range(replica.rules.runners))
        self._events: list[tuple[float, int, int]] = []  # time, kind, request or runner
        self._running: dict[int, list[Job]] = {}
        self._latency: dict[int, float] = {}
        self._refused, self._busy = 0, 0.0
        self._cores = SharedCores(np.asarray(arrivals), replica.server.request, replica.cores)
        drawn = np.random.default_rng(len(arrivals)).choice(replica.times.variation, len(arrivals))
        self._variation = drawn.tolist()
        self._batches = 0

    def run(self) -> Simulated:
        self._events = [
            (end, ARRIVAL, i) for i, end in enumerate(self._cores.loop_ends.tolist())
        ]  # ascending: a heap
        now = 0.0
        while self._events:
            now, kind, item = heapq.heappop(self._events)
            if kind == ARRIVAL:
                self._arrive(now, item)
            else:
                self._end(now, item)
            self._dispatch(now)
        late = [seconds for i, seconds in self._latency.items() if i >= min(WARM, len(self._arrivals) // 2)]
        p50, p99 = np.percentile(late, [50, 99]) if late else (math.inf, math.inf)
        busy = (self._busy + len(self._latency) * self._replica.server.request) / (now * self._replica.cores)
        mean = float(np.mean(late)) if late else math.inf
        return Simulated(self._rate, mean, float(p50), float(p99), self._refused, busy)

    def _arrive(self, now: float, request: int) -> None:
        deadline = self._arrivals[request] + TIMEOUT
        try:
            self._scheduler.check(1, deadline, now)
        except Overloaded:
            self._refused += 1
            return
        tokens = self._tokens[request]
        cost = self._replica.times.of(tokens, 1)
        self._scheduler.add([Job(self._model, request, tokens, cost, now, deadline, lambda: False)])

    def _end(self, now: float, runner: int) -> None:
        for job in self._running.pop(runner):
            self._latency[job.work] = now - self._arrivals[job.work]
        self._scheduler.done(runner)
        self._free.append(runner)

    def _dispatch(self, now: float) -> None:
        while self._free and self._scheduler.waiting:
            runner = self._free.pop()
            dispatch = self._scheduler.take(runner, now)
            self._refused += len(dispatch.expired)
            if not dispatch.batch:
                self._free.append(runner)
                return
            seconds = self._replica.times.of(max(job.tokens for job in dispatch.batch), len(dispatch.batch))
            seconds = seconds * self._variation[self._batches] + self._replica.server.batch
            self._batches += 1
            self._busy += seconds
            self._running[runner] = dispatch.batch
            heapq.heappush(self._events, (self._cores.end(now, seconds), END, runner))
