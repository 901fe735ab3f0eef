"""Roster: the worker processes, and the actions that start and end them. The lifecycle owns one roster."""

from collections import defaultdict

from service.process.actions import Action, Kill, Model, Send, Start, State, Terminate, Worker

LONGEST_PAUSE = 60.0  # seconds between two attempts to start a worker
ACTIVE = (State.OPENING, State.SERVING)


class Roster:
    """Workers by key, in `count` slots.

    Args:
        count: number of slots.
        grace_seconds: time that a worker has to end after SIGTERM, before it is killed.
    """

    def __init__(self, count: int, grace_seconds: float) -> None:
        self.workers: dict[int, Worker] = {}
        self.failures: dict[int, int] = defaultdict(int)  # slot -> failed starts in a row
        self.dead: set[int] = set()  # ids of ended processes that are still in the metrics
        self.now = 0.0
        self._count, self._grace_seconds = count, grace_seconds
        self._next_start: dict[int, float] = defaultdict(float)
        self._numbers = 0
        self._actions: list[Action] = []

    def do(self, action: Action) -> None:
        """Queue an action."""
        self._actions.append(action)

    def take_actions(self) -> list[Action]:
        """Return the actions since the last call, in order."""
        actions, self._actions = self._actions, []
        return actions

    def next_number(self) -> int:
        """Return a number that was not returned before; it identifies a worker or a change."""
        self._numbers += 1
        return self._numbers

    def start(self, slot: int, model: Model, change: int | None = None) -> int:
        """Start a worker and return its key."""
        key = self.next_number()
        self.workers[key] = Worker(key, slot, model, change=change)
        self.do(Start(key, slot, model))
        return key

    def terminate(self, worker: Worker) -> None:
        """End a worker with SIGTERM; `kill_late` kills it if it does not end in time."""
        if worker.state is not State.ENDING:
            worker.state, worker.kill_at = State.ENDING, self.now + self._grace_seconds
            self.do(Terminate(worker.key))

    def kill_late(self) -> None:
        """Kill the workers whose time to end is over."""
        for worker in self.workers.values():
            if worker.state is State.ENDING and self.now > worker.kill_at:
                self.do(Kill(worker.key))

    def empty_slots(self) -> list[int]:
        """Return the slots in which a worker may be started now.

        A worker that is ending, or that ends when its successor serves, does not occupy its slot. After a failed
        start the slot stays empty for a pause.
        """
        occupied = {w.slot for w in self.workers.values() if w.state is not State.ENDING and not w.replaced}
        return [n for n in range(self._count) if n not in occupied and self.now >= self._next_start[n]]

    def note_failed_start(self, slot: int) -> int:
        """Delay the next start in this slot, twice as long after each failure; return the failures in a row."""
        failures = self.failures[slot] = self.failures[slot] + 1
        self._next_start[slot] = self.now + min(LONGEST_PAUSE, 2.0 ** (failures - 1))
        return failures

    def active(self) -> list[Worker]:
        """Return the workers that accept requests, or are about to."""
        return [worker for worker in self.workers.values() if worker.state in ACTIVE]

    def serving(self) -> list[Worker]:
        """Return the workers that accept requests."""
        return [worker for worker in self.workers.values() if worker.state is State.SERVING]

    def forget_dead(self) -> None:
        """Order a worker to remove the ended processes from the metrics.

        The lifecycle calls this whenever a worker dies or begins to serve, so that the order is repeated until a
        worker reports that it has executed it.
        """
        if self.dead and (serving := self.serving()):
            self.do(Send(serving[0].key, {"do": "forget", "pids": sorted(self.dead)}))
