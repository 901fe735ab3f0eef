"""Roster: the workers that there are, and the actions that start and end them; part of the lifecycle."""

from collections import defaultdict

from service.actions import Action, Kill, Model, Send, Start, State, Terminate, Worker

LONGEST_PAUSE = 60.0  # seconds between two attempts to start a worker
UP = (State.OPENING, State.SERVING)


class Roster:
    """Workers by key, in `count` slots."""

    def __init__(self, count: int, patience: float) -> None:
        self.workers: dict[int, Worker] = {}
        self.failures: dict[int, int] = defaultdict(int)  # slot -> starts in a row that failed
        self.dead: set[int] = set()  # process ids that are still in the metrics
        self.now = 0.0
        self._count, self._patience = count, patience
        self._next_start: dict[int, float] = defaultdict(float)
        self._numbers = 0
        self._actions: list[Action] = []

    def do(self, action: Action) -> None:
        """Want an action performed."""
        self._actions.append(action)

    def take_actions(self) -> list[Action]:
        """Return the actions since the last call, in order."""
        actions, self._actions = self._actions, []
        return actions

    def next_number(self) -> int:
        """Return a number that nothing else has."""
        self._numbers += 1
        return self._numbers

    def start(self, slot: int, model: Model, change: int | None = None) -> int:
        """Start a worker and return its key."""
        key = self.next_number()
        self.workers[key] = Worker(key, slot, model, change=change)
        self.do(Start(key, slot, model))
        return key

    def terminate(self, worker: Worker) -> None:
        """Tell a worker to end; it is killed when it does not."""
        if worker.state is not State.ENDING:
            worker.state, worker.kill_at = State.ENDING, self.now + self._patience
            self.do(Terminate(worker.key))

    def kill_late(self) -> None:
        """Kill the workers that were told to end long ago."""
        for worker in self.workers.values():
            if worker.state is State.ENDING and self.now > worker.kill_at:
                self.do(Kill(worker.key))

    def vacant(self) -> list[int]:
        """Return the slots that have no worker, or one that ends when it has a successor, and may get one now."""
        taken = {w.slot for w in self.workers.values() if w.state is not State.ENDING and not w.replaced}
        return [n for n in range(self._count) if n not in taken and self.now >= self._next_start[n]]

    def failed_start(self, slot: int) -> int:
        """Let the next attempt to start a worker wait, longer each time; return how many failed in a row."""
        failures = self.failures[slot] = self.failures[slot] + 1
        self._next_start[slot] = self.now + min(LONGEST_PAUSE, 2.0 ** (failures - 1))
        return failures

    def up(self) -> list[Worker]:
        """Return the workers that accept requests, or are about to."""
        return [worker for worker in self.workers.values() if worker.state in UP]

    def serving(self) -> list[Worker]:
        """Return the workers that accept requests."""
        return [worker for worker in self.workers.values() if worker.state is State.SERVING]

    def bury(self) -> None:
        """Let a worker take the dead out of the metrics; another one is told again if it dies before it did so."""
        if self.dead and (serving := self.serving()):
            self.do(Send(serving[0].key, {"do": "forget", "pids": sorted(self.dead)}))
