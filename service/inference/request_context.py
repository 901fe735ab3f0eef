"""RequestContext: what the queues need to know of a request besides its texts."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class RequestContext:
    """Times of a request (`time.perf_counter`) and the state of its connection."""

    arrived: float
    deadline: float
    gone: Callable[[], bool]  # whether the client has disconnected
    is_alone: Callable[[], bool] = lambda: False  # whether no other request is in the process
    asks_for_student: Callable[[], bool] = lambda: False  # whether a header excludes the gate; for a bundle with one
