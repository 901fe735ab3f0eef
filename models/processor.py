"""CPU and GPUs of this machine: names, and the instruction sets that decide which precision is used."""

import os
import platform
from functools import cache
from pathlib import Path

NVIDIA = Path("/proc/driver/nvidia/gpus")
# environment variable: CPU flags, separated by spaces, that are treated as missing
HIDDEN_FLAGS = "PRUNELLA_HIDE_CPU_FLAGS"


def has_vnni() -> bool:
    """Whether int8 products are summed without intermediate saturation (AVX512-VNNI, AVX-VNNI or AMX)."""
    return bool(cpu_flags() & {"avx512_vnni", "avx_vnni", "amx_int8"})


def has_bf16() -> bool:
    """Whether bf16 matrices are multiplied in hardware (AVX512-BF16 or AMX)."""
    return bool(cpu_flags() & {"avx512_bf16", "amx_bf16"})


def cpu_flags() -> frozenset[str]:
    """Return the CPU flags; an empty set if /proc/cpuinfo has none, so that no instruction set is assumed.

    Flags in the environment variable `HIDDEN_FLAGS` are left out, so that tests can simulate an older CPU.
    """
    return frozenset(_cpuinfo().get("flags", "").split()) - set(os.environ.get(HIDDEN_FLAGS, "").split())


def cpu_name() -> str:
    """Return the model name of the CPU."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def gpu_names(driver: Path = NVIDIA) -> list[str]:
    """Return the names of the NVIDIA GPUs, as reported by the driver; an empty list without the driver."""
    lines = [line for gpu in sorted(driver.glob("*/information")) for line in gpu.read_text().splitlines()]
    return [line.partition(":")[2].strip() for line in lines if line.startswith("Model")]


@cache
def _cpuinfo() -> dict[str, str]:
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:
        return {}  # not Linux
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}
