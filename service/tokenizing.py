"""Tokenizing: requests that are too long for the event loop wait here for a thread, by the rules of the model's line.

There are two lanes, each with a thread: a request of a few pages never waits for one of megabytes. What waits counts
in the predicted wait, in the depth of the queue and in what is refused. A request is dropped when its deadline passes
or its client goes, before or between its pieces of work. All but the pieces runs on the event loop, without locks.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from models.tokens import Encoded, Row
from service.dialects import BadRequest
from service.engine import Cut, Engine
from service.isolation import each
from service.scheduler import Before

INLINE_CHARS = 4000  # tokenized on the event loop: a hop to another thread costs more than so few
SHORT_CHARS = 32_000  # of a request in the lane of short ones, and of a piece of work; 16 ms
Refuse = Callable[[str], None]  # counts a reason


def expired() -> BadRequest:
    """Return the answer to a request whose deadline passed before its work began; never shared: see `late`."""
    return BadRequest(429, "the deadline passed while the request waited", "Timeout", 1.0)


def late() -> BadRequest:
    """Return the answer to a request whose deadline passed while it was worked on.

    Each request gets an error of its own: one that is raised again and again keeps the frames of every raise alive.
    """
    return BadRequest(504, "the deadline passed before the answer was there", "Timeout")


def gone() -> BadRequest:
    """Return the answer to a request whose client has gone: nobody reads it."""
    return BadRequest(499, "the client has gone", "Gone")


def ending() -> BadRequest:
    """Return the answer to a request that the end of the server came before."""
    return BadRequest(503, "the server is shutting down", "Unhealthy")


def count_chars(rows: Sequence[Row]) -> int:
    """Return the characters of all texts."""
    return sum(len(part) for row in rows for part in row)


@dataclass(slots=True, eq=False)
class Waiting:
    """One request on its way through the tokenizer."""

    engine: Engine
    rows: Sequence[Row]
    cut: Cut
    deadline: float
    gone: Callable[[], bool]
    future: "asyncio.Future[list[Encoded | None]]"
    seconds: float  # predicted, of what is left
    pieces: Iterator[Sequence[Row]]
    encoded: list[Encoded | None] = field(default_factory=list)


class Lane:
    """Requests that one thread tokenizes, in the order in which they came."""

    def __init__(self, name: str, count: Refuse) -> None:
        self._pool = ThreadPoolExecutor(1, f"tokenizer-{name}")
        self._count = count
        self._line: deque[Waiting] = deque()
        self._running: Waiting | None = None
        self._closed = False

    def texts(self) -> int:
        """Return how many texts wait, without those that are worked on."""
        return sum(len(one.rows) for one in self._line)

    def before(self) -> Before:
        """Return what waits ahead of a request that came now."""
        running = 0.0 if self._running is None else max(0.0, self._running.seconds)
        return Before(self.texts(), running + sum(one.seconds for one in self._line))

    def put(self, one: Waiting) -> None:
        """Let a request wait."""
        if self._closed:
            one.future.set_exception(ending())
            return
        self._line.append(one)
        self._next()

    def expire(self, now: float) -> None:
        """Answer those whose deadline has passed."""
        for one in list(self._line):
            if one.deadline <= now:
                self._drop(one, "expired", expired())
                self._line.remove(one)
        if self._running is not None and self._running.deadline <= now:
            self._drop(self._running, "expired", late())

    async def close(self) -> None:
        """Refuse what waits, and end the thread after its piece."""
        self._closed = True
        for one in (*self._line, *([self._running] if self._running else [])):
            if not one.future.done():
                one.future.set_exception(ending())
        self._line.clear()
        await asyncio.to_thread(self._pool.shutdown)

    def _next(self) -> None:
        """Begin the next piece of work, unless one is under way."""
        while self._running is None and self._line:
            one = self._line.popleft()
            if not self._is_dropped(one):
                self._running = one
                self._begin(one)

    def _begin(self, one: Waiting) -> None:
        piece = next(one.pieces)
        work = asyncio.get_running_loop().run_in_executor(self._pool, _tokenize, one, piece)
        work.add_done_callback(lambda done: self._take(one, done))

    def _take(self, one: Waiting, done: "asyncio.Future[tuple[list[Encoded | None], int, float]]") -> None:
        """Take in what became of a piece; the last one answers the request."""
        encoded, chars, seconds = done.result()
        one.seconds -= one.engine.rate.expect(chars)
        one.engine.rate.note(chars, seconds)
        one.encoded += encoded
        whole = len(one.encoded) == len(one.rows)
        if not whole and not self._closed and not self._is_dropped(one):
            self._begin(one)
            return
        if whole and not one.future.done():
            one.future.set_result(one.encoded)
        self._running = None
        self._next()

    def _is_dropped(self, one: Waiting) -> bool:
        """Whether nobody waits for a request any more; its deadline is looked at too."""
        if not one.future.done():
            if one.deadline <= time.perf_counter():
                self._drop(one, "expired", late() if one.encoded else expired())
            elif one.gone():
                self._drop(one, "gone", gone())
        return one.future.done()

    def _drop(self, one: Waiting, reason: str, problem: BadRequest) -> None:
        if not one.future.done():
            self._count(reason)
            one.future.set_exception(problem)


class Tokenizing:
    """The lanes."""

    def __init__(self, count: Refuse) -> None:
        self._short, self._long = Lane("short", count), Lane("long", count)

    def lane(self, chars: int, cut: Cut) -> Lane | None:
        """Return the lane of a request; None: it is tokenized on the event loop."""
        if cut == "right" and chars <= INLINE_CHARS:
            return None
        return self._short if chars <= SHORT_CHARS else self._long

    def before(self) -> Before:
        """Return what waits in both lanes: all texts, and the longer wait."""
        short, long = self._short.before(), self._long.before()
        return Before(short.texts + long.texts, max(short.seconds, long.seconds))

    def expire(self, now: float) -> None:
        """Answer those whose deadline has passed."""
        self._short.expire(now)
        self._long.expire(now)

    async def close(self) -> None:
        """Refuse what waits, and end the threads."""
        await self._short.close()
        await self._long.close()


def pieces_of(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Return the rows in pieces of SHORT_CHARS at most, or of one row that is longer."""
    piece: list[Row] = []
    size = 0
    for row in rows:
        chars = count_chars([row])
        if piece and size + chars > SHORT_CHARS:
            yield piece
            piece, size = [], 0
        piece.append(row)
        size += chars
    if piece:
        yield piece


def _tokenize(one: Waiting, piece: Sequence[Row]) -> tuple[list[Encoded | None], int, float]:
    """Return a piece as tokens, the characters that count, and the seconds that it took."""
    begun = time.perf_counter()
    encoded = each(lambda rows: one.engine.tokenize(rows, one.cut), piece)
    return encoded, one.engine.chars(piece, one.cut), time.perf_counter() - begun
