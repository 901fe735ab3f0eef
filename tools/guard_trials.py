"""`python -m tools.guard_trials`: measures how often the regression guard is right on this machine.

After one baseline run, runs of the same bundle, which the guard should call noise, alternate with slowed-down runs,
which it should call worse. A run has only the part of a report that the guard uses: the openings of ours and its
reference.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from models.messages import progress

if TYPE_CHECKING:
    from bench.report.report_schema import Openings

TEXTS = 12  # few texts are enough: processes differ more than texts do


def main(
    bundle: Path,
    data: str,
    store: Path = Path("store"),
    runs: Annotated[int, typer.Option(min=1, help="runs of each kind")] = 20,
    slowdown: Annotated[float, typer.Option(help="share of its time by which ours is slowed down")] = 0.1,
) -> None:
    """Count the results of the regression guard for equal and for slowed-down runs."""
    from dataclasses import replace

    from bench.engines.available import Inputs, engine_specs
    from bench.engines.reference import find_reference
    from bench.measure.latency.interference import InterferenceMonitor
    from bench.measure.latency.process_restarts import Conditions, measure_openings
    from bench.report.bench_config import BenchConfig
    from models.data.texts import read_texts
    from models.errors import CheckError
    from service.model.bundle import Bundle

    openings = BenchConfig().openings
    opened, texts = Bundle.open(bundle), read_texts(data)
    specs = engine_specs(Inputs(opened, find_reference(opened, store), texts, None), ("ort_fp32",), store)
    if specs.problems:
        raise CheckError("; ".join(f"{name}: {message}" for name, (_, message) in specs.problems.items()))
    rows = texts.take(range(min(TEXTS, len(texts)))).rows

    def measure(handicap: float) -> "Openings":
        ours = replace(specs.engines["ours"], handicap=handicap)
        return measure_openings(specs.engines["ort_fp32"], ours, rows, openings, Conditions(show=False))

    monitor, start = InterferenceMonitor(), time.perf_counter()
    result = count_calls(measure, runs, slowdown)
    result |= {"openings": openings, "seconds": round(time.perf_counter() - start, 1), **monitor.read().model_dump()}
    sys.stdout.write(json.dumps(result) + "\n")


def count_calls(measure: Callable[[float], "Openings"], runs: int, slowdown: float) -> dict[str, Any]:
    """Return the guard's results for equal and slowed runs; `measure` takes the share by which ours is slowed."""
    import numpy as np

    from bench.report.compare_reports import call_speed, disturbance

    kinds = {"same": 0.0, "slowed": slowdown}
    calls: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    ratios: dict[str, list[float]] = {kind: [] for kind in kinds}
    with progress(total=1 + 2 * runs, desc="trials", unit="run") as bar:
        baseline = measure(0)
        bar.update()
        spreads = [baseline.spread]
        for kind, handicap in list(kinds.items()) * runs:
            run = measure(handicap)
            call, ratio, _ = call_speed(baseline, run)
            if disturbance(baseline) or disturbance(run):
                call = "too noisy"
            calls[kind][call] += 1
            ratios[kind].append(ratio)
            spreads.append(run.spread)
            bar.set_postfix_str(_short(calls))
            bar.update()
    return {
        "runs": runs,
        "slowdown": slowdown,
        "same_called_noise": calls["same"]["noise"],
        "slowed_called_worse": calls["slowed"]["worse"],
        "calls": calls,
        "same_ratios": _rounded(ratios["same"]),
        "slowed_ratios": _rounded(ratios["slowed"]),
        "spread_of_openings": round(float(np.sqrt(np.mean(np.square(spreads)))), 4),
    }


def _short(calls: dict[str, Counter[str]]) -> str:
    return ", ".join(f"{kind}: {' '.join(f'{n} {call}' for call, n in c.items())}" for kind, c in calls.items() if c)


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in values]


if __name__ == "__main__":
    typer.run(main)
