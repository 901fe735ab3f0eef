"""Scenarios: what a server is put through, and what is judged. Each returns its phases and its own figures."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from loadtests.changes import Changer
from loadtests.measure import Found, Phase, Target, measure, read_metrics

KNEE_STEPS, KNEE_FACTOR, FINE = 10, 1.2, 1.1  # the rate grows by the factor while the server keeps up


@dataclass(frozen=True, slots=True)
class Asked:
    """The flags that scenarios need."""

    users: int = 32
    seconds: float = 20.0
    rate: float = 0.0  # requests a second: the knee where it is known already
    slo_ms: float = 100.0  # p99 at which a server no longer keeps up
    requests: int = 1_000_000  # of a soak


@dataclass(slots=True)
class Outcome:
    """Phases that ran, and figures over them."""

    found: list[Found] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


def find_knee(target: Target, asked: Asked, outcome: Outcome) -> float:
    """Return the highest rate (requests a second) at which the server answers all with a p99 under the limit."""
    step_seconds = max(2.0, asked.seconds / 4)
    closed = measure(target, Phase("closed loop, for a first guess", 2.0, users=asked.users))
    outcome.found.append(closed)
    rate, knee, factor = max(10.0, 0.6 * closed.requests_per_second), 0.0, KNEE_FACTOR
    for _ in range(KNEE_STEPS):
        found = measure(target, Phase(f"{rate:.0f} a second", step_seconds, rate=rate))
        outcome.found.append(found)
        if not found.failures and not found.shed and (found.p99_ms or 0.0) <= asked.slo_ms:
            knee = rate
            rate *= factor
        elif not knee:
            rate /= 2
        elif factor < FINE:
            break
        else:
            factor = 1 + (factor - 1) / 3  # back to the last rate that went well, and on in smaller steps
            rate = knee * factor
    at_knee = next((f for f in reversed(outcome.found) if f.phase.rate == knee), None)
    outcome.figures |= {
        "knee_requests_per_second": round(knee, 1),
        "knee_p50_ms": at_knee and at_knee.p50_ms,
        "knee_p99_ms": at_knee and at_knee.p99_ms,
    }
    return knee


def steady(target: Target, asked: Asked, outcome: Outcome) -> None:
    """A number of users who ask again at once; with a rate, so many requests a second, whatever comes."""
    measure(target, Phase("warm-up", 1.0, users=asked.users))
    load: dict[str, Any] = {"rate": asked.rate} if asked.rate else {"users": asked.users}
    name = f"{asked.rate:g} a second" if asked.rate else f"{asked.users} users"
    outcome.found.append(measure(target, Phase(name, asked.seconds, **load)))


def ramp(target: Target, asked: Asked, outcome: Outcome) -> None:
    """More and more requests a second, to the knee."""
    find_knee(target, asked, outcome)


def burst(target: Target, asked: Asked, outcome: Outcome) -> None:
    """Half the knee's rate, then four times that for a second, again and again."""
    rate = 0.5 * (asked.rate or find_knee(target, asked, outcome))
    for i in range(3):
        outcome.found.append(measure(target, Phase(f"calm {i + 1}", asked.seconds / 6, rate=rate)))
        outcome.found.append(measure(target, Phase(f"burst {i + 1}", 1.0, rate=4 * rate)))
    outcome.found.append(measure(target, Phase("after", asked.seconds / 6, rate=rate)))


def overload(target: Target, asked: Asked, outcome: Outcome) -> None:
    """Twice what the server can answer: what is answered all the same, how fast, and how fast the rest is refused."""
    knee = asked.rate or find_knee(target, asked, outcome)
    if asked.rate:
        outcome.found.append(measure(target, Phase("the knee", asked.seconds / 2, rate=knee)))
        outcome.figures |= {"knee_requests_per_second": knee, "knee_p99_ms": outcome.found[-1].p99_ms}
    found = measure(target, Phase("twice the knee", asked.seconds, rate=2 * knee), connections=1024)
    outcome.found.append(found)
    knee_p99 = outcome.figures.get("knee_p99_ms")
    outcome.figures |= {
        "goodput_of_knee": round(found.requests_per_second / knee, 3) if knee else None,
        "p99_of_admitted_over_knee": round(found.p99_ms / knee_p99, 2) if knee_p99 and found.p99_ms else None,
        "shed_p99_ms": found.shed_p99_ms,
        "server_errors": sum(n for code, n in found.codes.items() if code.startswith("5")),
    }


def soak(target: Target, asked: Asked, outcome: Outcome) -> None:
    """Very many requests; memory before and after."""
    measure(target, Phase("warm-up", 3.0, users=asked.users))
    before = read_metrics(target.url).get("memory_bytes")
    done = 0
    while done < asked.requests:
        found = measure(target, Phase(f"after {done} requests", asked.seconds, users=asked.users))
        outcome.found.append(found)
        done += found.requests
        if found.failures or not found.requests:
            break
    after = read_metrics(target.url).get("memory_bytes")
    outcome.figures |= {"soak_requests": done, "memory_mb_before": _mb(before), "memory_mb_after": _mb(after)}
    if before and after:
        outcome.figures["memory_growth"] = round(after / before - 1, 4)


def swap(target: Target, asked: Asked, outcome: Outcome, changer: Changer) -> None:
    """70 % of the knee while models are swapped ten times and workers replaced three times."""
    knee = asked.rate or find_knee(target, asked, outcome)
    thread = threading.Thread(target=changer.run, args=(time.monotonic() + 3.0, asked.seconds - 4.0))
    thread.start()
    found = measure(target, Phase("70 % of the knee, with changes", asked.seconds, rate=0.7 * knee))
    thread.join()
    outcome.found.append(found)
    outcome.figures |= {"swaps": changer.swaps, "restarts": changer.restarts, "changes_failed": changer.failed}
    outcome.figures["failed_requests"] = found.failures


SCENARIOS: dict[str, Callable[..., None]] = {
    "steady": steady, "ramp": ramp, "burst": burst, "overload": overload, "soak": soak, "swap": swap,
}  # fmt: skip


def _mb(value: float | None) -> float | None:
    return None if value is None else round(value / 1e6, 1)
