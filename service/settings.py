"""Settings of the service, read from the PRUNELLA_* environment variables."""

import logging
import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Literal, NamedTuple

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator

from models.errors import InputError
from models.schema import Record, explain
from models.task import MOST_WINDOWS, Combine
from service.inference.scheduler import Rules
from service.model.session import DEVICES, RuntimeSettings
from service.process.cores import usable_cores
from service.process.service_links import service_links

log = logging.getLogger("prunella")
PREFIX = "PRUNELLA_"
NOT_SETTINGS = {"PRUNELLA_STORE", "PRUNELLA_AUTO_PRECISION", "PRUNELLA_HIDE_CPU_FLAGS"}  # not read by the server
CLI_OPTIONS = {"PRUNELLA_HOST": "--host", "PRUNELLA_PORT": "--port"}  # set by options of `prunella serve` only
VERTEX = {"AIP_HEALTH_ROUTE": "health_route", "AIP_PREDICT_ROUTE": "predict_route"}  # set by Vertex AI
ROUTE = r"^(/[A-Za-z0-9._~:/-]+)?$"
ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/?#@\sA-Z]+")


class BatchLimits(NamedTuple):
    """Default limits of one batch."""

    items: int  # texts
    tokens: int  # padding included
    bucket: int  # tokens: texts whose lengths differ by less may share a batch


CPU_LIMITS = BatchLimits(4, 1024, 4)  # on a CPU padding costs time, and larger batches gain nothing
# a batch of 128 texts takes 1.3 ms, one of a single text 0.7 ms (docs/results/gpu.md)
GPU_LIMITS = BatchLimits(128, 16_384, 64)
GPU_RUNNERS = 2  # one computes while the other prepares its batch


