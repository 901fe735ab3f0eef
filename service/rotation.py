"""Rotation: the model that answers, the one before it, and a candidate that is tried in the shadow."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from models.errors import InputError
from service.bundle import Bundle
from service.engine import Engine
from service.runtime import RuntimeSettings

log = logging.getLogger("prunella")


class BusyError(Exception):
    """Another change of the model is under way."""


class Rotation:
    """Which engines there are. A change is one assignment, so that every request sees one model, old or new."""

    def __init__(self, engine: Engine, runtime: RuntimeSettings, changed: Callable[[Engine], None]) -> None:
        self.current = engine
        self.previous: Engine | None = None
        self.candidate: Engine | None = None
        self.share = 0.0  # of requests that the candidate answers too
        self._runtime, self._changed = runtime, changed
        self._one_at_a_time = threading.Lock()

    def swap(self, folder: Path, other_labels: bool = False) -> Engine:
        """Open a bundle beside the current one, check it and let it answer from now on; takes seconds.

        Raises:
            BusyError: another change is under way.
            PrunellaError: the bundle is not whole, fails its self-check, or has other labels and may not.
        """
        with self._alone():
            found = self._open(folder, other_labels)
            self.previous, self.current = self.current, found
            self._changed(found)
            log.info("model %s answers, %s is kept", found.bundle.id, self.previous.bundle.id)
            return found

    def roll_back(self) -> Engine:
        """Let the model before answer again.

        Raises:
            BusyError: another change is under way.
            InputError: there is none.
        """
        with self._alone():
            if self.previous is None:
                raise InputError("there is no model before this one")
            self.previous, self.current = self.current, self.previous
            self._changed(self.current)
            log.info("model %s answers again", self.current.bundle.id)
            return self.current

    def shadow(self, folder: Path | None, share: float) -> Engine | None:
        """Let a bundle answer a share of the requests too, unseen; None ends it.

        Raises:
            BusyError: another change is under way.
            PrunellaError: the bundle is not whole, fails its self-check, or has other labels.
        """
        with self._alone():
            found = None if folder is None else self._open(folder, other_labels=False)
            self.candidate, self.share = found, share if found else 0.0
            return found

    def _open(self, folder: Path, other_labels: bool) -> Engine:
        engine = Engine.open(Bundle.open(folder), self._runtime)
        engine.self_check()  # also the warm-up
        now, new = self.current.bundle.task, engine.bundle.task
        if not other_labels and (now.labels, now.pair) != (new.labels, new.pair):
            raise InputError(
                f"{folder} has labels {', '.join(new.labels)}{' for pairs' if new.pair else ''}, and what is served "
                f"has {', '.join(now.labels)}{' for pairs' if now.pair else ''}: set other_labels if clients may"
            )
        return engine

    def _alone(self) -> "_Alone":
        return _Alone(self._one_at_a_time)


class _Alone:
    """The lock of changes, which nobody waits for."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise BusyError("another change of the model is under way")

    def __exit__(self, *_: object) -> None:
        self._lock.release()
