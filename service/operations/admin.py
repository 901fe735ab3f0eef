"""Admin: the /admin routes, which change the model under load. They answer 404 unless PRUNELLA_ADMIN_TOKEN is set."""

import asyncio
import time
from collections.abc import Callable

from pydantic import Field, ValidationError

from models.errors import CheckError, PrunellaError
from models.schema import Record, explain
from service.inference.inference_service import InferenceService
from service.model.engine import Engine
from service.operations.model_slots import LOAD_SECONDS, BusyError
from service.process.publish import resolve
from service.protocols import BadRequest
from service.web.access import check_key
from service.web.http import Call, Reply, json_reply
from service.web.route import no_route


class Swap(Record):
    """POST /admin/models."""

    bundle: str = Field(max_length=4096, description="a bundle folder, or a tag of BentoML's model store")
    other_labels: bool = Field(False, description="allow a bundle for another kind of task or with other labels")


class Try(Record):
    """POST /admin/shadow."""

    bundle: str = Field(max_length=4096, description="a bundle folder, or a tag of BentoML's model store")
    share: float = Field(0.1, gt=0, le=1, description="share of the requests that the candidate also answers")


class Admin:
    """Handlers of the /admin routes; each public method is a route."""

    def __init__(self, inference: InferenceService) -> None:
        self._inference = inference

    async def models(self, call: Call) -> Reply:
        """Return the current, previous and candidate model, and how the candidate compares."""
        self._check_token(call)
        model_slots = self._inference.model_slots
        previous = model_slots.previous
        if previous is not None and previous.bundle.id != model_slots.previous_id:
            previous = None  # a rollback activates another model, which this worker would have to load
        return json_reply(
            {
                "current": _summary(model_slots.current),
                "previous": _summary(previous) or (model_slots.previous_id and {"id": model_slots.previous_id}),
                "candidate": _summary(model_slots.candidate),
                "share": model_slots.share,
                "shadow": self._inference.shadow.report(),
            }
        )

    async def swap(self, call: Call) -> Reply:
        """Load a bundle beside the current one in every worker, check it, and activate it."""
        request = await self._read(call, Swap)
        assert isinstance(request, Swap)
        model_slots = self._inference.model_slots
        if model_slots.supervisor is not None:
            return await self._change_all("swap", request.bundle, request.other_labels, "swapped")
        return await self._change(lambda: model_slots.swap(resolve(request.bundle), request.other_labels), "swapped")

    async def roll_back(self, call: Call) -> Reply:
        """Activate the previous model again, in every worker."""
        self._check_token(call)
        if self._inference.model_slots.supervisor is not None:
            return await self._change_all("rollback", None, True, "rolled back")
        return await self._change(self._inference.model_slots.roll_back, "rolled back")

    async def shadow(self, call: Call) -> Reply:
        """Start a candidate that also answers a share of the requests; clients do not see its answers."""
        request = await self._read(call, Try)
        assert isinstance(request, Try)
        self._require_one_worker()
        reply = await self._change(
            lambda: self._inference.model_slots.shadow(resolve(request.bundle), request.share), "shadowed"
        )
        self._inference.shadow.restart()  # only if the change was not refused
        return reply

    async def end_shadow(self, call: Call) -> Reply:
        """Remove the candidate."""
        self._check_token(call)
        self._require_one_worker()
        return await self._change(lambda: self._inference.model_slots.shadow(None, 0.0), "ended")

    def _require_one_worker(self) -> None:
        if self._inference.settings.workers > 1:
            message = (
                "shadow traffic needs a single worker process, and this server has several: set PRUNELLA_WORKERS=1"
            )
            raise BadRequest(409, message, "Conflict")

    def _check_token(self, call: Call) -> None:
        if self._inference.settings.admin_token is None:
            raise no_route()  # as if the route did not exist
        check_key(call, self._inference.settings.admin_token, "admin token")

    async def _read(self, call: Call, record: type[Record]) -> Record:
        self._check_token(call)
        try:
            return record.model_validate(await call.document(self._inference.settings.max_body_bytes))
        except ValidationError as error:
            raise BadRequest(422, explain(error)) from None

    async def _change_all(self, kind: str, bundle: str | None, other_labels: bool, outcome: str) -> Reply:
        """Ask the supervisor to change the model in all workers or in none."""
        started = time.perf_counter()
        supervisor = self._inference.model_slots.supervisor
        assert supervisor is not None, "without a supervisor, _change is used"
        answer = await supervisor.change(kind, bundle, other_labels)
        if "reason" in answer:
            self._inference.telemetry.swaps.labels("refused").inc()
            raise BadRequest(answer["status"], answer["reason"], "Refused" if answer["status"] == 422 else "Conflict")
        return self._changed(outcome, answer["id"], started)

    def _changed(self, outcome: str, bundle_id: str | None, started: float) -> Reply:
        """Count the change and return its response."""
        self._inference.telemetry.swaps.labels(outcome).inc()
        seconds = round(time.perf_counter() - started, 3)
        return json_reply({"outcome": outcome, "id": bundle_id, "seconds": seconds})

    async def _change(self, change: Callable[[], Engine | None], outcome: str) -> Reply:
        """Change the model of this process in a thread; `change` returns the engine that it loaded."""
        started = time.perf_counter()
        swaps = self._inference.telemetry.swaps
        self._inference.runners.be_patient(LOAD_SECONDS)
        try:
            engine = await asyncio.to_thread(change)
        except BusyError as error:
            raise BadRequest(409, str(error), "Conflict") from None
        except PrunellaError as error:
            swaps.labels("refused").inc()
            raise BadRequest(409 if isinstance(error, CheckError) else 422, str(error), "Refused") from None
        return self._changed(outcome, engine.bundle.id if engine else None, started)


def _summary(engine: Engine | None) -> dict[str, str] | None:
    if engine is None:
        return None
    return {"id": engine.bundle.id, "variant": engine.variant_name, "device": engine.choice.got}
