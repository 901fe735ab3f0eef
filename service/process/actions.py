"""Data types of the worker lifecycle: models, workers, changes, and the actions that the lifecycle requests."""

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Literal

Kind = Literal["start", "restart", "swap", "rollback"]


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A staged bundle."""

    folder: str  # the folder that workers open: a private copy, so that a change of the source harms no served model
    source: str  # the folder that it is a copy of, for messages
    id: str


class State(Enum):
    """State of a worker process."""

    LOADING = auto()
    LOADED = auto()  # waits for the order to serve
    OPENING = auto()  # received the order to serve; does not listen yet
    SERVING = auto()
    ENDING = auto()  # received SIGTERM; it may still answer the requests that it has admitted


@dataclass(eq=False, slots=True)
class Worker:
    """A worker process. At most one worker of a slot serves, except while a new one takes over from the old one."""

    key: int
    slot: int
    model: Model
    state: State = State.LOADING
    change: int | None = None  # number of the restart that started this worker, until that restart is committed
    replaced: bool = False  # a restart was committed: this worker ends when its slot's new worker serves
    has_served: bool = False
    kill_at: float = 0.0


@dataclass(eq=False, slots=True)
class Change:
    """A change of the model or of the worker processes that is in progress."""

    number: int
    kind: Kind
    since: float  # start of the current phase
    requester: int | None = None  # key of the worker whose client requested the change
    request: int = 0  # number of the request in that worker
    other_labels: bool = False
    phase: Literal["staging", "preparing", "committing"] = "staging"
    model: Model | None = None
    fingerprint: str = ""
    crashes: int = 0
    participants: set[int] = field(default_factory=set)  # workers that received the order to load the model
    waiting: set[int] = field(default_factory=set)  # workers that have not answered yet


@dataclass(frozen=True, slots=True)
class Stage:
    """Copy the bundle that `bundle` names, and compute the fingerprint of the bundle that `base` names.

    With `known` instead of `bundle`: copy the bundle that `base` names if its fingerprint differs from `known`;
    otherwise only check that it is complete. With neither: compute only the fingerprint.
    """

    number: int  # of the change
    bundle: str | None
    base: str
    known: str | None = None


@dataclass(frozen=True, slots=True)
class Discard:
    """Remove a model's private copy."""

    model: Model


@dataclass(frozen=True, slots=True)
class Start:
    """Start a worker process."""

    key: int
    slot: int
    model: Model


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message to a worker."""

    key: int
    message: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Terminate:
    """Send SIGTERM to a worker."""

    key: int


@dataclass(frozen=True, slots=True)
class Kill:
    """Send SIGKILL to a worker."""

    key: int


@dataclass(frozen=True, slots=True)
class Log:
    """Write a log entry; level `fatal`: the reason why the server cannot start, written as plain text, not JSON."""

    message: str
    level: Literal["info", "error", "fatal"] = "info"
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ready:
    """Report that all workers serve for the first time."""


Action = Stage | Discard | Start | Send | Terminate | Kill | Log | Ready
