"""Admin: the routes that change the model under load. Closed until PRUNELLA_ADMIN_TOKEN is set."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import Field, ValidationError

from models.errors import CheckError, PrunellaError
from models.record import Record, explain
from service.access import check_key
from service.desk import Desk
from service.dialects import BadRequest
from service.engine import Engine
from service.publish import resolve
from service.rotation import BusyError
from service.wire import Call, Reply, json_reply

CHANGE_SECONDS = 5.0  # a new model takes cores away from the current one for about so long


class Swap(Record):
    """POST /admin/models."""

    bundle: str = Field(description="a bundle folder, or a tag of BentoML's model store")
    other_labels: bool = Field(False, description="take a bundle whose labels are not those that clients know")


class Try(Record):
    """POST /admin/shadow."""

    bundle: str = Field(description="a bundle folder, or a tag of BentoML's model store")
    share: float = Field(0.1, gt=0, le=1, description="of the requests that the candidate answers too")


class Admin:
    """Changes which model answers; every method is a route."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def told(self, call: Call) -> Reply:
        """Say which models there are, and how the candidate does."""
        self._let_in(call)
        rotation = self._desk.rotation
        named = {
            name: engine and {"id": engine.bundle.id, "variant": engine.variant_name, "device": engine.choice.got}
            for name, engine in (
                ("current", rotation.current),
                ("previous", rotation.previous),
                ("candidate", rotation.candidate),
            )
        }
        return json_reply({**named, "share": rotation.share, "shadow": self._desk.shadow.told()})

    async def swap(self, call: Call) -> Reply:
        """Load a bundle beside the current one, check it, and let it answer from then on."""
        asked = await self._read(call, Swap)
        assert isinstance(asked, Swap)
        return await self._change(
            lambda: self._desk.rotation.swap(_folder(asked.bundle), asked.other_labels), "swapped"
        )

    async def roll_back(self, call: Call) -> Reply:
        """Let the model before answer again."""
        self._let_in(call)
        return await self._change(self._desk.rotation.roll_back, "rolled back")

    async def shadow(self, call: Call) -> Reply:
        """Let a candidate answer a share of the requests too, unseen."""
        asked = await self._read(call, Try)
        assert isinstance(asked, Try)
        told = await self._change(lambda: self._desk.rotation.shadow(_folder(asked.bundle), asked.share), "shadowed")
        self._desk.shadow.restart()  # not when it was refused
        return told

    async def end_shadow(self, call: Call) -> Reply:
        """Send the candidate away."""
        self._let_in(call)
        return await self._change(lambda: self._desk.rotation.shadow(None, 0.0), "ended")

    def _let_in(self, call: Call) -> None:
        if self._desk.settings.admin_token is None:
            raise BadRequest(404, "Not Found", "NotFound")  # as if there were no such route
        check_key(call, self._desk.settings.admin_token)
        if self._desk.settings.workers > 1:
            told = "there are several workers, and this would change one: restart them with SIGHUP instead"
            raise BadRequest(409, told, "Conflict")

    async def _read(self, call: Call, record: type[Record]) -> Record:
        self._let_in(call)
        try:
            return record.model_validate(await call.document(self._desk.settings.max_body_bytes))
        except ValidationError as error:
            raise BadRequest(422, explain(error)) from None

    async def _change(self, change: Callable[[], Engine | None], outcome: str) -> Reply:
        begun = time.perf_counter()
        swaps = self._desk.telemetry.swaps
        self._desk.runners.be_patient(CHANGE_SECONDS)
        try:
            engine = await asyncio.to_thread(change)
        except BusyError as error:
            raise BadRequest(409, str(error), "Conflict") from None
        except PrunellaError as error:
            swaps.labels("refused").inc()
            raise BadRequest(409 if isinstance(error, CheckError) else 422, str(error), "Refused") from None
        swaps.labels(outcome).inc()
        seconds = round(time.perf_counter() - begun, 3)
        return json_reply({"outcome": outcome, "id": engine and engine.bundle.id, "seconds": seconds})


def _folder(bundle_or_tag: str) -> Path:
    return resolve(bundle_or_tag)
