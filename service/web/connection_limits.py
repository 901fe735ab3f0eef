"""Connection: uvicorn's HTTP/1.1 protocol class with limits on everything that arrives before the application runs.

uvicorn bounds neither the size of a request's head and trailers, nor the time that a client takes to send head and
body, nor the number of pipelined requests. A reverse proxy does; a server that clients reach directly needs the
limits itself. `tests/service/web/test_protocol.py` names what this class needs of uvicorn, and `pyproject.toml` names
the versions that were tested.
"""

import asyncio
from collections import deque
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.web.access import cors_headers
from service.web.http import CONNECTION, LINGER_SECONDS

MAX_HEAD_BYTES = 64 * 1024
MAX_PIPELINED = 10_000  # requests of one connection that wait for their answer: about 30 MB
MALFORMED = (400, "Bad Request", "the request is not valid HTTP/1.1")
TOO_SLOW = (408, "Request Timeout", "the request did not come in time")
TOO_MANY = (429, "Too Many Requests", f"more than {MAX_PIPELINED} requests of this connection wait for their answer")
TOO_LARGE = (431, "Request Header Fields Too Large", f"the request's head is larger than {MAX_HEAD_BYTES} bytes")


class Connection(HttpToolsProtocol):
    """One connection.

    A refusal is the error response to the request that is being received. It is sent after the responses to all
    earlier requests of the connection, and nothing that arrives after it is parsed.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Initialize the state; the connection waits for its first request."""
        super().connection_made(transport)
        self.since: float | None = self.loop.time()  # when the current request began to arrive; None: there is none
        self.in_head = True  # receiving a head, or waiting for one; False: receiving a body
        self.in_known_head = False  # the new parser reads the framing headers of a head that was handed on already
        self.progressed = False  # the bytes being parsed completed a head or were part of a body
        self.unparsed = 0  # bytes of a head, a trailer or a chunk size that is not complete yet
        self.trailer_bytes = 0
        self.unanswered: deque[Any] = deque()  # uvicorn's request cycles whose head was received, oldest first
        self.refusal: bytes | None = None

    def data_received(self, data: bytes) -> None:
        """Parse the received bytes; refuse a head or a trailer that does not end within the limit."""
        if self.refusal is not None:
            return  # the bytes are read only so that the client can read the refusal
        self._unset_keepalive_if_required()
        if self.since is None:
            self.since = self.loop.time()
        self.progressed = False
        try:
            self._parse(memoryview(data))
        except httptools.HttpParserError:  # not valid HTTP, or refused in a callback of the parser
            self.refuse(*MALFORMED)
        self.unparsed = self._left(data) if self.progressed else self.unparsed + len(data)
        if self.unparsed > MAX_HEAD_BYTES:
            self.refuse(*TOO_LARGE)

    def _left(self, data: bytes) -> int:
        """Return how many bytes at the end of `data`, in which a request ended, belong to the next request's head."""
        if self.since is None or not self.in_head:
            return 0  # trailers may exceed the limit by this: less than one read of the socket
        return self._head_bytes() + len(data) - 1 - data.rfind(b"\n")

    def _head_bytes(self) -> int:
        """Return the size of the head's lines that have been parsed."""
        return (
            len(self.url)
            + len(b"  HTTP/1.1\r\n\r\n")
            + sum(len(name) + len(value) + 4 for name, value in self.headers)
        )

    def _parse(self, data: memoryview) -> None:
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                self._ignore_upgrade()

    def _ignore_upgrade(self) -> None:
        """Continue with a new parser after the head of a request with Upgrade: httptools would skip its body.

        A server may ignore Upgrade (RFC 9110, section 7.8), and Java's client sends it with requests over plain HTTP.
        """
        framing = [header for header in self.headers if header[0] in (b"content-length", b"transfer-encoding")]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.in_known_head = True
        self.parser.feed_data(b"POST / HTTP/1.1\r\n%s\r\n" % b"".join(b"%s: %s\r\n" % header for header in framing))
        self.in_known_head = False

    def on_message_begin(self) -> None:
        """Start a request."""
        if self.in_known_head:
            return
        super().on_message_begin()
        self.scope["extensions"] = {CONNECTION: self}  # type: ignore[dict-item]
        self.since = self.loop.time()
        self.in_head, self.unparsed, self.trailer_bytes = True, 0, 0

    def on_url(self, url: bytes) -> None:
        """Store a part of the URL."""
        if not self.in_known_head:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Store a header; drop a trailer, because no application here expects one (RFC 9110, section 6.5.1)."""
        if self.in_known_head:
            return
        if self.in_head:
            super().on_header(name, value)
            return
        self.trailer_bytes += len(name) + len(value) + 4
        if self.trailer_bytes > MAX_HEAD_BYTES:
            self._stop_parsing(TOO_LARGE)

    def on_headers_complete(self) -> None:
        """Hand the request to the application; its body may arrive later."""
        if self.in_known_head:
            return
        self.progressed = True
        if len(self.parser.get_method()) + self._head_bytes() > MAX_HEAD_BYTES:
            self._stop_parsing(TOO_LARGE)
        if sum(name == b"host" for name, _ in self.headers) > 1:  # as RFC 9112, section 3.2, asks
            self._stop_parsing(MALFORMED)
        if len(self.unanswered) >= MAX_PIPELINED:
            self._stop_parsing(TOO_MANY)
        super().on_headers_complete()
        self.in_head = False
        self.unanswered.append(self.cycle)

    def on_body(self, body: bytes) -> None:
        """Hand a part of the body to the application."""
        self.progressed = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Finish a request."""
        if self.parser.should_upgrade():
            return  # its body follows: see _ignore_upgrade()
        super().on_message_complete()
        self.since, self.in_head, self.progressed = None, True, True

    def on_response_complete(self) -> None:
        """Continue with the next pipelined request, or with the refusal that waits for this response."""
        self.unanswered.popleft()
        super().on_response_complete()
        if self.refusal is not None and not self.unanswered:
            self._send_refusal()

    def connection_lost(self, exc: Exception | None) -> None:
        """Notify every request that is being answered; uvicorn notifies only the last one that arrived."""
        super().connection_lost(exc)
        for cycle in self.unanswered:
            _disconnect(cycle)

    def is_gone(self) -> bool:
        """Whether the client has closed the connection."""
        return self.transport.is_closing()

    def is_alone(self) -> bool:
        """Whether this connection's request is the only one in the process."""
        return len(self.tasks) == 1

    def abandon(self) -> None:
        """End the request that is being answered without a response: the client has gone."""
        if self.unanswered:
            self.unanswered[0].disconnected = True

    def check_time(self, header_seconds: float, body_seconds: float) -> None:
        """Refuse a client that takes too long to send head or body.

        Time during which the server does not read from the socket does not count.
        """
        if self.since is None:
            return
        if self.flow.read_paused:
            self.since = self.loop.time()
        elif self.loop.time() - self.since > (header_seconds if self.in_head else body_seconds):
            self.refuse(*TOO_SLOW)

    def refuse(self, status: int, phrase: str, sentence: str) -> None:
        """Answer the request that is being received with an error, after earlier responses, and close.

        If the application already has the request, it is told that the client has gone.
        """
        self.since = None
        if self.transport.is_closing() or self.refusal is not None:
            return
        self.refusal = self._error(status, phrase, sentence)
        if not self.in_head and self.cycle is not None and not self.cycle.response_complete:
            self.unanswered.remove(self.cycle)
            _disconnect(self.cycle)
        if not self.in_head and self.cycle.response_started:
            self.refusal = b""  # the request's response was sent already, or its first half
        if not self.unanswered:
            self._send_refusal()

    def _stop_parsing(self, refusal: tuple[int, str, str]) -> None:
        """Refuse from within a callback of the parser, which stops at an exception.

        Raises:
            ValueError: always.
        """
        self.refuse(*refusal)
        raise ValueError(refusal[2])

    def _error(self, status: int, phrase: str, sentence: str) -> bytes:
        origin = next((value for name, value in self.headers or [] if name == b"origin"), None)
        body = b'{"error":"%s"}' % sentence.encode()
        headers = [
            *self.server_state.default_headers, (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)), (b"connection", b"close"),
            *cors_headers(origin, self.app_state.get("cors_origins", frozenset())),
        ]  # fmt: skip
        lines = b"".join(b"%s: %s\r\n" % header for header in headers)
        return b"HTTP/1.1 %d %s\r\n%s\r\n%s" % (status, phrase.encode(), lines, body)

    def _send_refusal(self) -> None:
        """Send the refusal and close.

        A client that is still sending gets LINGER_SECONDS to read the refusal before its connection is reset.
        """
        if self.transport.is_closing():
            return
        self.transport.write(self.refusal or b"")
        self.transport.write_eof()
        self.flow.resume_reading()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)


def _disconnect(cycle: Any) -> None:
    """Tell the application of a request that its client has gone."""
    cycle.disconnected = True
    cycle.message_event.set()
