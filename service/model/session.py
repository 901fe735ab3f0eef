"""ONNX Runtime sessions: the choice of device and variant, session options, and opening an ONNX file.

A fall-back to the CPU is logged, except when no device was named.
"""

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
from models.schema import Record
from models.task import MOST_WINDOWS, Combine
from service.model.bundle import BundleInfo, Variant

log = logging.getLogger("prunella")
DEVICES = r"^(auto|cpu|cuda(:\d+)?|tensorrt)$"
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


class RuntimeSettings(Record):
    """Device, variant and threads of a session."""

    device: str = Field("auto", pattern=DEVICES, description="auto, cpu, cuda[:i], tensorrt")
    threads: int = Field(1, ge=1, description="threads inside one operator")
    variant: str | None = Field(None, description="a variant of the bundle by name, instead of the device's default")
    require_device: bool = Field(False, description="refuse to start on another device than the requested one")
    windows: int | None = Field(
        None, ge=1, le=MOST_WINDOWS, description="most windows of a long text; 1: it is cut; None: as the bundle says"
    )
    windows_combine: Combine | None = Field(None, description="mean or max; None: as the bundle says")
    worker: int = Field(0, ge=0, description="number of the process: workers are spread over the GPUs")


class DeviceChoice(Record):
    """The requested device (`asked`) and the one that is used (`got`); `reason` says why they differ."""

    asked: str
    got: str
    variant: str
    reason: str | None = None


def choose_device(info: BundleInfo, settings: RuntimeSettings, available: list[str], gpus: int = 1) -> DeviceChoice:
    """Choose device and variant.

    Args:
        info: the variants of the bundle.
        settings: the requested device and variant.
        available: ONNX Runtime's execution providers on this machine.
        gpus: number of GPUs; workers are assigned to them in turn when the device has no index.

    Raises:
        InputError: `require_device` is set and the device, or a variant for it, is missing.
    """
    requested = settings.device
    name = "cuda" if requested == "auto" else re.sub(r":\d+$", "", requested)
    family: Literal["cpu", "cuda"] = "cpu" if name == "cpu" else "cuda"
    reason = None
    if PROVIDERS[name] not in available:
        reason = f"ONNX Runtime here has no {PROVIDERS[name]} (it has {', '.join(available)})"
    elif family not in info.default:
        reason = f"the bundle has no variant for {family} (it has {', '.join(sorted(info.variants))})"
    if reason is not None:
        # the CPU is the regular choice of `auto` on a machine without a GPU, so nothing is logged
        return fall_back_to_cpu(info, settings, reason, quiet=requested == "auto")
    spread = name != "cpu" and ":" not in requested and (gpus > 1 or requested == "auto")
    device = f"{name}:{settings.worker % max(gpus, 1)}" if spread else requested
    return DeviceChoice(asked=requested, got=device, variant=settings.variant or info.default[family])


def fall_back_to_cpu(info: BundleInfo, settings: RuntimeSettings, reason: str, quiet: bool = False) -> DeviceChoice:
    """Return the CPU as the device instead of the requested one, and log a warning unless `quiet`.

    Raises:
        InputError: `require_device` is set.
    """
    if not quiet:
        if settings.require_device:
            raise InputError(f"device {settings.device} was required: {reason}")
        log.warning("device %s was requested, but cpu is used: %s", settings.device, reason)
    variant = settings.variant or info.default["cpu"]
    return DeviceChoice(asked=settings.device, got="cpu", variant=variant, reason=None if quiet else reason)


def count_gpus(environment: Mapping[str, str] = os.environ, driver: Path = NVIDIA) -> int:
    """Return the number of GPUs that this process sees."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([part for part in visible.split(",") if part.strip() and part.strip() != "-1"])
    return len(list(driver.iterdir())) if driver.is_dir() else 0


def runs_on(session: ort.InferenceSession, device: str) -> bool:
    """Whether the session has the provider of `device`: ONNX Runtime omits one whose libraries do not load."""
    return PROVIDERS[device.partition(":")[0]] in session.get_providers()


def load_gpu_libraries() -> None:
    """Load CUDA and cuDNN from NVIDIA's Python packages, where `pip install onnxruntime-gpu[cuda,cudnn]` puts them.

    ONNX Runtime itself searches only the system's folders. Libraries that are in neither place make the session fall
    back; see `runs_on`.
    """
    with contextlib.redirect_stdout(sys.stderr):  # it prints the libraries that it does not find
        ort.preload_dlls()


def session_options(threads: int = 1, weight_bits: int = 8) -> ort.SessionOptions:
    """Return session options for this processor; `weight_bits` is the width of the quantized weights."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    if weight_bits == 8 and not has_vnni():
        options.add_session_config_entry("session.x64quantprecision", "1")  # else 8-bit weights saturate silently
    return options


def open_session(
    path: Path, threads: int = 1, device: str = "cpu", variant: Variant | None = None
) -> ort.InferenceSession:
    """Open the ONNX file at `path`; without `variant`, its int8 weights are assumed to have 8 bits.

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
    except Exception as error:  # onnxruntime's errors have no public base class
        raise FolderError(f"{path} cannot be opened by ONNX Runtime: {error}") from None
