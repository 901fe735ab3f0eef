"""Lifecycle: decides how many workers run and which model they serve. A state machine: events in, actions out.

It starts no process, reads no clock and opens no file: service/process/supervisor.py performs the actions and reports
the events. Only one change (start, restart at SIGHUP, swap, rollback) is in progress at a time. Its bundle is staged,
then loaded by all workers, and then the change is committed for all of them or for none. A worker listens only after
it was ordered to serve, and never with a model other than the accepted one.
"""

from typing import Any

from service.process.actions import Action, Change, Discard, Kill, Kind, Log, Model, Ready, Send, Stage, State, Worker
from service.process.worker_restarts import Roster

FAILED_STARTS = 5  # of one worker in a row, while no other worker serves, before the server ends
CHANGE_SECONDS = 600.0  # a change that takes longer is aborted
COMMIT_SECONDS = 30.0  # a worker that does not commit within this time is stuck, and is killed
CRASHES = 3  # of new workers by a signal (for example out of memory), before a restart is aborted
PATIENT_SECONDS = 20.0  # while new workers start, which takes cores from the serving ones, texts may wait longer


class Lifecycle:
    """`count` workers that serve the model accepted last.

    Args:
        count: number of workers.
        spec: the bundle folder or tag that the server was started with; resolved again at each SIGHUP.
        grace_seconds: time that a worker has to end after SIGTERM, before it is killed.
    """

    def __init__(self, count: int, spec: str, grace_seconds: float) -> None:
        self.count, self.spec = count, spec
        self._roster = Roster(count, grace_seconds)
        self.workers, self._do, self._start = self._roster.workers, self._roster.do, self._roster.start
        self.accepted: Model | None = None
        self.previous: Model | None = None
        self.exit_code = 0
        self.ending = False
        self._change: Change | None = None
        self._fingerprint = ""  # of the bundle that `spec` named when the accepted model was chosen
        self._restart_requested = False
        self._deferred: list[tuple[int, dict[str, Any]]] = []  # client requests that wait until a restart is over
        self._copies: list[Model] = []
        self._has_served = self._all_served = False

    @property
    def done(self) -> bool:
        """Whether the server has ended."""
        return self.ending and not self.workers

    def take_actions(self) -> list[Action]:
        """Return the actions to perform now, in order."""
        return self._roster.take_actions()

    # events

    def begin(self, now: float) -> None:
        """Start the server."""
        self._roster.now = now
        change = self._begin("start")
        self._do(Stage(change.number, self.spec, base=self.spec))

    def hang_up(self, now: float) -> None:
        """Handle SIGHUP: replace all workers; the new ones load another model if `spec` names another one now."""
        self._roster.now = now
        self._restart_requested = True  # several signals during one change cause one restart after it
        self._settle()

    def stop(self, now: float) -> None:
        """Handle SIGTERM: end the server after every admitted request is answered."""
        self._roster.now = now
        if not self.ending:
            self._do(Log("shutting down: draining in-flight requests"))
            self._end(0)

    def staged(self, number: int, model: Model | None, fingerprint: str, now: float) -> None:
        """Handle the result of a Stage action; `model` is None if no bundle had to be copied."""
        self._roster.now = now
        if model is not None:
            self._copies.append(model)
        change = self._change
        if change is not None and change.number == number:
            change.fingerprint = fingerprint
            change.model = model or change.model or self.accepted
            self._prepare(change)
        self._settle()

    def not_staged(self, number: int, reason: str, exit_code: int, now: float) -> None:
        """Handle the failure of a Stage action."""
        self._roster.now = now
        if self._change is not None and self._change.number == number:
            self._abort(reason, 422, exit_code)
        self._settle()

    def message_received(self, key: int, message: dict[str, Any], now: float) -> None:
        """Handle a message from a worker."""
        self._roster.now = now
        worker, change, event = self.workers[key], self._change, message["is"]
        if event == "loaded" and worker.state is State.LOADING:
            worker.state = State.LOADED
            if change is not None and worker.change == change.number:
                self._worker_done(change, key)
        elif event == "ready" and worker.state is State.OPENING:
            self._worker_serves(worker)
        elif event == "forgot":
            self._roster.dead -= set(message["pids"])
        elif event == "asked":
            self._change_requested(worker, message)
        elif change is not None and message.get("change") == change.number:
            if event == "refused":
                self._abort(message["reason"], message["status"])
            else:
                self._worker_done(change, key)
        self._settle()

    def died(self, key: int, code: int, pid: int, now: float) -> None:
        """Handle the end of a worker process; `code` is negative if a signal ended it."""
        self._roster.now = now
        worker, change = self.workers.pop(key), self._change
        self._roster.dead.add(pid)
        if worker.state is State.ENDING:
            if self.ending and worker.has_served:
                self.exit_code = max(self.exit_code, abs(code))
        elif change is not None and worker.change == change.number:
            self._new_worker_died(change, worker, code)
        elif not worker.has_served:
            self._start_failed(worker, code)
        else:
            self._do(Log("a worker died and is replaced", "error", {"worker": worker.slot, "exit_code": code}))
        if self._change is not None and key in self._change.waiting:
            self._participant_died(self._change, key, code)
        self._roster.forget_dead()
        self._settle()

    def tick(self, now: float) -> None:
        """Handle the passing of time: abort a late change, kill late workers, and end pauses before a start."""
        self._roster.now = now
        change = self._change
        if change is not None and change.phase == "committing" and now - change.since > COMMIT_SECONDS:
            for key in change.waiting:
                self._do(Kill(key))
        elif change is not None and now - change.since > CHANGE_SECONDS:
            self._abort(f"the change took longer than {CHANGE_SECONDS:.0f} s", 409)
        self._roster.kill_late()
        self._settle()

    # changes

    def _begin(self, kind: Kind, requester: int | None = None, request: int = 0) -> Change:
        self._change = Change(self._roster.next_number(), kind, self._roster.now, requester, request)
        self._discard_unused()
        return self._change

    def _change_requested(self, worker: Worker, message: dict[str, Any]) -> None:
        """Begin, defer or refuse the swap or rollback that a client of `worker` requests."""
        refusal = None
        if self.ending:
            refusal = ("the server is ending", 409)
        elif self._restart_requested or (self._change is not None and self._change.kind == "restart"):
            self._deferred.append((worker.key, message))
            return
        elif self._change is not None:
            refusal = ("another change of the model is under way", 409)
        elif message["kind"] == "rollback" and self.previous is None:
            refusal = ("there is no previous model to roll back to", 422)
        if refusal is not None:
            answer = {"do": "answer", "request": message["request"], "reason": refusal[0], "status": refusal[1]}
            self._do(Send(worker.key, answer))
            return
        change = self._begin(message["kind"], worker.key, message["request"])
        change.other_labels = message["kind"] == "rollback" or message["other_labels"]
        change.model = self.previous if message["kind"] == "rollback" else None
        self._do(Stage(change.number, message["bundle"], base=self.spec))

    def _prepare(self, change: Change) -> None:
        """Order all workers to load the staged model, or start new workers that load it."""
        assert change.model is not None, "it was staged"
        change.phase, change.since = "preparing", self._roster.now
        if change.kind == "start":
            self._accept(change)
            self._change = None
        elif change.kind == "restart":
            self._do(Log("restarting workers", fields={"bundle": change.model.id}))
            for worker in self._roster.active():
                self._do(Send(worker.key, {"do": "patient", "seconds": PATIENT_SECONDS}))
            change.waiting = {self._start(slot, change.model, change.number) for slot in range(self.count)}
        else:
            change.waiting = {worker.key for worker in self._roster.active()}
            order = {"do": "prepare", "change": change.number, "folder": change.model.folder}
            order |= {"source": change.model.source, "other_labels": change.other_labels}
            for key in change.waiting:
                self._do(Send(key, order))
            change.participants = set(change.waiting)
            if not change.waiting:
                self._abort("no worker is ready to change its model", 409)

    def _participant_died(self, change: Change, key: int, code: int) -> None:
        """Handle the death of a worker that has not answered its order of the current change."""
        if change.phase == "committing":
            self._worker_done(change, key)
        else:
            self._abort(f"a worker ended with code {code} while it loaded the model; nothing was changed", 409)

    def _worker_done(self, change: Change, key: int) -> None:
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
            self.workers[key].model = change.model
            self._do(Send(key, {"do": "commit", "change": change.number, **self._previous_id()}))
        if not change.waiting:  # all participants have ended or were replaced
            self._committed(change)

    def _committed(self, change: Change) -> None:
        self._change = None
        self._reply(change, {"id": change.model and change.model.id})

    def _commit_restart(self, change: Change) -> None:
        """Let the new workers serve; each old worker ends when its successor serves."""
        self._accept(change)
        self._change = None
        for worker in list(self.workers.values()):
            if worker.change == change.number:
                worker.change = None  # _settle opens it: its model is the accepted one
            elif worker.has_served:
                worker.replaced = True
            else:
                self._terminate(worker)

    def _accept(self, change: Change) -> None:
        if change.model is not self.accepted:
            self.previous, self.accepted = self.accepted, change.model
        self._fingerprint = change.fingerprint

    def _abort(self, reason: str, status: int, exit_code: int = 1) -> None:
        """Abort the change: the workers and the model stay as they were."""
        change = self._change
        assert change is not None, "a change is in progress"
        self._change = None
        if change.kind == "start":
            self._do(Log(reason, "fatal"))
            self._end(exit_code)
        elif change.kind == "restart":
            self._do(Log("the restart failed and the workers stay as they were", "error", {"reason": reason}))
            for worker in [w for w in self.workers.values() if w.change == change.number]:
                self._terminate(worker)
        else:
            for key in change.participants & self.workers.keys():
                self._do(Send(key, {"do": "abort", "change": change.number}))
            self._reply(change, {"reason": reason, "status": status})

    def _reply(self, change: Change, answer: dict[str, Any]) -> None:
        if change.requester in self.workers:
            self._do(Send(change.requester, {"do": "answer", "request": change.request, **answer}))

    # workers

    def _settle(self) -> None:
        """Begin the next change, open loaded workers, and start missing ones."""
        if self.ending:
            return
        if self._restart_requested and self._change is None:
            self._restart_requested = False
            change = self._begin("restart")
            self._do(Stage(change.number, None, base=self.spec, known=self._fingerprint))
        while self._deferred and self._change is None:
            key, message = self._deferred.pop(0)
            if key in self.workers:
                self._change_requested(self.workers[key], message)
        for worker in [w for w in self.workers.values() if w.state is State.LOADED]:
            self._open(worker)
        if self.accepted is not None:
            for slot in self._roster.empty_slots():
                self._start(slot, self.accepted)

    def _open(self, worker: Worker) -> None:
        """Order a loaded worker to serve, unless it waits for a restart or a swap; end it if it is outdated."""
        change = self._change
        swapping = change is not None and change.phase == "preparing" and change.kind != "restart"
        if worker.change is not None or swapping:
            return
        if worker.model is not self.accepted:
            self._terminate(worker)
            return
        worker.state = State.OPENING
        self._do(Send(worker.key, {"do": "serve", **self._previous_id()}))

    def _worker_serves(self, worker: Worker) -> None:
        """Handle the report that a worker listens: end its predecessor."""
        worker.state, worker.has_served, self._has_served = State.SERVING, True, True
        self._roster.failures[worker.slot] = 0
        if not worker.replaced:
            for other in list(self.workers.values()):
                if other.slot == worker.slot and other is not worker and other.change is None:
                    self._terminate(other)
        self._roster.forget_dead()
        if not self._all_served and len(self._roster.serving()) == self.count:
            self._all_served = True
            self._do(Ready())

    def _new_worker_died(self, change: Change, worker: Worker, code: int) -> None:
        """Handle the death of a restart's new worker: start it again if a signal killed it, otherwise abort.

        A worker that exits by itself has refused the bundle, and the next one would refuse it too.
        """
        change.crashes += 1
        if code >= 0 or change.crashes > CRASHES:
            self._abort(f"a new worker ended with code {code} before it was ready", 409)
            return
        change.waiting.discard(worker.key)
        change.waiting.add(self._start(worker.slot, worker.model, change.number))

    def _start_failed(self, worker: Worker, code: int) -> None:
        """Try again after a pause; if no worker serves, end at the first start or after several failures."""
        failures = self._roster.note_failed_start(worker.slot)
        if not self._roster.serving() and (not self._has_served or failures >= FAILED_STARTS):
            self._end(code if code > 0 else 1)
        else:
            fields = {"worker": worker.slot, "exit_code": code, "failures": failures}
            self._do(Log("a worker did not start and is tried again after a pause", "error", fields))

    def _terminate(self, worker: Worker) -> None:
        self._roster.terminate(worker)
        if self._change is not None and worker.key in self._change.waiting:
            self._worker_done(self._change, worker.key)

    def _end(self, exit_code: int) -> None:
        self.ending, self.exit_code = True, exit_code
        change, self._change = self._change, None
        for key, message in self._deferred:
            if key in self.workers:
                self._change_requested(self.workers[key], message)  # refuses it, because the server is ending
        if change is not None:
            self._reply(change, {"reason": "the server is ending", "status": 409})
        for worker in list(self.workers.values()):
            self._terminate(worker)

    def _previous_id(self) -> dict[str, str | None]:
        return {"previous": self.previous.id if self.previous is not None else None}

    def _discard_unused(self) -> None:
        """Remove the copies that are not in use; called when a new change begins."""
        used = [self.accepted, self.previous, *(worker.model for worker in self.workers.values())]
        for model in [copy for copy in self._copies if not any(copy is one for one in used)]:
            self._copies.remove(model)
            self._do(Discard(model))
