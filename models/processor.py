"""What this machine can compute: detected, never assumed."""

import os
import platform
from functools import cache
from pathlib import Path

NVIDIA = Path("/proc/driver/nvidia/gpus")
HIDDEN_FLAGS = "PRUNELLA_HIDE_CPU_FLAGS"  # environment: flags, with spaces between, that count as missing


def has_vnni() -> bool:
    """Whether int8 products are summed without saturating in between (AVX512-VNNI, AVX-VNNI or AMX)."""
    return bool(cpu_flags() & {"avx512_vnni", "avx_vnni", "amx_int8"})


def has_bf16() -> bool:
    """Whether bf16 matrices are multiplied in hardware (AVX512-BF16 or AMX)."""
    return bool(cpu_flags() & {"avx512_bf16", "amx_bf16"})


def cpu_flags() -> frozenset[str]:
    """Return the processor's flags; none where /proc/cpuinfo has none, which is the careful case.

    Flags named in the environment variable `HIDDEN_FLAGS` are left out: tests run as on an older processor.
    """
    return frozenset(_cpuinfo().get("flags", "").split()) - set(os.environ.get(HIDDEN_FLAGS, "").split())


def cpu_name() -> str:
    """Return the processor's name as it calls itself."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def gpu_names(driver: Path = NVIDIA) -> list[str]:
    """Return the names of NVIDIA's GPUs in this machine, as their driver tells them; none without the driver."""
    lines = [line for card in sorted(driver.glob("*/information")) for line in card.read_text().splitlines()]
    return [line.partition(":")[2].strip() for line in lines if line.startswith("Model")]


@cache
def _cpuinfo() -> dict[str, str]:
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:
        return {}  # not Linux
    lines = (line.partition(":") for line in told.splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}
