"""Lifecycle: decides how many workers run and which model they serve. A state machine: events in, actions out.

It starts no process, reads no clock and opens no file: service/process/supervisor.py performs the actions and reports
the events. Only one change (start, restart at SIGHUP, swap, rollback) is in progress at a time, for all workers or
for none (service/process/model_changes.py). A worker listens only after it was ordered to serve, and never with a
model other than the accepted one.
"""

from typing import Any

from service.process.actions import Action, Change, Kill, Log, Model, Ready, Send, State, Worker
from service.process.model_changes import ModelChanges
from service.process.worker_restarts import Roster

FAILED_STARTS = 5  # of one worker in a row, while no other worker serves, before the server ends
CHANGE_SECONDS = 600.0  # a change that takes longer is aborted
COMMIT_SECONDS = 30.0  # a worker that does not commit within this time is stuck, and is killed


class Lifecycle:
    """`count` workers that serve the model accepted last.

    Args:
        count: number of workers.
        spec: the bundle folder or tag that the server was started with; resolved again at each SIGHUP.
        grace_seconds: time that a worker has to end after SIGTERM, before it is killed.
    """

    def __init__(self, count: int, spec: str, grace_seconds: float) -> None:
        self.count = count
        self._roster = Roster(count, grace_seconds)
        self.workers, self._do = self._roster.workers, self._roster.do
        self.changes = ModelChanges(self._roster, count, spec)
        self.exit_code = 0
        self.ending = False
        self._restart_requested = False
        self._deferred: list[tuple[int, dict[str, Any]]] = []  # client requests that wait until a restart is over
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
        self.changes.start()

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
        self.changes.staged(number, model, fingerprint)
        self._settle()

    def not_staged(self, number: int, reason: str, exit_code: int, now: float) -> None:
        """Handle the failure of a Stage action."""
        self._roster.now = now
        change = self.changes.current
        if change is not None and change.number == number:
            self._abort(change, reason, 422, exit_code)
        self._settle()

    def message_received(self, key: int, message: dict[str, Any], now: float) -> None:
        """Handle a message from a worker."""
        self._roster.now = now
        worker, change, event = self.workers[key], self.changes.current, message["is"]
        if event == "loaded" and worker.state is State.LOADING:
            worker.state = State.LOADED
            if change is not None and worker.change == change.number:
                self.changes.worker_done(change, key)
        elif event == "ready" and worker.state is State.OPENING:
            self._worker_serves(worker)
        elif event == "forgot":
            self._roster.dead -= set(message["pids"])
        elif event == "asked":
            self._change_requested(worker, message)
        elif change is not None and message.get("change") == change.number:
            if event == "refused":
                self.changes.abort(change, message["reason"], message["status"])
            else:
                self.changes.worker_done(change, key)
        self._settle()

    def died(self, key: int, code: int, pid: int, now: float) -> None:
        """Handle the end of a worker process; `code` is negative if a signal ended it."""
        self._roster.now = now
        worker, change = self.workers.pop(key), self.changes.current
        self._roster.dead.add(pid)
        if worker.state is State.ENDING:
            if self.ending and worker.has_served:
                self.exit_code = max(self.exit_code, abs(code))
        elif change is not None and worker.change == change.number:
            self.changes.new_worker_died(change, worker, code)
        elif not worker.has_served:
            self._start_failed(worker, code)
        else:
            self._do(Log("a worker died and is replaced", "error", {"worker": worker.slot, "exit_code": code}))
        change = self.changes.current
        if change is not None and key in change.waiting:
            self.changes.worker_died(change, key, code)
        self._roster.forget_dead()
        self._settle()

    def tick(self, now: float) -> None:
        """Handle the passing of time: abort a late change, kill late workers, and end pauses before a start."""
        self._roster.now = now
        change = self.changes.current
        if change is not None and change.phase == "committing" and now - change.since > COMMIT_SECONDS:
            for key in change.waiting:
                self._do(Kill(key))
        elif change is not None and now - change.since > CHANGE_SECONDS:
            self._abort(change, f"the change took longer than {CHANGE_SECONDS:.0f} s", 409)
        self._roster.kill_late()
        self._settle()

    # changes

    def _change_requested(self, worker: Worker, message: dict[str, Any]) -> None:
        """Begin, defer or refuse the swap or rollback that a client of `worker` requests."""
        change = self.changes.current
        if self.ending:
            self.changes.refuse(worker, message, "the server is ending", 409)
        elif self._restart_requested or (change is not None and change.kind == "restart"):
            self._deferred.append((worker.key, message))
        else:
            self.changes.replace_model(worker, message)

    def _abort(self, change: Change, reason: str, status: int, exit_code: int = 1) -> None:
        """Abort a change; if it is the start, there is no model to serve, and the server ends."""
        if change.kind == "start":
            self._do(Log(reason, "fatal"))
            self._end(exit_code)
        else:
            self.changes.abort(change, reason, status)

    # workers

    def _settle(self) -> None:
        """Begin the next change, open loaded workers, and start missing ones."""
        if self.ending:
            return
        if self._restart_requested and self.changes.current is None:
            self._restart_requested = False
            self.changes.restart()
        while self._deferred and self.changes.current is None:
            key, message = self._deferred.pop(0)
            if key in self.workers:
                self._change_requested(self.workers[key], message)
        for worker in [w for w in self.workers.values() if w.state is State.LOADED]:
            self._open(worker)
        if self.changes.accepted is not None:
            for slot in self._roster.empty_slots():
                self._roster.start(slot, self.changes.accepted)

    def _open(self, worker: Worker) -> None:
        """Order a loaded worker to serve, unless it waits for a restart or a swap; end it if it is outdated."""
        change = self.changes.current
        swapping = change is not None and change.phase == "preparing" and change.kind != "restart"
        if worker.change is not None or swapping:
            return
        if worker.model is not self.changes.accepted:
            self.changes.terminate(worker)
            return
        worker.state = State.OPENING
        self._do(Send(worker.key, {"do": "serve", **self.changes.previous_id()}))

    def _worker_serves(self, worker: Worker) -> None:
        """Handle the report that a worker listens: end its predecessor."""
        worker.state, worker.has_served, self._has_served = State.SERVING, True, True
        self._roster.failures[worker.slot] = 0
        if not worker.replaced:
            for other in list(self.workers.values()):
                if other.slot == worker.slot and other is not worker and other.change is None:
                    self.changes.terminate(other)
        self._roster.forget_dead()
        if not self._all_served and len(self._roster.serving()) == self.count:
            self._all_served = True
            self._do(Ready())

    def _start_failed(self, worker: Worker, code: int) -> None:
        """Try again after a pause; if no worker serves, end at the first start or after several failures."""
        failures = self._roster.note_failed_start(worker.slot)
        if not self._roster.serving() and (not self._has_served or failures >= FAILED_STARTS):
            self._end(code if code > 0 else 1)
        else:
            fields = {"worker": worker.slot, "exit_code": code, "failures": failures}
            self._do(Log("a worker did not start and is tried again after a pause", "error", fields))

    def _end(self, exit_code: int) -> None:
        self.ending, self.exit_code = True, exit_code
        for key, message in self._deferred:
            if key in self.workers:
                self._change_requested(self.workers[key], message)  # refuses it, because the server is ending
        self.changes.end()
        for worker in list(self.workers.values()):
            self.changes.terminate(worker)
