"""The scenarios of a load test. Each runs its phases against one server, and adds its own figures to the outcome."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from loadtests.changes import Changer
from loadtests.phase import Phase, PhaseResult, Target, measure, read_metrics

# the search for the knee: at most so many steps; the rate grows by the factor while the server keeps up, and the
# search ends when the server fails at a step smaller than FINE
KNEE_STEPS, KNEE_FACTOR, FINE = 10, 1.2, 1.1


@dataclass(frozen=True, slots=True)
class ScenarioSettings:
    """Command line options that scenarios use."""

    users: int = 32
    seconds: float = 20.0
    rate: float = 0.0  # requests per second; the knee where it is known already
    slo_ms: float = 100.0  # limit of the p99: above it the server does not keep up
    requests: int = 1_000_000  # number of requests of a soak
    texts: tuple[str, ...] = ()  # for scenarios that send lists


@dataclass(slots=True)
class Outcome:
    """Results of the phases that ran, and figures computed from them."""

    phases: list[PhaseResult] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


def find_knee(target: Target, settings: ScenarioSettings, outcome: Outcome) -> float:
    """Return the knee: the highest rate (requests per second) at which the server keeps up.

    It keeps up when it answers every request, with a p99 within the limit.
    """
    step_seconds = max(2.0, settings.seconds / 4)
    closed = measure(target, Phase("closed loop, for a first guess", 2.0, users=settings.users))
    outcome.phases.append(closed)
    rate, knee, factor = max(10.0, 0.6 * closed.requests_per_second), 0.0, KNEE_FACTOR
    for _ in range(KNEE_STEPS):
        result = measure(target, Phase(f"{rate:.0f} a second", step_seconds, rate=rate))
        outcome.phases.append(result)
        if not result.failures and not result.shed and (result.p99_ms or 0.0) <= settings.slo_ms:
            knee = rate
            rate *= factor
        elif not knee:
            rate /= 2
        elif factor < FINE:
            break
        else:
            factor = 1 + (factor - 1) / 3  # continue from the last good rate in smaller steps
            rate = knee * factor
    at_knee = next((result for result in reversed(outcome.phases) if result.phase.rate == knee), None)
    outcome.figures |= {
        "knee_requests_per_second": round(knee, 1),
        "knee_p50_ms": at_knee and at_knee.p50_ms,
        "knee_p99_ms": at_knee and at_knee.p99_ms,
    }
    return knee


def steady(target: Target, settings: ScenarioSettings, outcome: Outcome) -> None:
    """Constant load: a number of users in closed loop, or with `rate` an open loop."""
    measure(target, Phase("warm-up", 1.0, users=settings.users))
    load: dict[str, Any] = {"rate": settings.rate} if settings.rate else {"users": settings.users}
    name = f"{settings.rate:g} a second" if settings.rate else f"{settings.users} users"
    outcome.phases.append(measure(target, Phase(name, settings.seconds, **load)))


def ramp(target: Target, settings: ScenarioSettings, outcome: Outcome) -> None:
    """Increase the rate up to the knee."""
    find_knee(target, settings, outcome)


def burst(target: Target, settings: ScenarioSettings, outcome: Outcome) -> None:
    """Half the knee's rate, with three bursts of one second at four times that rate."""
    rate = 0.5 * (settings.rate or find_knee(target, settings, outcome))
    for i in range(3):
        outcome.phases.append(measure(target, Phase(f"calm {i + 1}", settings.seconds / 6, rate=rate)))
        outcome.phases.append(measure(target, Phase(f"burst {i + 1}", 1.0, rate=4 * rate)))
    outcome.phases.append(measure(target, Phase("after", settings.seconds / 6, rate=rate)))


def overload(target: Target, settings: ScenarioSettings, outcome: Outcome) -> None:
    """Twice the knee's rate: throughput and latency of the answers, and latency of the refusals."""
    knee = settings.rate or find_knee(target, settings, outcome)
    if settings.rate:
        outcome.phases.append(measure(target, Phase("the knee", settings.seconds / 2, rate=knee)))
        outcome.figures |= {"knee_requests_per_second": knee, "knee_p99_ms": outcome.phases[-1].p99_ms}
    result = measure(target, Phase("twice the knee", settings.seconds, rate=2 * knee), connections=1024)
    outcome.phases.append(result)
    knee_p99 = outcome.figures.get("knee_p99_ms")
    outcome.figures |= {
        "goodput_of_knee": round(result.requests_per_second / knee, 3) if knee else None,
        "p99_of_admitted_over_knee": round(result.p99_ms / knee_p99, 2) if knee_p99 and result.p99_ms else None,
        "shed_p99_ms": result.shed_p99_ms,
        "server_errors": sum(n for code, n in result.codes.items() if code.startswith("5")),
    }


def soak(target: Target, settings: ScenarioSettings, outcome: Outcome) -> None:
    """A large number of requests in closed loop, with the server's memory before and after."""
    measure(target, Phase("warm-up", 3.0, users=settings.users))
    before = read_metrics(target.url).get("memory_bytes")
    done = 0
    while done < settings.requests:
        result = measure(target, Phase(f"after {done} requests", settings.seconds, users=settings.users))
        outcome.phases.append(result)
        done += result.requests
        if result.failures or not result.requests:
            break
    after = read_metrics(target.url).get("memory_bytes")
    outcome.figures |= {"soak_requests": done, "memory_mb_before": _mb(before), "memory_mb_after": _mb(after)}
    if before and after:
        outcome.figures["memory_growth"] = round(after / before - 1, 4)


def swap(target: Target, settings: ScenarioSettings, outcome: Outcome, changer: Changer) -> None:
    """70 % of the knee's rate while models are swapped ten times and workers are restarted three times."""
    knee = settings.rate or find_knee(target, settings, outcome)
    thread = threading.Thread(target=changer.run, args=(time.monotonic() + 3.0, settings.seconds - 4.0))
    thread.start()
    result = measure(target, Phase("70 % of the knee, with changes", settings.seconds, rate=0.7 * knee))
    thread.join()
    outcome.phases.append(result)
    outcome.figures |= {"swaps": changer.swaps, "restarts": changer.restarts, "changes_failed": changer.failed}
    outcome.figures["failed_requests"] = result.failures


SCENARIOS: dict[str, Callable[..., None]] = {
    "steady": steady, "ramp": ramp, "burst": burst, "overload": overload, "soak": soak, "swap": swap,
}  # fmt: skip


def _mb(value: float | None) -> float | None:
    return None if value is None else round(value / 1e6, 1)
