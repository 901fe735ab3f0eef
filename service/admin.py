"""Admin: the routes that change the model under load. Closed until PRUNELLA_ADMIN_TOKEN is set."""

import asyncio
import time
from collections.abc import Callable

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

    bundle: str = Field(max_length=4096, description="a bundle folder, or a tag of BentoML's model store")
    other_labels: bool = Field(False, description="take a bundle for another kind of task or other labels")


class Try(Record):
    """POST /admin/shadow."""

    bundle: str = Field(max_length=4096, description="a bundle folder, or a tag of BentoML's model store")
    share: float = Field(0.1, gt=0, le=1, description="of the requests that the candidate answers too")


class Admin:
    """Changes which model answers; every method is a route."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def told(self, call: Call) -> Reply:
        """Say which models there are, and how the candidate does."""
        self._let_in(call)
        rotation = self._desk.rotation
        previous = rotation.previous
        if previous is not None and previous.bundle.id != rotation.previous_id:
            previous = None  # a rollback brings back another one, which this worker would have to load
        return json_reply(
            {
                "current": _described(rotation.current),
                "previous": _described(previous) or (rotation.previous_id and {"id": rotation.previous_id}),
                "candidate": _described(rotation.candidate),
                "share": rotation.share,
                "shadow": self._desk.shadow.told(),
            }
        )

    async def swap(self, call: Call) -> Reply:
        """Load a bundle beside the current one in every worker, check it, and let it answer from then on."""
        asked = await self._read(call, Swap)
        assert isinstance(asked, Swap)
        rotation = self._desk.rotation
        if rotation.supervisor is not None:
            return await self._change_all("swap", asked.bundle, asked.other_labels, "swapped")
        return await self._change(lambda: rotation.swap(resolve(asked.bundle), asked.other_labels), "swapped")

    async def roll_back(self, call: Call) -> Reply:
        """Let the model before answer again, in every worker."""
        self._let_in(call)
        if self._desk.rotation.supervisor is not None:
            return await self._change_all("rollback", None, True, "rolled back")
        return await self._change(self._desk.rotation.roll_back, "rolled back")

    async def shadow(self, call: Call) -> Reply:
        """Let a candidate answer a share of the requests too, unseen."""
        asked = await self._read(call, Try)
        assert isinstance(asked, Try)
        self._refuse_several()
        reply = await self._change(lambda: self._desk.rotation.shadow(resolve(asked.bundle), asked.share), "shadowed")
        self._desk.shadow.restart()  # not when it was refused
        return reply

    async def end_shadow(self, call: Call) -> Reply:
        """Send the candidate away."""
        self._let_in(call)
        self._refuse_several()
        return await self._change(lambda: self._desk.rotation.shadow(None, 0.0), "ended")

    def _refuse_several(self) -> None:
        if self._desk.settings.workers > 1:
            told = "a candidate is compared in one process, and there are several workers: set PRUNELLA_WORKERS=1"
            raise BadRequest(409, told, "Conflict")

    def _let_in(self, call: Call) -> None:
        if self._desk.settings.admin_token is None:
            raise BadRequest(404, "Not Found", "NotFound")  # as if there were no such route
        check_key(call, self._desk.settings.admin_token)

    async def _read(self, call: Call, record: type[Record]) -> Record:
        self._let_in(call)
        try:
            return record.model_validate(await call.document(self._desk.settings.max_body_bytes))
        except ValidationError as error:
            raise BadRequest(422, explain(error)) from None

    async def _change_all(self, kind: str, bundle: str | None, other_labels: bool, outcome: str) -> Reply:
        """Let the supervisor change the model of all workers, or of none."""
        begun = time.perf_counter()
        supervisor = self._desk.rotation.supervisor
        assert supervisor is not None, "else this process changes its model alone"
        answer = await supervisor.change(kind, bundle, other_labels)
        if "reason" in answer:
            self._desk.telemetry.swaps.labels("refused").inc()
            raise BadRequest(answer["status"], answer["reason"], "Refused" if answer["status"] == 422 else "Conflict")
        return self._done(outcome, answer["id"], begun)

    def _done(self, outcome: str, bundle_id: str | None, begun: float) -> Reply:
        self._desk.telemetry.swaps.labels(outcome).inc()
        seconds = round(time.perf_counter() - begun, 3)
        return json_reply({"outcome": outcome, "id": bundle_id, "seconds": seconds})

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
        return self._done(outcome, engine.bundle.id if engine else None, begun)


def _described(engine: Engine | None) -> dict[str, str] | None:
    if engine is None:
        return None
    return {"id": engine.bundle.id, "variant": engine.variant_name, "device": engine.choice.got}
