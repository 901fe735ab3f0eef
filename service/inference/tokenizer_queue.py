"""Tokenizer queues: requests that are too long for the event loop wait here for a tokenizer thread.

Token ids that become text again wait here too.

There are two lanes, each with one thread, so that a request of a few pages never waits for one of megabytes. Texts
that wait here count in the predicted wait, in the queue depth and in the limits for refusal, as those that wait for
the model do. A request is split into pieces of work. It is dropped before a piece when its deadline has passed or its
client has disconnected. Only the pieces run in threads; everything else runs on the event loop and needs no lock.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from models.tokenizer import Encoded, Row
from service.inference.scheduler import QueuedAhead
from service.model.engine import Cut, Engine
from service.model.isolation import apply_isolated
from service.protocols import BadRequest

INLINE_CHARS = 4000  # up to here a request is tokenized on the event loop: a thread switch costs more
SHORT_CHARS = 32_000  # upper limit of a request in the short lane, and of a piece of work; takes 16 ms
ID_CHARS = 4  # characters whose tokenization takes as long as it takes to turn one token id into text: 1 to 2 µs
CountDropped = Callable[[str], None]  # counts a dropped request by its reason


def expired_error() -> BadRequest:
    """Return the error of a request whose deadline passed before its work began.

    Each request gets its own error: one that is raised again and again keeps the frames of every raise alive.
    """
    return BadRequest(429, "the deadline passed while the request waited", "Timeout", 1.0)


def late_error() -> BadRequest:
    """Return the error of a request whose deadline passed while it was processed."""
    return BadRequest(504, "the deadline passed before the answer was there", "Timeout")


def client_gone_error() -> BadRequest:
    """Return the error of a request whose client has disconnected; no client receives it."""
    return BadRequest(499, "the client has gone", "Gone")


def shutting_down_error() -> BadRequest:
    """Return the error of a request that was not answered before the server shut down."""
    return BadRequest(503, "the server is shutting down", "Unhealthy")


def count_chars(rows: Sequence[Row]) -> int:
    """Return the number of characters of all texts."""
    return sum(len(part) for row in rows for part in row)


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """One request that waits for the tokenizer or is in it."""

    engine: Engine
    rows: Sequence[Row]
    cut: Cut
    deadline: float
    gone: Callable[[], bool]  # whether the client has disconnected
    future: "asyncio.Future[list[Encoded | None]]"
    seconds: float  # predicted, for the remaining pieces
    pieces: Iterator[Sequence[Row]]
    encoded: list[Encoded | None] = field(default_factory=list)

    def run(self, piece: Sequence[Row]) -> tuple[list[Any], int]:
        """Return the tokens of a piece, None where the tokenizer fails, and the number of characters it read."""
        encoded = apply_isolated(lambda rows: self.engine.tokenize(rows, self.cut), piece)
        return encoded, self.engine.chars(piece, self.cut)


class QueuedIds(QueuedRequest):
    """One request whose token ids are to become text; its only row has nothing in it."""

    def __init__(
        self,
        engine: Engine,
        ids: Sequence[int],
        deadline: float,
        gone: Callable[[], bool],
        future: "asyncio.Future[list[Any]]",
    ) -> None:
        seconds = engine.rate.expect(ID_CHARS * len(ids))
        super().__init__(engine, [()], "right", deadline, gone, future, seconds, iter([[()]]))
        self._ids = ids

    def run(self, piece: Sequence[Row]) -> tuple[list[Any], int]:
        """Return the text, None where the tokenizer fails; no characters, because the rate is that of tokenizing."""
        return apply_isolated(lambda _: [self.engine.tokenizer.decode(self._ids)], piece), 0


class Lane:
    """First-in, first-out queue of requests with one tokenizer thread."""

    def __init__(self, name: str, count_dropped: CountDropped) -> None:
        self._pool = ThreadPoolExecutor(1, f"tokenizer-{name}")
        self._count_dropped = count_dropped
        self._queue: deque[QueuedRequest] = deque()
        self._running: QueuedRequest | None = None
        self._closed = False

    def texts(self) -> int:
        """Return the number of waiting texts, without those of the running request."""
        return sum(len(request.rows) for request in self._queue)

    def ahead(self) -> QueuedAhead:
        """Return what a request that arrived now would wait for."""
        running_seconds = 0.0 if self._running is None else max(0.0, self._running.seconds)
        return QueuedAhead(self.texts(), running_seconds + sum(request.seconds for request in self._queue))

    def put(self, request: QueuedRequest) -> None:
        """Queue a request."""
        if self._closed:
            request.future.set_exception(shutting_down_error())
            return
        self._queue.append(request)
        self._start_next()

    def expire(self, now: float) -> None:
        """Answer the requests whose deadline has passed."""
        for request in list(self._queue):
            if request.deadline <= now:
                self._drop(request, "expired", expired_error())
                self._queue.remove(request)
        if self._running is not None and self._running.deadline <= now:
            self._drop(self._running, "expired", late_error())

    async def close(self) -> None:
        """Answer all requests with an error, and end the thread after its current piece."""
        self._closed = True
        for request in (*self._queue, *([self._running] if self._running else [])):
            if not request.future.done():
                request.future.set_exception(shutting_down_error())
        self._queue.clear()
        await asyncio.to_thread(self._pool.shutdown)

    def _start_next(self) -> None:
        """Start the next request, unless one is running."""
        while self._running is None and self._queue:
            request = self._queue.popleft()
            if not self._is_dropped(request):
                self._running = request
                self._start_piece(request)

    def _start_piece(self, request: QueuedRequest) -> None:
        piece = next(request.pieces)
        work = asyncio.get_running_loop().run_in_executor(self._pool, _tokenize, request, piece)
        work.add_done_callback(lambda done: self._finish_piece(request, done))

    def _finish_piece(
        self, request: QueuedRequest, done: "asyncio.Future[tuple[list[Encoded | None], int, float]]"
    ) -> None:
        """Store the result of a piece; the last piece resolves the request's future."""
        encoded, chars, seconds = done.result()
        request.seconds -= request.engine.rate.expect(chars)
        if chars:
            request.engine.rate.note(chars, seconds)
        request.encoded += encoded
        complete = len(request.encoded) == len(request.rows)
        if not complete and not self._closed and not self._is_dropped(request):
            self._start_piece(request)
            return
        if complete and not request.future.done():
            request.future.set_result(request.encoded)
        self._running = None
        self._start_next()

    def _is_dropped(self, request: QueuedRequest) -> bool:
        """Drop the request if its deadline has passed or its client has disconnected; return whether it is done."""
        if not request.future.done():
            if request.deadline <= time.perf_counter():
                self._drop(request, "expired", late_error() if request.encoded else expired_error())
            elif request.gone():
                self._drop(request, "gone", client_gone_error())
        return request.future.done()

    def _drop(self, request: QueuedRequest, reason: str, problem: BadRequest) -> None:
        if not request.future.done():
            self._count_dropped(reason)
            request.future.set_exception(problem)


