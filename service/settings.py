"""Settings of the service, read from PRUNELLA_* in the environment."""

import os
from collections.abc import Mapping

from pydantic import Field, ValidationError

from models.errors import InputError
from models.record import Record, explain
from service.runtime import DEVICES, RuntimeSettings

PREFIX = "PRUNELLA_"
ELSEWHERE = {"PRUNELLA_STORE"}  # read by the command line


class Settings(Record):
    """Everything that can be set from outside; the variable of `max_batch` is PRUNELLA_MAX_BATCH."""

    bundle: str = Field("prunella:latest", description="a bundle folder, or a tag of BentoML's model store")
    device: str = Field("auto", pattern=DEVICES, description="auto, cpu, cuda[:i], tensorrt")
    threads: int = Field(1, ge=1, description="threads inside one operator")
    require_device: bool = Field(False, description="refuse to start on another device than the one asked for")
    max_body_bytes: int = Field(2_000_000, ge=1, description="larger requests get 413")
    max_text_chars: int = Field(200_000, ge=1, description="longer texts get 413")
    max_batch: int = Field(32, ge=1, description="texts in one request; more get 413")
    max_queue: int = Field(256, ge=1, description="requests that wait; more get 429")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """Return the settings.

        Raises:
            InputError: a PRUNELLA_ variable is unknown or its value is not allowed.
        """
        ours = {k for k in environment if k.startswith(PREFIX)} - ELSEWHERE
        known = {PREFIX + name.upper(): name for name in cls.model_fields}
        if ours - known.keys():
            raise InputError(
                f"unknown setting {sorted(ours - known.keys())[0]}: known are {', '.join(sorted(known))}"
            )
        try:
            return cls.model_validate({known[key]: environment[key] for key in ours}, strict=False)
        except ValidationError as error:
            raise InputError(f"PRUNELLA_ settings: {explain(error)}") from None

    def runtime(self) -> RuntimeSettings:
        """Return the part that the engine needs."""
        return RuntimeSettings(device=self.device, threads=self.threads, require_device=self.require_device)
