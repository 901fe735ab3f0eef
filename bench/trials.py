"""`python -m bench.trials`: how often the regression guard is right, tried on this machine.

One baseline, then runs of the same bundle (to be called noise) in turn with slowed ones (to be called worse).
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.guard import Verdict, judge
from bench.records import Report
from bench.report import BenchConfig, Inputs, find_reference, run_bench
from models.texts import read_texts
from service.bundle import Bundle


def main(
    bundle: Path,
    data: str,
    store: Path = Path("store"),
    runs: Annotated[int, typer.Option(help="of each kind")] = 20,
    slowdown: Annotated[float, typer.Option(help="share of its time by which ours is slowed")] = 0.1,
) -> None:
    """Count the guard's calls."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = shutil.copytree(bundle, Path(scratch) / "bundle")  # a trial must not renew the bundle's own report
        reference, rows = find_reference(Bundle.open(bundle), store), read_texts(data)
        inputs = Inputs(Bundle.open(copy), reference, rows.take(range(min(64, len(rows)))), None)

        def measure(handicap: float) -> Report:
            config = BenchConfig(against=("ort_fp32",), batches=(1,), texts=48, rounds=7, handicap=handicap)
            return run_bench(inputs, config, store, Path(scratch) / "report")

        told = _count(measure, runs, slowdown)
    sys.stdout.write(json.dumps(told) + "\n")


def _count(measure: Callable[[float], Report], runs: int, slowdown: float) -> dict[str, Any]:
    baseline = measure(0)
    calls: dict[str, list[Verdict]] = {"same": [], "slowed": []}
    for _ in range(runs):
        calls["same"].append(judge(baseline, measure(0)))
        calls["slowed"].append(judge(baseline, measure(slowdown)))
    return {
        "runs": runs,
        "slowdown": slowdown,
        "same_called_noise": sum(v.speed == "noise" for v in calls["same"]),
        "slowed_called_worse": sum(v.speed == "worse" for v in calls["slowed"]),
        "same_ratios": [round(v.speed_ratio, 4) for v in calls["same"]],
        "slowed_ratios": [round(v.speed_ratio, 4) for v in calls["slowed"]],
    }


if __name__ == "__main__":
    typer.run(main)
