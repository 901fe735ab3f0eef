"""ModelSlots: the current model, the previous one, and a candidate for shadow traffic."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from models.errors import InputError
from models.task import Task
from service.model.bundle import Bundle
from service.model.engine import Engine
from service.model.session import RuntimeSettings

log = logging.getLogger("prunella")
LOAD_SECONDS = 5.0  # while a new model loads, it takes cores from the current one for about this long


class BusyError(Exception):
    """Another change of the model is in progress."""


class Supervisor(Protocol):
    """Changes the model in all workers."""

    async def change(self, kind: str, bundle: str | None, other_labels: bool) -> dict[str, Any]:
        """Return `id`, or `reason` and `status` if the change was refused."""


class ModelSlots:
    """The loaded engines. A change is one assignment, so that each request sees one model, the old or the new one.

    If there is a supervisor, it decides which model all workers serve: service/process/model_changes.py orders
    `prepare` and `activate` through service/process/channel.py. Without a supervisor (`bentoml serve --reload`,
    tests), `swap` and `roll_back` do both.

    Args:
        engine: the current model.
        runtime: settings for the sessions of new models.
        changed: called with the engine that becomes the current one.
    """

    def __init__(self, engine: Engine, runtime: RuntimeSettings, changed: Callable[[Engine], None]) -> None:
        self.current = engine
        self.previous: Engine | None = None  # stays loaded, so that a rollback is immediate
        self.previous_id: str | None = (
            None  # of the model that a rollback activates; this process may not have loaded it
        )
        self.candidate: Engine | None = None
        self.supervisor: Supervisor | None = None
        self.share = 0.0  # of the requests that the candidate also answers
        self._runtime, self._changed = runtime, changed
        self._change_lock = threading.Lock()

    def prepare(self, folder: Path, other_labels: bool = False) -> Engine:
        """Load a bundle beside the current one and check it; takes seconds, unless it is the previous one.

        Raises:
            BusyError: another change is in progress.
            PrunellaError: the bundle is incomplete or fails its self-check, or its answers have another meaning and
                `other_labels` is not set.
        """
        with self._exclusive():
            if self.previous is not None and self.previous.bundle.folder.path == folder:
                return self.previous
            return self._open(folder, other_labels)

    def activate(self, engine: Engine, previous_id: str | None = None) -> None:
        """Make a prepared engine the current one."""
        if engine is not self.current:
            self.previous, self.current = self.current, engine
        if previous_id is None and self.previous is not None:
            previous_id = self.previous.bundle.id
        self.previous_id = previous_id
        if self.candidate is not None and meaning(self.candidate.bundle.task) != meaning(engine.bundle.task):
            self.candidate, self.share = None, 0.0  # its answers are not comparable with those of the new model
        self._changed(engine)
        log.info("current model: %s, previous model: %s", engine.bundle.id, self.previous_id)

    def swap(self, folder: Path, other_labels: bool = False) -> Engine:
        """Load a bundle and make it the current model of this process.

        Raises:
            BusyError, PrunellaError: as `prepare`.
        """
        engine = self.prepare(folder, other_labels)
        self.activate(engine)
        return engine

    def roll_back(self) -> Engine:
        """Make the previous model the current one again in this process.

        Raises:
            BusyError: another change is in progress.
            InputError: there is no previous model.
        """
        if self.previous is None:
            raise InputError("there is no previous model to roll back to")
        with self._exclusive():
            self.activate(self.previous)
            return self.current

    def shadow(self, folder: Path | None, share: float) -> Engine | None:
        """Load a bundle as the candidate for shadow traffic; None removes the candidate.

        Args:
            folder: the bundle.
            share: share of the requests that the candidate also answers.

        Raises:
            BusyError: another change is in progress.
            PrunellaError: the bundle is incomplete, fails its self-check, or its answers have another meaning.
        """
        with self._exclusive():
            engine = None if folder is None else self._open(folder, other_labels=False)
            self.candidate, self.share = engine, share if engine else 0.0
            return engine

    def _open(self, folder: Path, other_labels: bool) -> Engine:
        bundle = Bundle.open(folder)
        current, new = self.current.bundle.task, bundle.task
        if not other_labels and meaning(current) != meaning(new):
            raise InputError(
                f"{folder} is for {_description(new)}, and the current model is for {_description(current)}: "
                "set other_labels if clients know that answers will have another meaning"
            )
        engine = Engine.open(bundle, self._runtime)
        engine.self_check()  # also warms the model up
        return engine

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Hold the lock of model changes; raise BusyError instead of waiting for it."""
        if not self._change_lock.acquire(blocking=False):
            raise BusyError("another change of the model is under way")
        try:
            yield
        finally:
            self._change_lock.release()


def meaning(task: Task) -> tuple[object, ...]:
    """Return the properties that two models must share for clients to interpret their answers in the same way.

    `kind` and `function` say whether scores share one softmax, are independent, or are a number, and of which range;
    the order of labels is that of the scores in the Open Inference Protocol. Thresholds and the maximum input length
    may differ.
    """
    return task.kind, task.function, task.labels, task.pair


def _description(task: Task) -> str:
    inputs = "pairs" if task.pair else "single texts"
    if task.kind == "regression":
        return f"{inputs} and answers with a number ({task.labels[0]})"
    number = "one" if task.kind == "single" else "any number"
    return f"{inputs} and answers with {number} of the labels {', '.join(task.labels)}"
