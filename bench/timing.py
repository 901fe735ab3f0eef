"""interleave(): fair seconds of several callables, warm and in turn; typical_seconds() and speedup(): what they say.

There is one definition of speed-up in Prunella: **how many times as fast a text is answered, that is, the reference's
typical time divided by ours, where the typical time is the geometric mean over texts of the median over rounds.** The
search, the judgement of a bundle, reports, recipes and the guard of CI all use `typical_seconds`; where a number
decides or is a headline, it is the geometric mean over fresh processes (`bench.openings`).

Why the geometric mean: the ratio of two of them is the mean of the texts' own ratios, so that each text counts alike
and a long one does not decide; it is the same whichever model is divided by which, and ratios to a common reference
can be divided by each other (Fleming and Wallace 1986, "How not to lie with statistics: the correct way to summarize
benchmark results"). The ratio of two pooled medians compares the median time of one model with that of another one,
which may belong to different texts.
"""

import gc
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter, sleep
from typing import Any

import numpy as np
import onnxruntime
import tokenizers
from numpy.typing import NDArray

from bench.cores import pinning, usable_cores
from models.processor import cpu_flags, cpu_name, gpu_names

RESAMPLES = 2000
SETTLE = 0.02  # seconds in which the threads of a pool, which spin for a while after their work, come to rest
FEWEST = 5  # rounds: a median of fewer is moved by two disturbed ones
Seconds = NDArray[np.float64]  # (rounds, texts)


def interleave(
    callables: Mapping[str, Callable[[], object]],
    rounds: int,
    warmup: int = 2,
    within: float = float("inf"),
    pause: float = 0.0,
) -> dict[str, list[float]]:
    """Return seconds by name, one entry a round; all run once in each round, and the order rotates.

    After `within` seconds no further round begins, if there were FEWEST: long rounds vary less than short ones.
    Each waits `pause` seconds for its turn: see SETTLE.
    """
    for _ in range(warmup):
        for call in callables.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in callables}
    collecting = gc.isenabled()
    gc.disable()
    try:
        until = perf_counter() + within
        for turn in range(rounds):
            if turn >= FEWEST and perf_counter() > until:
                break
            for name in rotated(list(callables), turn):
                sleep(pause)
                start = perf_counter()
                callables[name]()
                seconds[name].append(perf_counter() - start)
    finally:
        if collecting:
            gc.enable()
    return seconds


def time_texts(
    calls: Mapping[str, Sequence[Callable[[], object]]], rounds: int, warmup: int = 2
) -> dict[str, Seconds]:
    """Return seconds (rounds, texts) by name: each name's calls, one a text, run in a row, and names in turn."""
    seconds: dict[str, list[list[float]]] = {name: [] for name in calls}

    def one_pass(name: str) -> None:
        row = []
        for call in calls[name]:
            start = perf_counter()
            call()
            row.append(perf_counter() - start)
        seconds[name].append(row)

    interleave({name: partial(one_pass, name) for name in calls}, rounds, warmup)
    return {name: np.asarray(rows[warmup:]) for name, rows in seconds.items()}


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """Return the names in the order of one round: another begins each time."""
    shift = turn % max(1, len(names))
    return [*names[shift:], *names[:shift]]


def spread(seconds: Seconds) -> float:
    """Return the interquartile range of the rounds' medians over their median: how much the machine wavered."""
    low, middle, high = np.percentile(np.median(seconds, axis=1), [25, 50, 75])
    return float((high - low) / middle)


def median_interval(seconds: Seconds, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the median, resampling rounds and texts."""
    return _interval([np.median(sample) for sample in _resamples(seconds, seed)])


def typical_seconds(seconds: Seconds) -> float:
    """Return the geometric mean over texts of the median over rounds."""
    return float(np.exp(np.log(np.median(seconds, axis=0)).mean()))


def speedup(reference: Seconds, ours: Seconds, seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Return how many times as fast ours is within one process, and its 95 % bootstrap interval.

    Both are resampled on the same rounds and texts. The interval does not hold what differs from process to process:
    see `bench.openings`.
    """
    pairs = _resamples(np.stack([reference, ours], axis=-1), seed)
    ratios = [typical_seconds(pair[..., 0]) / typical_seconds(pair[..., 1]) for pair in pairs]
    return typical_seconds(reference) / typical_seconds(ours), _interval(ratios)


def machine_card(threads: Sequence[int] = (1,)) -> dict[str, Any]:
    """Return what a reader must know of the machine, and how engines with so many threads are held on its cores."""
    wanted = {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16"}
    return {
        "processor": cpu_name(),
        "flags": sorted(cpu_flags() & wanted),
        "cores": len(usable_cores()),
        "pinning": pinning(threads),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {module.__name__: module.__version__ for module in (onnxruntime, np, tokenizers)},
        **({"gpus": gpus} if (gpus := gpu_names()) else {}),
    }


def _resamples(seconds: Seconds, seed: int) -> list[Seconds]:
    generator = np.random.default_rng(seed)
    rounds, texts = seconds.shape[:2]
    drawn = [
        (generator.integers(rounds, size=rounds), generator.integers(texts, size=texts)) for _ in range(RESAMPLES)
    ]
    return [seconds[np.ix_(r, t)] for r, t in drawn]


def _interval(values: Sequence[float] | list[Any]) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
