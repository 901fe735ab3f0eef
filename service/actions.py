"""What the lifecycle of the workers speaks of: models, workers, changes, and the actions that it wants performed."""

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Literal

Kind = Literal["start", "restart", "swap", "rollback"]


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A bundle that was staged."""

    folder: str  # that workers open: a private copy, so that nobody can damage what is served
    source: str  # the folder that it is a copy of, for messages
    id: str


class State(Enum):
    """What a worker process does."""

    LOADING = auto()
    LOADED = auto()  # it waits until it is told to serve
    OPENING = auto()  # told to serve; does not listen yet
    SERVING = auto()
    ENDING = auto()  # told to end; it may still answer what it has admitted


@dataclass(eq=False, slots=True)
class Worker:
    """A worker process. At most one of a slot serves, except while a new one takes over from the old one."""

    key: int
    slot: int
    model: Model
    state: State = State.LOADING
    change: int | None = None  # number of the restart that it was started for, until that is committed
    replaced: bool = False  # a restart was committed: it ends when its slot's new worker serves
    has_served: bool = False
    kill_at: float = 0.0


@dataclass(eq=False, slots=True)
class Change:
    """A change of the model or of the processes, under way."""

    number: int
    kind: Kind
    since: float  # begin of its phase
    asker: int | None = None  # worker whose client wants it
    request: int = 0  # of that worker
    other_labels: bool = False
    phase: Literal["staging", "trying", "committing"] = "staging"
    model: Model | None = None
    fingerprint: str = ""
    crashes: int = 0
    tried: set[int] = field(default_factory=set)  # workers that were told to load the model
    waiting: set[int] = field(default_factory=set)  # workers that have not answered


@dataclass(frozen=True, slots=True)
class Stage:
    """Copy the bundle that `bundle` names, and take the fingerprint of what `base` names.

    With `known` instead of `bundle`: copy what `base` names if it has another fingerprint, else check that it is
    whole. With neither: only the fingerprint.
    """

    number: int  # of the change
    bundle: str | None
    base: str
    known: str | None = None


@dataclass(frozen=True, slots=True)
class Discard:
    """Remove a model's copy."""

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
    """Tell a worker to end."""

    key: int


@dataclass(frozen=True, slots=True)
class Kill:
    """Kill a worker."""

    key: int


@dataclass(frozen=True, slots=True)
class Log:
    """Write a line to the log; level `sentence`: the one sentence of a server that cannot start."""

    message: str
    level: Literal["info", "error", "sentence"] = "info"
    told: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ready:
    """All workers serve for the first time."""


Action = Stage | Discard | Start | Send | Terminate | Kill | Log | Ready
