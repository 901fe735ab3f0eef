"""Training precision: `auto` selects bf16 if a matrix product is measurably faster in it than in fp32.

Support for bf16 is not sufficient: some processors that have it are only half as fast with it as with fp32.
"""

import os
import time
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch

from models.distributed import by_main, join
from models.errors import InputError
from models.processor import cpu_flags, cpu_name, has_bf16
from models.schema import Record
from models.store.stage import Stage, run_stage
from models.train.training_config import TrainingConfig

VERSION = 1
FILE = "precision.json"
AUTO = "PRUNELLA_AUTO_PRECISION"  # environment variable: fp32 or bf16 is what `auto` selects, without a measurement
MIN_SPEEDUP = 1.1  # of bf16 over fp32, from which `auto` selects bf16
SHAPE = (512, 384, 1536)  # tokens, in, out: a feed-forward product of a small encoder
ROUNDS, REPEATS = 7, 4
Precision = Literal["fp32", "bf16"]


class AutoPrecision(Record):
    """What `auto` selects on one machine."""

    precision: Precision


def settle_precision(config: TrainingConfig, store: Path) -> TrainingConfig:
    """Return `config` with fp32 or bf16 in place of `auto`, so that the precision is part of a stage's identity.

    A machine is measured once per store: a run that is resumed or repeated has the precision of its start. All
    processes have the same precision, because the main process measures for all.
    """
    if config.precision != "auto":
        return config
    precision = by_main(_without_measurement)
    if precision is None:
        result = run_stage(
            Stage("precision", VERSION, _measurement_conditions()), [], store,
            lambda target: AutoPrecision(precision=_measure()).write(target / FILE),
        )  # fmt: skip
        precision = AutoPrecision.read(result.folder.path / FILE).precision
    return config.model_copy(update={"precision": precision})


def choose_precision(config: TrainingConfig) -> Precision:
    """Return the precision of `config`; for `auto` the faster one, the same in every process."""
    if config.precision != "auto":
        return config.precision
    return by_main(lambda: _without_measurement() or _measure())


def computed_on() -> dict[str, Any]:
    """Return the part of a training's identity that describes the computer: type of device and release of torch.

    Between these, weights differ in their last digits, and the difference grows during a training.
    """
    release = torch.__version__.partition("+")[0]
    return by_main(lambda: {"computed_on": {"device": join().device.type, "torch": release}})


@cache
def bf16_is_faster() -> bool:
    """Whether this processor multiplies bf16 matrices faster than fp32 ones; measured once per process (~30 ms).

    Processors without bf16 emulate it slowly. Of those with bf16 some are faster with it; Intel ones whose AMX is
    hidden by a virtual machine are half as fast: docs/results/training.md.
    """
    rounds = [(product_seconds(torch.float32), product_seconds(torch.bfloat16)) for _ in range(ROUNDS)]
    fp32, bf16 = (min(times) for times in zip(*rounds, strict=True))
    return fp32 >= MIN_SPEEDUP * bf16


def product_seconds(dtype: torch.dtype) -> float:
    """Return the mean time of a product of two matrices of this type, after one product as warm-up."""
    rows, inner, columns = SHAPE
    left, right = torch.ones(rows, inner, dtype=dtype), torch.ones(columns, inner, dtype=dtype)
    torch.nn.functional.linear(left, right)
    start = time.perf_counter()
    for _ in range(REPEATS):
        torch.nn.functional.linear(left, right)
    return (time.perf_counter() - start) / REPEATS


def _without_measurement() -> Precision | None:
    """Return what `auto` selects if the environment variable or the hardware decides it; None: it must be measured.

    Raises:
        InputError: the environment variable has another value.
    """
    forced = os.environ.get(AUTO)
    if forced in ("fp32", "bf16"):
        return forced  # type: ignore[return-value]
    if forced:
        raise InputError(f"{AUTO} is {forced!r}: wanted fp32 or bf16")
    if join().device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return None if has_bf16() else "fp32"


def _measure() -> Precision:
    return "bf16" if bf16_is_faster() else "fp32"


def _measurement_conditions() -> dict[str, Any]:
    """Return the conditions under which a measurement is valid; the main process's machine stands for all."""
    return by_main(
        lambda: {
            "processor": cpu_name(), "flags": sorted(cpu_flags()), "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }
    )  # fmt: skip
