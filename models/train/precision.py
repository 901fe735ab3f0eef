"""Which precision `auto` is: bf16 where the processor multiplies faster in it than in fp32, not wherever it can."""

import os
import time
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch

from models.distributed import by_main, join
from models.errors import InputError
from models.processor import cpu_flags, cpu_name, has_bf16
from models.record import Record
from models.stage import Stage, run_stage
from models.train.config import TrainingConfig

VERSION = 1
FILE = "precision.json"
AUTO = "PRUNELLA_AUTO_PRECISION"  # environment: fp32 or bf16, which `auto` then is, without a measurement
PAYS = 1.1  # how many times as fast as fp32 it must be
SHAPE = (512, 384, 1536)  # tokens, in, out: a feed-forward product of a small encoder
TURNS, REPEATS = 7, 4
Precision = Literal["fp32", "bf16"]


class AutoPrecision(Record):
    """What `auto` is on one machine."""

    precision: Precision


def settle_precision(config: TrainingConfig, store: Path) -> TrainingConfig:
    """Return `config` with fp32 or bf16 in place of `auto`: what a training is identified by.

    A machine is measured once in a store: a run that goes on after a kill, or is repeated, has the precision that it
    began with, and several processes have one, because the main one measures for all.
    """
    if config.precision != "auto":
        return config
    precision = by_main(_without_timing)
    if precision is None:
        made = run_stage(
            Stage("precision", VERSION, _timed_on()), [], store,
            lambda target: AutoPrecision(precision=_timed()).write(target / FILE),
        )  # fmt: skip
        precision = AutoPrecision.read(made.folder.path / FILE).precision
    return config.model_copy(update={"precision": precision})


def choose_precision(config: TrainingConfig) -> Precision:
    """Return what `config` says; instead of `auto` the precision that is faster, the same in every process."""
    if config.precision != "auto":
        return config.precision
    return by_main(lambda: _without_timing() or _timed())


def computed_on() -> dict[str, Any]:
    """Return what a training's identity says of the computer: the class of device and the release of torch.

    Weights differ in their last digits between these, and in more as the training goes on.
    """
    release = torch.__version__.partition("+")[0]
    return by_main(lambda: {"computed_on": {"device": join().device.type, "torch": release}})


@cache
def bf16_pays() -> bool:
    """Whether this processor multiplies bf16 matrices faster than fp32 ones, timed once a process (some 30 ms).

    Processors without bf16 emulate it, slowly. Of those that have it some are faster with it, and Intel ones whose
    AMX is hidden, as virtual machines do, half as fast: docs/results/training.md.
    """
    turns = [(product_seconds(torch.float32), product_seconds(torch.bfloat16)) for _ in range(TURNS)]
    fp32, bf16 = (min(times) for times in zip(*turns, strict=True))
    return fp32 >= PAYS * bf16


def product_seconds(dtype: torch.dtype) -> float:
    """Return the time of a product of two matrices of this type, after one to warm up."""
    rows, inner, columns = SHAPE
    left, right = torch.ones(rows, inner, dtype=dtype), torch.ones(columns, inner, dtype=dtype)
    torch.nn.functional.linear(left, right)
    begun = time.perf_counter()
    for _ in range(REPEATS):
        torch.nn.functional.linear(left, right)
    return (time.perf_counter() - begun) / REPEATS


def _without_timing() -> Precision | None:
    """Return what `auto` is where nothing must be timed: the environment says it, or the hardware leaves no choice.

    Raises:
        InputError: the environment variable holds another word.
    """
    forced = os.environ.get(AUTO)
    if forced in ("fp32", "bf16"):
        return forced  # type: ignore[return-value]
    if forced:
        raise InputError(f"{AUTO} is {forced!r}: wanted fp32 or bf16")
    if join().device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return None if has_bf16() else "fp32"


def _timed() -> Precision:
    return "bf16" if bf16_pays() else "fp32"


def _timed_on() -> dict[str, Any]:
    """Return what a measurement is true of; the main process's machine stands for all."""
    return by_main(
        lambda: {
            "processor": cpu_name(), "flags": sorted(cpu_flags()), "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }
    )  # fmt: skip
