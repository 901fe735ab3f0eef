"""What this processor can compute: detected, never assumed."""

import platform
from functools import cache
from pathlib import Path


def has_vnni() -> bool:
    """Whether int8 products are summed without saturating in between (AVX512-VNNI, AVX-VNNI or AMX)."""
    return bool(cpu_flags() & {"avx512_vnni", "avx_vnni", "amx_int8"})


def has_bf16() -> bool:
    """Whether bf16 matrices are multiplied in hardware (AVX512-BF16 or AMX)."""
    return bool(cpu_flags() & {"avx512_bf16", "amx_bf16"})


def cpu_flags() -> frozenset[str]:
    """Return the processor's flags; none where /proc/cpuinfo has none, which is the careful case."""
    return frozenset(_cpuinfo().get("flags", "").split())


def cpu_name() -> str:
    """Return the processor's name as it calls itself."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


@cache
def _cpuinfo() -> dict[str, str]:
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:
        return {}  # not Linux
    lines = (line.partition(":") for line in told.splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}
