"""Engines that misbehave, for bench.measure.latency.engine_worker: each is opened in a process of its own."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from bench.measure.engine_spec import EngineSpec, OpenEngine

BURN = "while True: pass"


def answering(answer) -> OpenEngine:
    return OpenEngine(lambda rows, tokens: rows, answer, 0, batch_dependent=False)


def plain(spec: EngineSpec) -> OpenEngine:
    """Answers at once: a row's answer is the number of its letters."""
    return answering(lambda rows: np.array([[len(row[0]), 0] for row in rows], dtype=np.float32))


def never_ready(spec: EngineSpec) -> OpenEngine:
    """Starts processes that compute for ever, one of them in a session of its own, notes them, and never returns."""
    burners = [subprocess.Popen([sys.executable, "-c", BURN], start_new_session=new) for new in (False, True)]
    notes = spec.folder / "pids"
    notes.with_suffix(".part").write_text(" ".join(str(pid) for pid in (os.getpid(), *(b.pid for b in burners))))
    notes.with_suffix(".part").rename(notes)
    while True:
        pass


def never_answers(spec: EngineSpec) -> OpenEngine:
    def answer(rows):
        Path(spec.folder / "pids").write_text(str(os.getpid()))
        time.sleep(3600)

    return answering(answer)


def slow_rows(spec: EngineSpec) -> OpenEngine:
    """Takes longer for all rows than its timeout, and for each piece of them less."""

    def answer(rows):
        time.sleep(0.004 * len(rows))
        return np.array([[len(row[0]), 0] for row in rows], dtype=np.float32)

    return answering(answer)


def gone(spec: EngineSpec) -> OpenEngine:
    def answer(rows):
        os._exit(7)

    return answering(answer)


def talker(spec: EngineSpec) -> OpenEngine:
    """Prints, as foreign libraries do."""
    print("loading checkpoint shards")  # noqa: T201
    return plain(spec)


def collector(spec: EngineSpec) -> OpenEngine:
    """Answers whether Python's garbage collector may run while it is timed; notes it in a file."""
    import gc

    def answer(rows):
        with (spec.folder / "collector").open("a") as file:
            file.write(f"{gc.isenabled()} ")
        return np.zeros((len(rows), 2), dtype=np.float32)

    return answering(answer)
