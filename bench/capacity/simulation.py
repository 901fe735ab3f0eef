"""simulate(): one replica of the service under requests of one text each that arrive at random times (open loop).

The queue is the service's own scheduler, with its rules on batches and refusals, on a simulated clock. Before the
queue each request passes the event loop, one at a time; its time is taken from the runners, which share its cores.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.capacity.service_times import ServiceTimes
from service.inference.scheduler import Job, Overloaded, Rules, Scheduler

REQUESTS = 20_000
WARM = 1_000  # first requests, which find an empty queue
TIMEOUT = 10.0  # seconds: the service's default deadline
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
    request: float  # seconds of a request on the event loop, tokenization included
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
        share = rate * replica.request / replica.cores  # of the cores' time that the event loop takes
        self._slower = 1 / max(1e-3, 1 - share)

    def run(self) -> Simulated:
        loop_free = 0.0
        for i, arrived in enumerate(self._arrivals):
            loop_free = max(loop_free, arrived) + self._replica.request
            heapq.heappush(self._events, (loop_free, ARRIVAL, i))
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
        busy = (self._busy + len(self._latency) * self._replica.request) / (now * self._replica.cores)
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
            self._busy += seconds
            self._running[runner] = dispatch.batch
            heapq.heappush(self._events, (now + seconds * self._slower, END, runner))