class TokenizerQueues:
    """The short and the long lane."""

    def __init__(self, count_dropped: CountDropped) -> None:
        self._short, self._long = Lane("short", count_dropped), Lane("long", count_dropped)

    def lane(self, chars: int, cut: Cut) -> Lane | None:
        """Return the lane for a request; None when it is tokenized on the event loop."""
        if cut in ("right", "windows") and chars <= INLINE_CHARS:
            return None
        return self._short if chars <= SHORT_CHARS else self._long

    def ahead(self) -> QueuedAhead:
        """Return the number of texts in both lanes, and the longer of the two waits."""
        short, long = self._short.ahead(), self._long.ahead()
        return QueuedAhead(short.texts + long.texts, max(short.seconds, long.seconds))

    def expire(self, now: float) -> None:
        """Answer the requests whose deadline has passed."""
        self._short.expire(now)
        self._long.expire(now)

    async def close(self) -> None:
        """Answer all requests with an error, and end the threads."""
        await self._short.close()
        await self._long.close()


def pieces_of(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Yield the rows in pieces of at most SHORT_CHARS characters; a longer row is a piece by itself."""
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


def _tokenize(request: QueuedRequest, piece: Sequence[Row]) -> tuple[list[Encoded | None], int, float]:
    """Return what a piece became, the number of characters that were tokenized, and the seconds it took."""
    begun = time.perf_counter()
    encoded, chars = request.run(piece)
    return encoded, chars, time.perf_counter() - begun