class Settings(Record):
    """All settings of the service; the environment variable of `max_batch` is PRUNELLA_MAX_BATCH."""

    bundle: str = Field("prunella:latest", description="a bundle folder, or a tag of BentoML's model store")
    served_as: str = Field(
        "", max_length=200, description="name of the model in answers and paths; empty: the bundle's own"
    )

    device: str = Field("auto", pattern=DEVICES, description="auto, cpu, cuda[:i], tensorrt")
    require_device: bool = Field(False, description="refuse to start on another device than the requested one")
    threads: int = Field(1, ge=1, description="threads inside one operator")
    runners: int = Field(
        0, ge=0, description="batches that run at once in a process; 0: cores // threads // workers, on a GPU 2"
    )
    workers: int = Field(1, ge=1, description="processes; the runners of one process share its queue")

    batcher: Literal["ours", "bentoml"] = Field("ours", description="what batches requests to POST /classify")
    max_batch_items: int = Field(0, ge=0, description="texts in one batch; 0: 4, on a GPU 128")
    max_batch_tokens: int = Field(
        0, ge=0, description="tokens in one batch, padding included; 0: 1024, on a GPU 16384"
    )
    bucket_tokens: int = Field(
        0, ge=0, description="texts whose lengths in tokens differ by less may share a batch; 0: 4, on a GPU 64"
    )
    inline_ms: float = Field(
        20,
        ge=0,
        description="a single text with a shorter predicted time bypasses the queue of an idle process; 0: never",
    )
    age_limit_ms: float = Field(
        10, ge=0, description="a text that has waited longer runs first; until then the fullest bucket does"
    )

    classify_dialect: Literal["vllm", "infinity"] = Field(
        "vllm", description="whose answer POST /classify and /v1/classify give to a request with `input`"
    )
    zero_shot_answer: Literal["auto", "pipeline", "list"] = Field(
        "auto",
        description="form of zero-shot answers on POST /: transformers' pipelines' or the hosted API's list; "
        "auto: the list for huggingface_hub from 1.2 on, by its User-Agent",
    )
    max_body_bytes: int = Field(2_000_000, ge=1, description="larger requests get 413")
    max_text_chars: int = Field(
        200_000, ge=1, description="longer texts are cut, or get 413 where cutting is forbidden"
    )
    windows: int | None = Field(
        None, ge=1, le=MOST_WINDOWS,
        description="most overlapping windows of a text that is too long; 1: it is cut; default: as the bundle says",
    )  # fmt: skip
    windows_combine: Combine | None = Field(
        None, description="mean or max of the scores of a text's windows; default: as the bundle says, else mean"
    )
    max_batch: int = Field(32, ge=1, description="texts in one request; more get 413")
    max_queue: int = Field(4096, ge=1, description="texts that wait; more get 429")
    free_queue: int = Field(32, ge=0, description="texts that may wait whatever the predicted wait is")
    max_wait_ms: float = Field(50, gt=0, description="predicted wait beyond which a request gets 429")
    request_timeout_ms: float = Field(10_000, gt=0, description="deadline of a request that does not set one")

    header_timeout_s: float = Field(
        10, gt=0, description="time for a client to send a request's head; later ones get 408"
    )
    body_timeout_s: float = Field(
        10, gt=0, description="time for a client to send a whole request; later ones get 408"
    )
    keep_alive_s: int = Field(
        80,
        ge=1,
        description="idle connections are closed after this; keep it above the load balancer's idle time-out",
    )
    drain_delay_s: float = Field(
        0, ge=0, description="time after SIGTERM in which connections are still accepted and /readyz answers 503"
    )
    drain_s: int = Field(30, ge=1, description="time for the answers to admitted requests, after the drain delay")
    stuck_after_s: float = Field(30, gt=0, description="a batch that runs longer fails /livez")

    cascade: bool = Field(True, description="whether the gate of a bundle answers easy texts")
    gate_check_share: float = Field(
        0.01,
        ge=0,
        le=1,
        description="share of the texts that the gate answered which the student answers too, to count disagreements",
    )

    port_grpc: int = Field(
        0, ge=0, le=65_535, description="port of the Open Inference Protocol over gRPC; 0: it is not served"
    )

    api_key: SecretStr | None = Field(None, min_length=8, description="when set, requests must carry this key")
    admin_token: SecretStr | None = Field(
        None, min_length=8, description="when set, /admin is open to requests that carry this token"
    )
    root_path: str = Field(
        "",
        pattern=r"^(/[A-Za-z0-9._~-]+)*$",
        description="path before every route behind a proxy, such as /nlp",
    )
    health_route: str = Field("", pattern=ROUTE, description="one more path of /readyz; default: AIP_HEALTH_ROUTE")
    predict_route: str = Field(
        "", pattern=ROUTE, description="path of Vertex AI's requests with `instances`; default: AIP_PREDICT_ROUTE"
    )
    cors_origins: str = Field(
        "", description="origins whose pages may send requests, separated by commas; * for all; none by default"
    )
    log: Literal["json", "text"] = Field("json", description="format of the log on stderr")
    access_log: bool = Field(False, description="one log line per request")

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: str) -> str:
        for origin in filter(None, map(str.strip, value.split(","))):
            if not ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is not an origin: wanted scheme://host[:port] in small letters, "
                    "such as https://app.example"
                )
        return value

    @model_validator(mode="after")
    def _fits_the_cores(self) -> "Settings":
        cores = usable_cores()
        total = self.threads * max(self.runners, 1)
        if total > cores:
            raise ValueError(
                f"threads x runners is {total}, and this process may use {cores} cores: "
                "more threads than cores only wait for each other"
            )
        return self

    def warn_if_crowded(self) -> None:
        """Log a warning when the workers together have more threads than there are cores."""
        cores, threads = usable_cores(), self.threads * max(self.runners, 1)
        if threads * self.workers > cores:
            log.warning("%d workers with %d threads each share %d cores", self.workers, threads, cores)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """Read the settings from environment variables.

        Raises:
            InputError: a PRUNELLA_ variable is unknown or its value is not allowed.
        """
        names = {name for name in environment if name.startswith(PREFIX)} - NOT_SETTINGS
        names -= service_links(environment, PREFIX.rstrip("_"))
        known = {PREFIX + name.upper(): name for name in cls.model_fields}
        if unknown := sorted(names - known.keys()):
            raise InputError(f"unknown setting {unknown[0]}: {_suggestion(unknown[0], sorted(known))}")
        values = {field: environment[name] for name, field in VERTEX.items() if environment.get(name)}
        try:
            return cls.model_validate({**values, **{known[name]: environment[name] for name in names}}, strict=False)
        except ValidationError as error:
            raise InputError(f"PRUNELLA_ settings: {explain(error)}") from None

    def runtime(self, worker: int = 0) -> RuntimeSettings:
        """Return the settings of the engine of one worker."""
        return RuntimeSettings(
            device=self.device, threads=self.threads, require_device=self.require_device, worker=worker,
            windows=self.windows, windows_combine=self.windows_combine,
        )  # fmt: skip

    def rules(self, device: str = "cpu") -> Rules:
        """Return the limits of the scheduler of one process; `device` is the one that the model runs on."""
        default = CPU_LIMITS if device == "cpu" else GPU_LIMITS
        cores = max(1, usable_cores() // self.threads // self.workers)
        return Rules(
            items=self.max_batch_items or default.items,
            tokens=self.max_batch_tokens or default.tokens,
            bucket=self.bucket_tokens or default.bucket,
            age_limit=self.age_limit_ms / 1e3,
            max_queue=self.max_queue,
            free_queue=self.free_queue,
            max_wait=self.max_wait_ms / 1e3,
            runners=self.runners or (cores if device == "cpu" else GPU_RUNNERS),
        )

    def origins(self) -> frozenset[str]:
        """Return the origins whose pages may send requests."""
        return frozenset(origin.strip() for origin in self.cors_origins.split(",") if origin.strip())


def _suggestion(unknown: str, known: list[str]) -> str:
    """Return advice for an unknown setting: a command-line option or the most similar setting."""
    if unknown in CLI_OPTIONS:
        return f"use the option {CLI_OPTIONS[unknown]} of the command line"
    nearest = get_close_matches(unknown.upper(), known, 1)
    return (f"did you mean {nearest[0]}? " if nearest else "") + f"Known are {', '.join(known)}"
