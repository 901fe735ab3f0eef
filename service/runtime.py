"""open_session(): an ONNX file → a session on the device that was asked for; a fall-back is never silent."""

import contextlib
import logging
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import onnxruntime as ort
from pydantic import Field

from models.errors import FolderError, InputError
from models.processor import NVIDIA, has_vnni
from models.record import Record
from service.bundle import BundleInfo, Variant

log = logging.getLogger("prunella")
DEVICES = r"^(auto|cpu|cuda(:\d+)?|tensorrt)$"
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


class RuntimeSettings(Record):
    """Where and how the model runs."""

    device: str = Field("auto", pattern=DEVICES, description="auto, cpu, cuda[:i], tensorrt")
    threads: int = Field(1, ge=1, description="threads inside one operator")
    variant: str | None = Field(None, description="a variant of the bundle by name, instead of the device's default")
    require_device: bool = Field(False, description="refuse to start on another device than the one asked for")
    worker: int = Field(0, ge=0, description="number of the process: several GPUs are spread over workers")


class DeviceChoice(Record):
    """The device that was asked for and the one that is used; `reason` says why they differ."""

    asked: str
    got: str
    variant: str
    reason: str | None = None


def choose_device(info: BundleInfo, settings: RuntimeSettings, available: list[str], gpus: int = 1) -> DeviceChoice:
    """Pick device and variant.

    Args:
        info: the variants of the bundle.
        settings: what was asked for.
        available: ONNX Runtime's providers on this machine.
        gpus: how many there are; workers take them in turn where none is named.

    Raises:
        InputError: `require_device` is set and the device, or a variant for it, is not there.
    """
    asked = settings.device
    wanted = "cuda" if asked == "auto" else re.sub(r":\d+$", "", asked)
    family: Literal["cpu", "cuda"] = "cpu" if wanted == "cpu" else "cuda"
    reason = None
    if PROVIDERS[wanted] not in available:
        reason = f"ONNX Runtime here has no {PROVIDERS[wanted]} (it has {', '.join(available)})"
    elif family not in info.default:
        reason = f"the bundle has no variant for {family} (it has {', '.join(sorted(info.variants))})"
    if reason is not None:
        return fall_back(info, settings, reason, quiet=asked == "auto")  # `auto` without a GPU is no fall-back
    spread = wanted != "cpu" and ":" not in asked and (gpus > 1 or asked == "auto")
    got = f"{wanted}:{settings.worker % max(gpus, 1)}" if spread else asked
    return DeviceChoice(asked=asked, got=got, variant=settings.variant or info.default[family])


def fall_back(info: BundleInfo, settings: RuntimeSettings, reason: str, quiet: bool = False) -> DeviceChoice:
    """Return the choice of the processor instead of what was asked for, and say so in the log.

    Raises:
        InputError: `require_device` is set.
    """
    if not quiet:
        if settings.require_device:
            raise InputError(f"device {settings.device} was required: {reason}")
        log.warning("device %s was asked for and cpu is used: %s", settings.device, reason)
    variant = settings.variant or info.default["cpu"]
    return DeviceChoice(asked=settings.device, got="cpu", variant=variant, reason=None if quiet else reason)


def count_gpus(environment: Mapping[str, str] = os.environ, driver: Path = NVIDIA) -> int:
    """Return how many GPUs this process sees."""
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return len([part for part in named.split(",") if part.strip() and part.strip() != "-1"])
    return len(list(driver.iterdir())) if driver.is_dir() else 0


def runs_on(session: ort.InferenceSession, device: str) -> bool:
    """Whether the session has the provider of `device`: one whose libraries do not load is left out."""
    return PROVIDERS[device.partition(":")[0]] in session.get_providers()


def load_gpu_libraries() -> None:
    """Load CUDA and cuDNN from NVIDIA's Python packages, where `pip install onnxruntime-gpu[cuda,cudnn]` puts them.

    ONNX Runtime looks for them in the system's folders only. What is in neither is missed when the session opens.
    """
    with contextlib.redirect_stdout(sys.stderr):  # it prints what it does not find
        ort.preload_dlls()


def session_options(threads: int = 1, weight_bits: int = 8) -> ort.SessionOptions:
    """Return how sessions are opened, on a processor with VNNI or without; `weight_bits`: of the int8 weights."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    if weight_bits == 8 and not has_vnni():
        options.add_session_config_entry("session.x64quantprecision", "1")  # 8-bit weights would saturate, silently
    return options


def open_session(
    path: Path, threads: int = 1, device: str = "cpu", variant: Variant | None = None
) -> ort.InferenceSession:
    """Open the ONNX file at `path`; without `variant` it may have int8 weights of 8 bits.

    Raises:
        FolderError: ONNX Runtime cannot load the file.
    """
    options = session_options(threads, 8 if variant is None else variant.weight_bits)
    name, _, index = device.partition(":")
    providers: list[object] = [PROVIDERS["cpu"]]
    if name != "cpu":
        load_gpu_libraries()
        providers.insert(0, (PROVIDERS[name], {"device_id": index or "0"}))
    try:
        return ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's errors have no common base that is public
        raise FolderError(f"{path} cannot be opened by ONNX Runtime: {error}") from None
