"""`python -m bench.trials`: how often the regression guard is right, tried on this machine.

One baseline, then runs of the same bundle (to be called noise) in turn with slowed ones (to be called worse). A run
is what the guard looks at, the openings of ours and its reference, and nothing else of a report.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tqdm import tqdm

if TYPE_CHECKING:  # each worker reads this file when it starts, and must not load what only the trials need
    from bench.records import Openings

TEXTS = 12  # few: processes differ more than texts do


def main(
    bundle: Path,
    data: str,
    store: Path = Path("store"),
    runs: Annotated[int, typer.Option(min=1, help="of each kind")] = 20,
    slowdown: Annotated[float, typer.Option(help="share of its time by which ours is slowed")] = 0.1,
) -> None:
    """Count the guard's calls."""
    from dataclasses import replace

    from bench.openings import Conditions, measure_openings
    from bench.quiet import CpuWatch
    from bench.report import BenchConfig, find_reference
    from bench.specs import Inputs, engine_specs
    from models.data.texts import read_texts
    from models.errors import CheckError
    from service.bundle import Bundle

    openings = BenchConfig().openings
    opened, texts = Bundle.open(bundle), read_texts(data)
    specs = engine_specs(Inputs(opened, find_reference(opened, store), texts, None), ("ort_fp32",), store)
    if specs.problems:
        raise CheckError("; ".join(f"{name}: {told}" for name, (_, told) in specs.problems.items()))
    rows = texts.take(range(min(TEXTS, len(texts)))).rows

    def measure(handicap: float) -> "Openings":
        ours = replace(specs.found["ours"], handicap=handicap)
        return measure_openings(specs.found["ort_fp32"], ours, rows, openings, Conditions(show=False))

    watch, begun = CpuWatch(), time.perf_counter()
    told = count_calls(measure, runs, slowdown)
    told |= {"openings": openings, "seconds": round(time.perf_counter() - begun, 1), **watch.read().model_dump()}
    sys.stdout.write(json.dumps(told) + "\n")


def count_calls(measure: Callable[[float], "Openings"], runs: int, slowdown: float) -> dict[str, Any]:
    """Return how equal and slowed runs were called; `measure` takes the share by which ours is slowed."""
    import numpy as np

    from bench.guard import call_speed, disturbance

    kinds = {"same": 0.0, "slowed": slowdown}
    calls: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    ratios: dict[str, list[float]] = {kind: [] for kind in kinds}
    with tqdm(total=1 + 2 * runs, desc="trials", unit="run", file=sys.stderr) as bar:
        baseline = measure(0)
        bar.update()
        spreads = [baseline.spread]
        for kind, handicap in list(kinds.items()) * runs:
            found = measure(handicap)
            call, ratio, _ = call_speed(baseline, found)
            if disturbance(baseline) or disturbance(found):
                call = "too noisy"
            calls[kind][call] += 1
            ratios[kind].append(ratio)
            spreads.append(found.spread)
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
