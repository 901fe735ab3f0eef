"""Connection: uvicorn's HTTP/1.1 protocol with limits on what comes before an application is asked.

uvicorn bounds neither the size of a request's head nor the time that a client takes for head and body.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.wire import CONNECTION

MAX_HEAD_BYTES = 64 * 1024
TOO_LARGE = (431, "Request Header Fields Too Large", "the request's head is larger than 65536 bytes")
TOO_SLOW = (408, "Request Timeout", "the request did not come in time")


class Connection(HttpToolsProtocol):
    """One connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self.since: float | None = self.loop.time()  # when the request that is coming in began to come
        self.in_head, self.head_bytes = True, 0
        self.running: Any = None

    def data_received(self, data: bytes) -> None:
        """Parse what came; a head without end is refused."""
        if self.since is None:
            self.since = self.loop.time()
        super().data_received(data)
        if self.in_head:
            self.head_bytes += len(data)
            if self.head_bytes > MAX_HEAD_BYTES:
                self.refuse(*TOO_LARGE)

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self.scope["extensions"] = {CONNECTION: self}  # type: ignore[dict-item]
        self.since = self.loop.time()
        self.in_head, self.head_bytes = True, 0

    def on_headers_complete(self) -> None:
        """Hand the request to the application; its body may still come."""
        self.in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End a request."""
        super().on_message_complete()
        self.since, self.in_head = None, True
        self.head_bytes = 0

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self.running = cycle
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request that is being answered, which is not the last one that came when several came at once."""
        super().connection_lost(exc)
        if self.running is not None and not self.running.response_complete:
            self.running.disconnected = True
            self.running.message_event.set()

    def is_gone(self) -> bool:
        """Whether the client has closed the connection."""
        return self.transport.is_closing()

    def is_alone(self) -> bool:
        """Whether this connection's request is the only one in the process."""
        return len(self.tasks) == 1

    def abandon(self) -> None:
        """Let the request that is being answered end without an answer: nobody is there to read it."""
        if self.running is not None:
            self.running.disconnected = True

    def check_time(self, header_seconds: float, body_seconds: float) -> None:
        """Refuse a client that takes too long for head or body."""
        if self.since is None:
            return
        if self.loop.time() - self.since > (header_seconds if self.in_head else body_seconds):
            self.refuse(*TOO_SLOW)

    def refuse(self, status: int, phrase: str, sentence: str) -> None:
        """Answer with an error and close; whoever waits for the body is told that the client has gone."""
        self.since = None
        if self.transport.is_closing():
            return
        cycle = self.running
        if cycle is None or cycle.response_complete or not cycle.response_started:
            body = b'{"error":"%s"}' % sentence.encode()
            self.transport.write(
                b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
                % (status, phrase.encode(), len(body))
                + body
            )
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.close()
