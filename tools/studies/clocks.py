"""`python -m tools.studies.clocks REFERENCE.onnx OURS.onnx`: what busy programs do to a measured speed-up.

Both graphs run with one thread on one core, in turn, while 0, 1, … other processes compute on the same core. Every
run is timed with wall time and with processor time (`bench.measure.latency.clock`). The last line on stdout is JSON.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, process_time
from typing import Annotated, Any

import numpy as np
import onnxruntime as ort
import typer

from bench.measure.latency.timing import machine_card, typical_seconds
from models.tokenizer import TokenBatch
from service.model.engine import run_session

LENGTHS = range(10, 58, 4)  # tokens of the timed texts
CLOCKS = {"wall time": perf_counter, "processor time": process_time}
BUSY = "while True: pass"


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Let `count` processes compute on the cores of this one."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def typical_times(graphs: dict[str, Path], rounds: int) -> dict[str, dict[str, float]]:
    """Return the typical milliseconds of each graph by each clock: {clock: {graph: ms}}."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = {
        name: ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for name, path in graphs.items()
    }
    draw = np.random.default_rng(0)
    ids = [draw.integers(5, 1000, (1, tokens)) for tokens in LENGTHS]
    batches = [TokenBatch(each, np.ones_like(each), np.zeros_like(each)) for each in ids]
    seconds = {clock: {name: np.zeros((rounds, len(batches))) for name in graphs} for clock in CLOCKS}
    for round_number in range(-1, rounds):  # the first round warms up
        for name, session in sessions.items():
            for text, batch in enumerate(batches):
                start = {clock: read() for clock, read in CLOCKS.items()}
                run_session(session, batch)
                for clock, read in CLOCKS.items():
                    seconds[clock][name][round_number, text] = read() - start[clock]
    return {clock: {name: typical_seconds(s) * 1e3 for name, s in each.items()} for clock, each in seconds.items()}


def main(
    reference: Annotated[Path, typer.Argument(help="graph of the slower model")],
    ours: Annotated[Path, typer.Argument(help="graph of the faster model")],
    busy: Annotated[str, typer.Option(help="numbers of busy processes")] = "0,1,3",
    rounds: int = 9,
) -> None:
    """Print one line for each number of busy processes, and all as JSON."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    lines: list[dict[str, Any]] = []
    for count in map(int, busy.split(",")):
        with busy_processes(count):
            times = typical_times({"reference": reference, "ours": ours}, rounds)
        line: dict[str, Any] = {"busy": count}
        for clock, ms in times.items():
            line[clock] = {name: round(each, 3) for name, each in ms.items()}
            line[clock]["speedup"] = round(ms["reference"] / ms["ours"], 2)
        sys.stderr.write(f"{line}\n")
        lines.append(line)
    sys.stdout.write(json.dumps({"lines": lines, "machine": machine_card()}) + "\n")


if __name__ == "__main__":
    typer.run(main)
