"""plan(): how many replicas, cores and core-hours a load needs on processors like this machine's."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from bench.capacity.server_times import measure_server
from bench.capacity.service_times import measure_service_times
from bench.capacity.simulation import Replica, Simulated, simulate
from models.errors import TargetError
from models.messages import say
from models.schema import Record
from models.tokenizer import Row
from service.model.bundle import Bundle
from service.model.engine import Engine
from service.model.session import RuntimeSettings
from service.process.cores import usable_cores
from service.settings import Settings

STEPS = 12  # of the bisection: the knee is exact to 0.1 %
RESIDENT = 4096  # texts whose lengths are drawn


class PlanConfig(Record):
    """The load, and a replica's size."""

    rps: float = Field(gt=0, allow_inf_nan=False, description="requests a second, of one text each")
    p99_ms: float = Field(gt=0, allow_inf_nan=False, description="limit of the 99th percentile of the time to answer")
    cores: int | None = Field(None, ge=1, description="cores of a replica; None: those of this machine")


def plan(bundle: Bundle, rows: Sequence[Row] | None, config: PlanConfig) -> dict[str, Any]:
    """Measure a bundle's service times here, find the knee of a replica by simulation, and divide the load by it.

    Args:
        bundle: what is served.
        rows: texts like those of the load; None: the few that are stored in the bundle.
        config: load and replica.

    Raises:
        TargetError: a replica cannot answer single texts within the limit.
    """
    engine = Engine.open(bundle, RuntimeSettings(device="cpu", threads=1))
    engine.self_check()
    if rows is None:
        rows = bundle.golden.rows
        say(f"without --lengths, the lengths are those of the {len(rows)} texts that are stored in the bundle")
    cores = config.cores or usable_cores()
    rules = Settings(bundle=str(bundle.folder.path), device="cpu").rules().model_copy(update={"runners": cores})
    largest = 1 if engine.single_row_only else rules.items
    times = measure_service_times(engine, rows[:RESIDENT], largest)
    lengths = [len(one.ids) for one in engine.encode(rows[:RESIDENT])]
    server = measure_server(bundle, engine, rows[:RESIDENT], cores)
    replica = Replica(times, rules, cores, server, engine.single_row_only)
    knee = find_knee(replica, lengths, config.p99_ms / 1e3)
    replicas = math.ceil(config.rps / knee.rate)
    planned = simulate(replica, lengths, config.rps / replicas)
    table = {str(n): np.round(row * 1e3, 3).tolist() for n, row in zip(times.lengths, times.seconds, strict=True)}
    return {
        "id": bundle.id, "replicas": replicas, "cores_per_replica": cores, "cores": replicas * cores,
        "core_hours_per_million": round(replicas * cores * 1e6 / config.rps / 3600, 3),
        "knee_rps_per_replica": round(knee.rate, 1), "knee_p99_ms": round(knee.p99 * 1e3, 2),
        "p50_ms": round(planned.p50 * 1e3, 2), "p99_ms": round(planned.p99 * 1e3, 2),
        "busy": round(planned.busy, 3), "tokens_mean": round(float(np.mean(lengths)), 1),
        "request_ms": round(server.request * 1e3, 3), "batch_ms": round(server.batch * 1e3, 3),
        "service_times_ms": table,
    }  # fmt: skip


def find_knee(replica: Replica, lengths: Sequence[int], p99: float) -> Simulated:
    """Return the highest rate at which a replica answers every request with a p99 (seconds) within the limit.

    Raises:
        TargetError: it cannot, not even when hardly any request waits.
    """
    seconds = float(np.mean([replica.times.of(n, 1) for n in lengths])) + replica.server.batch
    low = simulate(replica, lengths, 0.01 * replica.cores / seconds)
    if not low.keeps_up(p99):
        raise TargetError(
            f"a text takes {seconds * 1e3:.1f} ms in the mean, and {low.p99 * 1e3:.1f} ms in the 99th percentile on "
            f"an idle replica; the limit is {p99 * 1e3:g} ms: raise --p99-ms, or compress the model further"
        )
    fastest, slowest = (
        1 / (seconds / replica.cores / replica.rules.items + replica.server.request / replica.cores),
        low.rate,
    )
    knee = low
    for _ in range(STEPS):
        rate = (slowest + fastest) / 2
        result = simulate(replica, lengths, rate)
        if result.keeps_up(p99):
            knee, slowest = result, rate
        else:
            fastest = rate
    return knee
