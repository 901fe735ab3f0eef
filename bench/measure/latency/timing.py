"""interleave(): time several callables fairly, in turn; typical_seconds() and speedup(): statistics of the times.

Prunella has one definition of speed-up: **the reference's typical time divided by ours, where the typical time is the
geometric mean over texts of the median over rounds.** The search, the final check of a bundle, reports, quantization
recipes and the regression guard of CI all use `typical_seconds`. A number that decides something, or is a headline,
is the geometric mean over fresh processes (`bench.measure.latency.process_restarts`).

Why the geometric mean: the ratio of two geometric means is the geometric mean of the ratios of the single texts, so
that each text has the same weight and long texts do not dominate. Swapping the two models gives the inverse ratio,
and ratios to a common reference can be divided by each other (Fleming and Wallace 1986, "How not to lie with
statistics: the correct way to summarize benchmark results"). The ratio of two pooled medians, in contrast, compares
times that may belong to different texts.
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

from bench.measure.latency.clock import engine_clock, name_clock
from bench.measure.latency.cpu_affinity import pinning, usable_core_numbers
from models.processor import cpu_flags, cpu_name, gpu_names

RESAMPLES = 2000
SETTLE = 0.02  # seconds until the threads of a pool, which spin for a while after their work, are idle
FEWEST = 5  # rounds: two disturbed rounds would change the median of fewer
Seconds = NDArray[np.float64]  # (rounds, texts)


def interleave(
    callables: Mapping[str, Callable[[], object]],
    rounds: int,
    warmup: int = 2,
    within: float = float("inf"),
    threads: int = 1,
) -> dict[str, list[float]]:
    """Return the seconds of each callable by name, one entry for each round.

    All callables run once in each round, in rotating order. The garbage collector is disabled meanwhile.

    Args:
        callables: What to time, by name.
        rounds: Largest number of rounds.
        warmup: Calls of each callable before the first round.
        within: Seconds after which no further round begins, once there were FEWEST rounds: long rounds vary less
            than short ones.
        threads: Threads of each callable; 0: it waits for another device. With one thread the seconds are processor
            time (`bench.measure.latency.clock`); with several ones a pause precedes each call (SETTLE).
    """
    for _ in range(warmup):
        for call in callables.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in callables}
    clock, pause = engine_clock(threads), SETTLE if threads > 1 else 0.0
    gc_enabled = gc.isenabled()
    gc.disable()
    try:
        deadline = perf_counter() + within
        for round_number in range(rounds):
            if round_number >= FEWEST and perf_counter() > deadline:
                break
            for name in rotated(list(callables), round_number):
                sleep(pause)
                start = clock()
                callables[name]()
                seconds[name].append(clock() - start)
    finally:
        if gc_enabled:
            gc.enable()
    return seconds


def time_texts(
    calls: Mapping[str, Sequence[Callable[[], object]]], rounds: int, warmup: int = 2, threads: int = 1
) -> dict[str, Seconds]:
    """Return seconds (rounds, texts) by name; `calls` has one call for each text. Names take turns in each round.

    `rounds`, `warmup` and `threads` are those of `interleave`.
    """
    seconds: dict[str, list[list[float]]] = {name: [] for name in calls}
    clock = engine_clock(threads)

    def one_pass(name: str) -> None:
        row = []
        for call in calls[name]:
            start = clock()
            call()
            row.append(clock() - start)
        seconds[name].append(row)

    interleave({name: partial(one_pass, name) for name in calls}, rounds, warmup, threads=threads)
    return {name: np.asarray(rows[warmup:]) for name, rows in seconds.items()}


def rotated(names: Sequence[str], round_number: int) -> list[str]:
    """Return the names in the order of a round: each round begins with the next name."""
    shift = round_number % max(1, len(names))
    return [*names[shift:], *names[:shift]]


def spread(seconds: Seconds) -> float:
    """Return the relative variation between rounds: interquartile range over median of the rounds' medians."""
    low, middle, high = np.percentile(np.median(seconds, axis=1), [25, 50, 75])
    return float((high - low) / middle)


def median_interval(seconds: Seconds, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the median, resampling rounds and texts."""
    return _interval([np.median(sample) for sample in _resamples(seconds, seed)])


def typical_seconds(seconds: Seconds) -> float:
    """Return the geometric mean over texts of the median over rounds."""
    return float(np.exp(np.log(np.median(seconds, axis=0)).mean()))


def mean_seconds(seconds: Seconds) -> float:
    """Return the mean over texts of the median over rounds: what a text costs, where few texts cost most."""
    return float(np.median(seconds, axis=0).mean())


def speedup(
    reference: Seconds, ours: Seconds, seed: int = 0, of: Callable[[Seconds], float] = typical_seconds
) -> tuple[float, tuple[float, float]]:
    """Return the speed-up of ours over the reference within one process, and its 95 % bootstrap interval.

    Both are resampled on the same rounds and texts. The interval does not include the variation between processes:
    see `bench.measure.latency.process_restarts`. `of` gives the time of each: `mean_seconds` for a cascade.
    """
    pairs = _resamples(np.stack([reference, ours], axis=-1), seed)
    ratios = [of(pair[..., 0]) / of(pair[..., 1]) for pair in pairs]
    return of(reference) / of(ours), _interval(ratios)


def machine_card(threads: Sequence[int] = (1,)) -> dict[str, Any]:
    """Describe the machine, and how engines with these numbers of threads are pinned to its cores."""
    known_flags = {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16"}
    return {
        "processor": cpu_name(),
        "flags": sorted(cpu_flags() & known_flags),
        "cores": len(usable_core_numbers()),
        "pinning": pinning(threads),
        "clocks": {str(each): name_clock(each) for each in threads},
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
