"""Rotation: the model that answers, the one before it, and a candidate that is tried in the shadow."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from models.errors import InputError
from models.task import Task
from service.bundle import Bundle
from service.engine import Engine
from service.runtime import RuntimeSettings

log = logging.getLogger("prunella")


class BusyError(Exception):
    """Another change of the model is under way."""


class Supervisor(Protocol):
    """Changes the model of all workers."""

    async def change(self, kind: str, bundle: str | None, other_labels: bool) -> dict[str, Any]:
        """Return `id`, or `reason` and `status` where it was refused."""


class Rotation:
    """Which engines there are. A change is one assignment, so that every request sees one model, old or new.

    Where a supervisor is, it decides which model all workers serve: service/lifecycle.py calls for `prepare` and
    `take` through service/channel.py. Without one (`bentoml serve --reload`, tests) `swap` and `roll_back` do both.
    """

    def __init__(self, engine: Engine, runtime: RuntimeSettings, changed: Callable[[Engine], None]) -> None:
        self.current = engine
        self.previous: Engine | None = None  # stays loaded, so that a rollback takes no time
        self.previous_id: str | None = None  # of the model that a rollback brings back, loaded here or not
        self.candidate: Engine | None = None
        self.supervisor: Supervisor | None = None
        self.share = 0.0  # of requests that the candidate answers too
        self._runtime, self._changed = runtime, changed
        self._one_at_a_time = threading.Lock()

    def prepare(self, folder: Path, other_labels: bool = False) -> Engine:
        """Open a bundle beside the current one and check it; takes seconds, unless it is the one before.

        Raises:
            BusyError: another change is under way.
            PrunellaError: the bundle is not whole, fails its self-check, or its answers mean something else and may
                not.
        """
        with self._alone():
            if self.previous is not None and self.previous.bundle.folder.path == folder:
                return self.previous
            return self._open(folder, other_labels)

    def take(self, engine: Engine, previous_id: str | None = None) -> None:
        """Let an engine that was prepared answer from now on."""
        if engine is not self.current:
            self.previous, self.current = self.current, engine
        if previous_id is None and self.previous is not None:
            previous_id = self.previous.bundle.id
        self.previous_id = previous_id
        if self.candidate is not None and meaning(self.candidate.bundle.task) != meaning(engine.bundle.task):
            self.candidate, self.share = None, 0.0  # its answers cannot be compared with this model's
        self._changed(engine)
        log.info("model %s answers, %s is kept", engine.bundle.id, self.previous_id)

    def swap(self, folder: Path, other_labels: bool = False) -> Engine:
        """Let a bundle answer from now on in this process.

        Raises:
            BusyError, PrunellaError: as `prepare`.
        """
        engine = self.prepare(folder, other_labels)
        self.take(engine)
        return engine

    def roll_back(self) -> Engine:
        """Let the model before answer again in this process.

        Raises:
            BusyError: another change is under way.
            InputError: there is none.
        """
        if self.previous is None:
            raise InputError("there is no model before this one")
        with self._alone():
            self.take(self.previous)
            return self.current

    def shadow(self, folder: Path | None, share: float) -> Engine | None:
        """Let a bundle answer a share of the requests too, unseen; None ends it.

        Raises:
            BusyError: another change is under way.
            PrunellaError: the bundle is not whole, fails its self-check, or its answers mean something else.
        """
        with self._alone():
            found = None if folder is None else self._open(folder, other_labels=False)
            self.candidate, self.share = found, share if found else 0.0
            return found

    def _open(self, folder: Path, other_labels: bool) -> Engine:
        bundle = Bundle.open(folder)
        now, new = self.current.bundle.task, bundle.task
        if not other_labels and meaning(now) != meaning(new):
            raise InputError(
                f"{folder} is for {_described(new)}, and what is served is for {_described(now)}: "
                "set other_labels if clients know that answers will mean something else"
            )
        engine = Engine.open(bundle, self._runtime)
        engine.self_check()  # also the warm-up
        return engine

    def _alone(self) -> "_Alone":
        return _Alone(self._one_at_a_time)


def meaning(task: Task) -> tuple[object, ...]:
    """Return what must be equal for clients to read the answers of two models alike.

    `kind` says whether scores share one softmax, are independent, or are a number; the order of labels is that of the
    scores in the Open Inference Protocol. Thresholds and the longest input are the model's own business.
    """
    return task.kind, task.labels, task.pair


def _described(task: Task) -> str:
    inputs = "pairs" if task.pair else "single texts"
    if task.kind == "regression":
        return f"{inputs} and answers with a number ({task.labels[0]})"
    most = "one" if task.kind == "single" else "any number"
    return f"{inputs} and answers with {most} of the labels {', '.join(task.labels)}"


class _Alone:
    """The lock of changes, which nobody waits for."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise BusyError("another change of the model is under way")

    def __exit__(self, *_: object) -> None:
        self._lock.release()
