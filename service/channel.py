"""Channel: a worker's end of the pair of sockets to its supervisor, and what a worker does at its word.

Messages are JSON objects, one a packet; service/lifecycle.py is the other side. `is` says what a worker reports
(loaded, ready, asked, prepared, refused, committed, forgot), `do` what it must do (serve, patient, prepare, commit,
abort, forget, answer).
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
from service.desk import Desk
from service.engine import Engine
from service.rotation import BusyError

LONGEST_MESSAGE = 1 << 16  # bytes
LONGEST_REASON = 4000  # characters
CHANGE_SECONDS = 5.0  # a new model takes cores away from the current one for about so long


class Channel:
    """Speaks with the supervisor."""

    def __init__(self, connection: socket.socket, desk: Desk) -> None:
        self._connection, self._desk = connection, desk
        self._prepared: tuple[int, Engine] | None = None
        self._newest = 0  # number of the change that was called for last
        self._requests: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = count()
        self._tasks: set[asyncio.Task[None]] = set()

    def wait_to_serve(self) -> bool:
        """Report that the model is loaded and wait for the word to serve it; False: the supervisor is gone."""
        self._report("loaded")
        content = self._connection.recv(LONGEST_MESSAGE)
        if content:
            self._desk.rotation.previous_id = json.loads(content)["previous"]
        return bool(content)

    def begin(self, orphaned: Callable[[], None]) -> None:
        """Report that this worker listens, and take orders from now on; `orphaned`: when the supervisor is gone."""
        self._orphaned = orphaned
        self._connection.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._connection.fileno(), self._hear)
        self._report("ready")

    async def change(self, kind: str, bundle: str | None, other_labels: bool) -> dict[str, Any]:
        """Let the supervisor change the model of all workers; return its answer: `id`, or `reason` and `status`."""
        request = next(self._numbers)
        answer = self._requests[request] = asyncio.get_running_loop().create_future()
        self._report("asked", request=request, kind=kind, bundle=bundle, other_labels=other_labels)
        try:
            return await answer
        finally:
            del self._requests[request]

    def _report(self, what: str, **told: Any) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it is gone, which the next read says
            self._connection.send(json.dumps({"is": what, **told}).encode())

    def _hear(self) -> None:
        try:
            content = self._connection.recv(LONGEST_MESSAGE)
        except BlockingIOError:
            return
        except ConnectionResetError:
            content = b""
        if not content:
            self._loop.remove_reader(self._connection.fileno())
            self._orphaned()
            return
        order = json.loads(content)
        getattr(self, f"_do_{order.pop('do')}")(**order)

    def _do_patient(self, seconds: float) -> None:
        self._desk.runners.be_patient(seconds)

    def _do_prepare(self, **order: Any) -> None:
        self._newest = order["change"]
        self._desk.runners.be_patient(CHANGE_SECONDS)
        task = self._loop.create_task(self._prepare(**order))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _prepare(self, change: int, folder: str, source: str, other_labels: bool) -> None:
        try:
            engine = await asyncio.to_thread(self._desk.rotation.prepare, Path(folder), other_labels)
        except (BusyError, PrunellaError) as error:
            status = 409 if isinstance(error, CheckError | BusyError) else 422
            reason = str(error).replace(folder, source)[:LONGEST_REASON]
            self._report("refused", change=change, reason=reason, status=status)
        except Exception as error:
            self._report("refused", change=change, reason=f"{type(error).__name__}: {error}", status=409)
            raise
        else:
            if change == self._newest:  # else it was given up meanwhile
                self._prepared = change, engine
                self._report("prepared", change=change)

    def _do_commit(self, change: int, previous: str | None) -> None:
        assert self._prepared is not None, "every worker that commits has prepared"
        assert self._prepared[0] == change, "changes come one after the other"
        self._desk.rotation.take(self._prepared[1], previous)
        self._prepared = None
        self._report("committed", change=change)

    def _do_abort(self, change: int) -> None:
        self._newest, self._prepared = -change, None

    def _do_forget(self, pids: list[int]) -> None:
        for pid in pids:
            self._desk.telemetry.forget(pid)
        self._report("forgot", pids=pids)

    def _do_answer(self, request: int, **answer: Any) -> None:
        waiting = self._requests.get(request)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)
