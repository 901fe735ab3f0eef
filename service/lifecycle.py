"""Lifecycle: how many workers run, and which model they serve. A state machine: events in, actions out.

It starts no process, reads no clock and opens no file: service/supervisor.py performs the actions and reports the
events. One change at a time (start, restart at SIGHUP, swap, rollback) is staged, tried by all workers, and then
committed for all of them or for none. A worker listens only after it was told so, and never with a model that is
not the accepted one.
"""

from typing import Any

from service.actions import Action, Change, Discard, Kill, Kind, Log, Model, Ready, Send, Stage, State, Worker
from service.roster import Roster

FAILED_STARTS = 5  # of one worker in a row, with no other worker serving, before the server ends
CHANGE_SECONDS = 600.0  # a change that takes longer is given up
COMMIT_SECONDS = 30.0  # a worker that does not commit within this time is stuck, and is killed
CRASHES = 3  # of new workers by a signal (a kill, a lack of memory) before a restart is given up
PATIENT_SECONDS = 20.0  # workers let texts wait longer while others start, which takes cores away from them


class Lifecycle:
    """`count` workers that serve the model last accepted.

    Args:
        count: number of workers.
        spec: the bundle folder or tag that the server was started with; resolved again at each SIGHUP.
        patience: seconds in which a worker that was told to end must have ended, before it is killed.
    """

    def __init__(self, count: int, spec: str, patience: float) -> None:
        self.count, self.spec = count, spec
        self._roster = Roster(count, patience)
        self.workers, self._do, self._start = self._roster.workers, self._roster.do, self._roster.start
        self.accepted: Model | None = None
        self.previous: Model | None = None
        self.exit_code = 0
        self.ending = False
        self._change: Change | None = None
        self._fingerprint = ""  # of what `spec` named when the accepted model was decided on
        self._restart_wanted = False
        self._deferred: list[tuple[int, dict[str, Any]]] = []  # changes that clients want, until a restart is over
        self._copies: list[Model] = []
        self._has_served = self._all_served = False

    @property
    def done(self) -> bool:
        """Whether the server has ended."""
        return self.ending and not self.workers

    def take_actions(self) -> list[Action]:
        """Return what must be done now, in order."""
        return self._roster.take_actions()

    # events

    def begin(self, now: float) -> None:
        """Start the server."""
        self._roster.now = now
        change = self._begin("start")
        self._do(Stage(change.number, self.spec, base=self.spec))

    def hang_up(self, now: float) -> None:
        """Take SIGHUP: replace the workers, by those of another model if `spec` names another one now."""
        self._roster.now = now
        self._restart_wanted = True  # several signals during one change are one restart after it
        self._settle()

    def stop(self, now: float) -> None:
        """Take SIGTERM: end when everything that was admitted is answered."""
        self._roster.now = now
        if not self.ending:
            self._do(Log("shutting down: draining requests in flight"))
            self._end(0)

    def staged(self, number: int, model: Model | None, fingerprint: str, now: float) -> None:
        """Take the result of a Stage: the model, unless none was to be read or it is the known one."""
        self._roster.now = now
        if model is not None:
            self._copies.append(model)
        change = self._change
        if change is not None and change.number == number:
            change.fingerprint = fingerprint
            change.model = model or change.model or self.accepted
            self._try(change)
        self._settle()

    def not_staged(self, number: int, reason: str, exit_code: int, now: float) -> None:
        """Take the failure of a Stage."""
        self._roster.now = now
        if self._change is not None and self._change.number == number:
            self._abort(reason, 422, exit_code)
        self._settle()

    def heard(self, key: int, message: dict[str, Any], now: float) -> None:
        """Take a message of a worker."""
        self._roster.now = now
        worker, change, what = self.workers[key], self._change, message["is"]
        if what == "loaded" and worker.state is State.LOADING:
            worker.state = State.LOADED
            if change is not None and worker.change == change.number:
                self._answered(change, key)
        elif what == "ready" and worker.state is State.OPENING:
            self._serves(worker)
        elif what == "forgot":
            self._roster.dead -= set(message["pids"])
        elif what == "asked":
            self._asked(worker, message)
        elif change is not None and message.get("change") == change.number:
            if what == "refused":
                self._abort(message["reason"], message["status"])
            else:
                self._answered(change, key)
        self._settle()

    def died(self, key: int, code: int, pid: int, now: float) -> None:
        """Take the end of a worker's process; `code` is negative where a signal ended it."""
        self._roster.now = now
        worker, change = self.workers.pop(key), self._change
        self._roster.dead.add(pid)
        if worker.state is State.ENDING:
            if self.ending and worker.has_served:
                self.exit_code = max(self.exit_code, abs(code))
        elif change is not None and worker.change == change.number:
            self._newcomer_died(change, worker, code)
        elif not worker.has_served:
            self._start_failed(worker, code)
        else:
            self._do(Log("a worker died and is replaced", "error", {"worker": worker.slot, "exit_code": code}))
        if self._change is not None and key in self._change.waiting:
            self._lost(self._change, key, code)
        self._roster.bury()
        self._settle()

    def tick(self, now: float) -> None:
        """Let time pass: late changes are given up, late workers killed, and pauses before a start end."""
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

    def _begin(self, kind: Kind, asker: int | None = None, request: int = 0) -> Change:
        self._change = Change(self._roster.next_number(), kind, self._roster.now, asker, request)
        self._discard()
        return self._change

    def _asked(self, worker: Worker, message: dict[str, Any]) -> None:
        """Begin the swap or the rollback that a client of `worker` wants."""
        refusal = None
        if self.ending:
            refusal = ("the server is ending", 409)
        elif self._restart_wanted or (self._change is not None and self._change.kind == "restart"):
            self._deferred.append((worker.key, message))
            return
        elif self._change is not None:
            refusal = ("another change of the model is under way", 409)
        elif message["kind"] == "rollback" and self.previous is None:
            refusal = ("there is no model before this one", 422)
        if refusal is not None:
            answer = {"do": "answer", "request": message["request"], "reason": refusal[0], "status": refusal[1]}
            self._do(Send(worker.key, answer))
            return
        change = self._begin(message["kind"], worker.key, message["request"])
        change.other_labels = message["kind"] == "rollback" or message["other_labels"]
        change.model = self.previous if message["kind"] == "rollback" else None
        self._do(Stage(change.number, message["bundle"], base=self.spec))

    def _try(self, change: Change) -> None:
        """Let all workers load the model that was staged, or start new workers that do."""
        assert change.model is not None, "it was staged"
        change.phase, change.since = "trying", self._roster.now
        if change.kind == "start":
            self._accept(change)
            self._change = None
        elif change.kind == "restart":
            self._do(Log("restarting workers", told={"bundle": change.model.id}))
            for worker in self._roster.up():
                self._do(Send(worker.key, {"do": "patient", "seconds": PATIENT_SECONDS}))
            change.waiting = {self._start(slot, change.model, change.number) for slot in range(self.count)}
        else:
            change.waiting = {worker.key for worker in self._roster.up()}
            order = {"do": "prepare", "change": change.number, "folder": change.model.folder}
            order |= {"source": change.model.source, "other_labels": change.other_labels}
            for key in change.waiting:
                self._do(Send(key, order))
            change.tried = set(change.waiting)
            if not change.waiting:
                self._abort("no worker is ready to change its model", 409)

    def _lost(self, change: Change, key: int, code: int) -> None:
        """Take in that a worker died that had a part in a swap."""
        if change.phase == "committing":
            self._answered(change, key)
        else:
            self._abort(f"a worker ended with code {code} while it loaded the model; nothing was changed", 409)

    def _answered(self, change: Change, key: int) -> None:
        """Take in that a worker has done its part, or has none any more."""
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
        change.waiting = {worker.key for worker in self._roster.up() if worker.key in change.tried}
        for key in change.waiting:
            self.workers[key].model = change.model
            self._do(Send(key, {"do": "commit", "change": change.number, **self._before()}))
        if not change.waiting:  # all of them ended or were replaced meanwhile
            self._committed(change)

    def _committed(self, change: Change) -> None:
        self._change = None
        self._reply(change, {"id": change.model and change.model.id})

    def _commit_restart(self, change: Change) -> None:
        """Let the new workers serve; each one's predecessor ends when it does."""
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
        """Give the change up: everything stays as it was."""
        change = self._change
        assert change is not None, "there is one to give up"
        self._change = None
        if change.kind == "start":
            self._do(Log(reason, "sentence"))
            self._end(exit_code)
        elif change.kind == "restart":
            self._do(Log("the restart failed and the workers stay as they were", "error", {"reason": reason}))
            for worker in [w for w in self.workers.values() if w.change == change.number]:
                self._terminate(worker)
        else:
            for key in change.tried & self.workers.keys():
                self._do(Send(key, {"do": "abort", "change": change.number}))
            self._reply(change, {"reason": reason, "status": status})

    def _reply(self, change: Change, answer: dict[str, Any]) -> None:
        if change.asker in self.workers:
            self._do(Send(change.asker, {"do": "answer", "request": change.request, **answer}))

    # workers

    def _settle(self) -> None:
        """Bring what runs to what is wanted."""
        if self.ending:
            return
        if self._restart_wanted and self._change is None:
            self._restart_wanted = False
            change = self._begin("restart")
            self._do(Stage(change.number, None, base=self.spec, known=self._fingerprint))
        while self._deferred and self._change is None:
            key, message = self._deferred.pop(0)
            if key in self.workers:
                self._asked(self.workers[key], message)
        for worker in [w for w in self.workers.values() if w.state is State.LOADED]:
            self._open(worker)
        if self.accepted is not None:
            for slot in self._roster.vacant():
                self._start(slot, self.accepted)

    def _open(self, worker: Worker) -> None:
        """Let a worker that has loaded its model serve it, unless a change is being tried, or it is outdated."""
        change = self._change
        swapping = change is not None and change.phase == "trying" and change.kind != "restart"
        if worker.change is not None or swapping:
            return
        if worker.model is not self.accepted:
            self._terminate(worker)
            return
        worker.state = State.OPENING
        self._do(Send(worker.key, {"do": "serve", **self._before()}))

    def _serves(self, worker: Worker) -> None:
        """Take in that a worker listens."""
        worker.state, worker.has_served, self._has_served = State.SERVING, True, True
        self._roster.failures[worker.slot] = 0
        if not worker.replaced:
            for other in list(self.workers.values()):
                if other.slot == worker.slot and other is not worker and other.change is None:
                    self._terminate(other)
        self._roster.bury()
        if not self._all_served and len(self._roster.serving()) == self.count:
            self._all_served = True
            self._do(Ready())

    def _newcomer_died(self, change: Change, worker: Worker, code: int) -> None:
        """Take in that a worker of a restart did not get ready: what it refused itself, the next would refuse too."""
        change.crashes += 1
        if code >= 0 or change.crashes > CRASHES:
            self._abort(f"a new worker ended with code {code} before it was ready", 409)
            return
        change.waiting.discard(worker.key)
        change.waiting.add(self._start(worker.slot, worker.model, change.number))

    def _start_failed(self, worker: Worker, code: int) -> None:
        """Try again after a pause; where no worker serves, end at the first start, or after several attempts."""
        failures = self._roster.failed_start(worker.slot)
        if not self._roster.serving() and (not self._has_served or failures >= FAILED_STARTS):
            self._end(code if code > 0 else 1)
        else:
            told = {"worker": worker.slot, "exit_code": code, "failures": failures}
            self._do(Log("a worker did not start and is tried again after a pause", "error", told))

    def _terminate(self, worker: Worker) -> None:
        self._roster.terminate(worker)
        if self._change is not None and worker.key in self._change.waiting:
            self._answered(self._change, worker.key)

    def _end(self, exit_code: int) -> None:
        self.ending, self.exit_code = True, exit_code
        change, self._change = self._change, None
        for key, message in self._deferred:
            if key in self.workers:
                self._asked(self.workers[key], message)  # which refuses it now
        if change is not None:
            self._reply(change, {"reason": "the server is ending", "status": 409})
        for worker in list(self.workers.values()):
            self._terminate(worker)

    def _before(self) -> dict[str, str | None]:
        return {"previous": self.previous.id if self.previous is not None else None}

    def _discard(self) -> None:
        """Remove the copies that nobody needs; at the begin of a change, when the last one has long been left."""
        used = [self.accepted, self.previous, *(worker.model for worker in self.workers.values())]
        for model in [copy for copy in self._copies if not any(copy is one for one in used)]:
            self._copies.remove(model)
            self._do(Discard(model))
