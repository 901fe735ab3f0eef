"""uses_bf16(): whether matrices are multiplied in bf16. That a processor can is no reason: it must also be faster."""

import time
from functools import cache

import torch

from models.processor import has_bf16
from models.train.config import TrainingConfig

PAYS = 1.1  # how many times as fast as fp32 it must be
SHAPE = (512, 384, 1536)  # tokens, in, out: a feed-forward product of a small encoder
TURNS, REPEATS = 7, 4


def uses_bf16(config: TrainingConfig) -> bool:
    """Whether matrices are multiplied in bf16: as `config` says, or where that is faster than fp32."""
    if config.precision != "auto":
        return config.precision == "bf16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return bf16_pays()


@cache
def bf16_pays() -> bool:
    """Whether this processor multiplies bf16 matrices faster than fp32 ones, timed once a process (some 30 ms).

    Processors without bf16 emulate it, slowly. Of those that have it some are faster with it, and Intel ones whose
    AMX is hidden, as virtual machines do, half as fast: docs/results/training.md.
    """
    if not has_bf16():
        return False
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
