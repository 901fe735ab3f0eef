"""ModelChanges: the change of the model or of the workers that is in progress, and the models that are in use.

A change (start, restart, swap, rollback) is staged: its bundle is copied. Then all workers load it, or new workers
do. Then it is committed for all of them or for none. The lifecycle owns one object.
"""

from typing import Any

from service.process.actions import Change, Discard, Kind, Log, Model, Send, Stage, Worker
from service.process.worker_restarts import Roster

CRASHES = 3  # of new workers by a signal (for example out of memory), before a restart is aborted
PATIENT_SECONDS = 20.0  # while new workers start, which takes cores from the serving ones, texts may wait longer


class ModelChanges:
    """At most one change at a time.

    Args:
        roster: the workers.
        count: number of workers that a restart starts.
        spec: the bundle folder or tag that the server was started with; resolved again at each restart.
    """

    def __init__(self, roster: Roster, count: int, spec: str) -> None:
        self.current: Change | None = None
        self.accepted: Model | None = None  # the model of the last change that was committed
        self.previous: Model | None = None
        self._roster, self._do, self._count, self._spec = roster, roster.do, count, spec
        self._fingerprint = ""  # of the bundle that `spec` named when the accepted model was chosen
        self._copies: list[Model] = []

    # begin

    def start(self) -> None:
        """Begin the start of the server."""
        change = self._begin("start")
        self._do(Stage(change.number, self._spec, base=self._spec))

    def restart(self) -> None:
        """Begin the replacement of all workers; the new ones load another model if `spec` names another one now."""
        change = self._begin("restart")
        self._do(Stage(change.number, None, base=self._spec, known=self._fingerprint))

    def replace_model(self, worker: Worker, message: dict[str, Any]) -> None:
        """Begin the swap or rollback that a client of `worker` requests, or refuse it."""
        if self.current is not None:
            self.refuse(worker, message, "another change of the model is under way", 409)
            return
        if message["kind"] == "rollback" and self.previous is None:
            self.refuse(worker, message, "there is no previous model to roll back to", 422)
            return
        change = self._begin(message["kind"], worker.key, message["request"])
        change.other_labels = message["kind"] == "rollback" or message["other_labels"]
        change.model = self.previous if message["kind"] == "rollback" else None
        self._do(Stage(change.number, message["bundle"], base=self._spec))

    def refuse(self, worker: Worker, message: dict[str, Any], reason: str, status: int) -> None:
        """Refuse the change that a client of `worker` requests."""
        answer = {"do": "answer", "request": message["request"], "reason": reason, "status": status}
        self._do(Send(worker.key, answer))

    def _begin(self, kind: Kind, requester: int | None = None, request: int = 0) -> Change:
        self.current = Change(self._roster.next_number(), kind, self._roster.now, requester, request)
        self._discard_unused()
        return self.current

    # prepare

    def staged(self, number: int, model: Model | None, fingerprint: str) -> None:
        """Continue the change whose bundle is staged; `model` is None if no bundle had to be copied."""
        if model is not None:
            self._copies.append(model)
        change = self.current
        if change is not None and change.number == number:
            change.fingerprint = fingerprint
            change.model = model or change.model or self.accepted
            self._prepare(change)

    def _prepare(self, change: Change) -> None:
        """Order all workers to load the staged model, or start new workers that load it."""
        assert change.model is not None, "it was staged"
        change.phase, change.since = "preparing", self._roster.now
        if change.kind == "start":
            self._accept(change)
            self.current = None
        elif change.kind == "restart":
            self._do(Log("restarting workers", fields={"bundle": change.model.id}))
            for worker in self._roster.active():
                self._do(Send(worker.key, {"do": "patient", "seconds": PATIENT_SECONDS}))
            slots = range(self._count)
            change.waiting = {self._roster.start(slot, change.model, change.number) for slot in slots}
        else:
            change.waiting = {worker.key for worker in self._roster.active()}
            order = {"do": "prepare", "change": change.number, "folder": change.model.folder}
            order |= {"source": change.model.source, "other_labels": change.other_labels}
            for key in change.waiting:
                self._do(Send(key, order))
            change.participants = set(change.waiting)
            if not change.waiting:
                self.abort(change, "no worker is ready to change its model", 409)

    def worker_died(self, change: Change, key: int, code: int) -> None:
        """Handle the death of a worker that has not answered its order of the current change."""
        if change.phase == "committing":
            self.worker_done(change, key)
        else:
            reason = f"a worker ended with code {code} while it loaded the model; nothing was changed"
            self.abort(change, reason, 409)

    def new_worker_died(self, change: Change, worker: Worker, code: int) -> None:
        """Handle the death of a restart's new worker: start it again if a signal killed it, otherwise abort.

        A worker that exits by itself has refused the bundle, and the next one would refuse it too.
        """
        change.crashes += 1
        if code >= 0 or change.crashes > CRASHES:
            self.abort(change, f"a new worker ended with code {code} before it was ready", 409)
            return
        change.waiting.discard(worker.key)
        change.waiting.add(self._roster.start(worker.slot, worker.model, change.number))

    def terminate(self, worker: Worker) -> None:
        """End a worker; the current change no longer waits for it."""
        self._roster.terminate(worker)
        if self.current is not None and worker.key in self.current.waiting:
            self.worker_done(self.current, worker.key)

    # commit

    def worker_done(self, change: Change, key: int) -> None:
        """Stop waiting for a worker; after the last one, the change enters its next phase."""
        change.waiting.discard(key)
        if change.waiting:
            return
        if change.phase == "committing":
            self._committed(change)
        elif change.kind == "restart":
            self._commit_restart(change)
        else:
            self._commit_swap(change)

    def _commit_swap(self, change: Change) -> None:
        assert change.model is not None, "it was staged"
        self._accept(change)
        change.phase, change.since = "committing", self._roster.now
        change.waiting = {worker.key for worker in self._roster.active() if worker.key in change.participants}
        for key in change.waiting:
            self._roster.workers[key].model = change.model
            self._do(Send(key, {"do": "commit", "change": change.number, **self.previous_id()}))
        if not change.waiting:  # all participants have ended or were replaced
            self._committed(change)

    def _committed(self, change: Change) -> None:
        self.current = None
        self._reply(change, {"id": change.model and change.model.id})

    def _commit_restart(self, change: Change) -> None:
        """Let the new workers serve; each old worker ends when its successor serves."""
        self._accept(change)
        self.current = None
        for worker in list(self._roster.workers.values()):
            if worker.change == change.number:
                worker.change = None  # the lifecycle opens it: its model is the accepted one
            elif worker.has_served:
                worker.replaced = True
            else:
                self.terminate(worker)

    def _accept(self, change: Change) -> None:
        if change.model is not self.accepted:
            self.previous, self.accepted = self.accepted, change.model
        self._fingerprint = change.fingerprint

    def previous_id(self) -> dict[str, str | None]:
        """Return the part of an order that names the model to which a worker can roll back."""
        return {"previous": self.previous.id if self.previous is not None else None}

    # abort

    def abort(self, change: Change, reason: str, status: int) -> None:
        """Abort the current change, which is not the start: the workers and the model stay as they were."""
        self.current = None
        if change.kind == "restart":
            self._do(Log("the restart failed and the workers stay as they were", "error", {"reason": reason}))
            for worker in [w for w in self._roster.workers.values() if w.change == change.number]:
                self.terminate(worker)
        else:
            for key in change.participants & self._roster.workers.keys():
                self._do(Send(key, {"do": "abort", "change": change.number}))
            self._reply(change, {"reason": reason, "status": status})

    def end(self) -> None:
        """Give the current change up, because the server is ending."""
        change, self.current = self.current, None
        if change is not None:
            self._reply(change, {"reason": "the server is ending", "status": 409})

    def _reply(self, change: Change, answer: dict[str, Any]) -> None:
        if change.requester in self._roster.workers:
            self._do(Send(change.requester, {"do": "answer", "request": change.request, **answer}))

    def _discard_unused(self) -> None:
        """Remove the copies that are not in use; called when a new change begins."""
        used = [self.accepted, self.previous, *(worker.model for worker in self._roster.workers.values())]
        for model in [copy for copy in self._copies if not any(copy is one for one in used)]:
            self._copies.remove(model)
            self._do(Discard(model))
