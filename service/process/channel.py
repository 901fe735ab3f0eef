"""Channel: a worker's end of the socket pair to its supervisor, and how the worker executes the supervisor's orders.

Messages are JSON objects, one per packet; service/process/lifecycle.py is the other side. `is` names the event that a
worker reports (loaded, ready, asked, prepared, refused, committed, forgot); `do` names the order that it receives
(serve, patient, prepare, commit, abort, forget, answer).
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from models.errors import CheckError, PrunellaError
from service.inference.inference_service import InferenceService
from service.model.engine import Engine
from service.operations.model_slots import LOAD_SECONDS, BusyError

LONGEST_MESSAGE = 1 << 16  # bytes
LONGEST_REASON = 4000  # characters


class Channel:
    """Connection to the supervisor."""

    def __init__(self, connection: socket.socket, inference: InferenceService) -> None:
        self._connection, self._inference = connection, inference
        self._prepared: tuple[int, Engine] | None = None  # number of the change, and the engine that it loaded
        self._latest_change = 0  # number of the change that was ordered last; negative: it was aborted
        self._requests: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = count()
        self._tasks: set[asyncio.Task[None]] = set()

    def wait_to_serve(self) -> bool:
        """Report that the model is loaded and wait for the order to serve it; False: the supervisor has exited."""
        self._report("loaded")
        content = self._connection.recv(LONGEST_MESSAGE)
        if content:
            self._inference.model_slots.previous_id = json.loads(content)["previous"]
        return bool(content)

    def begin(self, on_supervisor_exit: Callable[[], None]) -> None:
        """Report that this worker listens, and execute orders from now on.

        Args:
            on_supervisor_exit: called when the supervisor has exited.
        """
        self._on_supervisor_exit = on_supervisor_exit
        self._connection.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._connection.fileno(), self._receive)
        self._report("ready")

    async def change(self, kind: str, bundle: str | None, other_labels: bool) -> dict[str, Any]:
        """Request a model change in all workers; return the supervisor's answer: `id`, or `reason` and `status`."""
        request = next(self._numbers)
        answer = self._requests[request] = asyncio.get_running_loop().create_future()
        self._report("asked", request=request, kind=kind, bundle=bundle, other_labels=other_labels)
        try:
            return await answer
        finally:
            del self._requests[request]

    def _report(self, event: str, **fields: Any) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # supervisor exited: the next read shows it
            self._connection.send(json.dumps({"is": event, **fields}).encode())

    def _receive(self) -> None:
        try:
            content = self._connection.recv(LONGEST_MESSAGE)
        except BlockingIOError:
            return
        except ConnectionResetError:
            content = b""
        if not content:
            self._loop.remove_reader(self._connection.fileno())
            self._on_supervisor_exit()
            return
        order = json.loads(content)
        getattr(self, f"_do_{order.pop('do')}")(**order)

    def _do_patient(self, seconds: float) -> None:
        self._inference.runners.be_patient(seconds)

    def _do_prepare(self, **order: Any) -> None:
        self._latest_change = order["change"]
        self._inference.runners.be_patient(LOAD_SECONDS)
        task = self._loop.create_task(self._prepare(**order))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _prepare(self, change: int, folder: str, source: str, other_labels: bool) -> None:
        try:
            engine = await asyncio.to_thread(self._inference.model_slots.prepare, Path(folder), other_labels)
        except (BusyError, PrunellaError) as error:
            status = 409 if isinstance(error, CheckError | BusyError) else 422
            reason = str(error).replace(folder, source)[:LONGEST_REASON]
            self._report("refused", change=change, reason=reason, status=status)
        except Exception as error:
            self._report("refused", change=change, reason=f"{type(error).__name__}: {error}", status=409)
            raise
        else:
            if change == self._latest_change:  # otherwise it was aborted while the model was loading
                self._prepared = change, engine
                self._report("prepared", change=change)

    def _do_commit(self, change: int, previous: str | None) -> None:
        assert self._prepared is not None, "a worker that commits has prepared"
        assert self._prepared[0] == change, "only one change is in progress at a time"
        self._inference.model_slots.activate(self._prepared[1], previous)
        self._prepared = None
        self._report("committed", change=change)

    def _do_abort(self, change: int) -> None:
        self._latest_change, self._prepared = -change, None

    def _do_forget(self, pids: list[int]) -> None:
        for pid in pids:
            self._inference.telemetry.forget(pid)
        self._report("forgot", pids=pids)

    def _do_answer(self, request: int, **answer: Any) -> None:
        future = self._requests.get(request)
        if future is not None and not future.done():
            future.set_result(answer)
