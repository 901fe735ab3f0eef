"""Call and Reply: one HTTP request as it comes, with its limits, and one answer as it goes. Plain ASGI.

A web framework's router, request and response objects cost as much time as tokenizing a short text does.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from service.dialects import BadRequest

CONNECTION = "prunella.connection"  # the ASGI extension in which our connection gives itself to the application
# After a refusal, what the client still sends is read and discarded: closing a socket with unread bytes resets the
# connection, and the client would lose the answer (RFC 9112, section 9.6).
LINGER_BYTES, LINGER_SECONDS = 64_000_000, 2.0
JSON = b"application/json"
Headers = list[tuple[bytes, bytes]]


class ClientGone(Exception):
    """The client closed the connection before it had sent its request."""


@dataclass(slots=True)
class Reply:
    """An answer: status, body, and the headers beside Content-Type and Content-Length."""

    body: bytes
    status: int = 200
    headers: Headers = field(default_factory=list)
    kind: bytes = JSON
    close: bool = False  # the connection ends with it


def json_reply(document: object, status: int = 200, headers: Headers | None = None) -> Reply:
    """Return `document` as JSON."""
    return Reply(orjson.dumps(document), status, headers or [])


def refusal(problem: BadRequest, document: object) -> Reply:
    """Return an error as JSON, with Retry-After where there is something to wait for."""
    headers: Headers = []
    if problem.retry_after is not None:
        seconds = max(
            1, -int(-problem.retry_after // 1)
        )  # HTTP knows whole seconds only, so the exact time is beside it
        headers.append((b"retry-after", b"%d" % seconds))
        headers.append((b"retry-after-ms", b"%d" % max(1, round(problem.retry_after * 1e3))))
    if problem.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return Reply(orjson.dumps(document), problem.status, headers, close=problem.close)


class Call:
    """One HTTP request."""

    __slots__ = ("_body_read", "connection", "path", "receive", "scope")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope, self.receive = scope, receive
        self.path: str = scope["path"]
        self.connection: Any = (scope.get("extensions") or {}).get(CONNECTION)
        self._body_read = False

    @property
    def method(self) -> str:
        """GET, POST, …."""
        return str(self.scope["method"])

    def header(self, name: bytes) -> bytes | None:
        """Return the value of a header by its name in small letters, or None."""
        for key, value in self.scope["headers"]:
            if key == name:
                return bytes(value)
        return None

    def is_gone(self) -> Callable[[], bool]:
        """Return a function that says whether the client has gone; where nobody can know, it never has."""
        return self.connection.is_gone if self.connection is not None else _never

    def is_alone(self) -> Callable[[], bool]:
        """Return a function that says whether no other request is in this process; where nobody can know, never."""
        return self.connection.is_alone if self.connection is not None else _never

    async def body(self, most: int) -> bytes:
        """Return the body.

        Raises:
            BadRequest: it is larger than `most` bytes; what is over is not read.
            ClientGone: the client went away.
        """
        if self.header(b"content-encoding") not in (None, b"identity"):
            raise BadRequest(415, "compressed bodies are not accepted: send it without Content-Encoding", close=True)
        announced = self.header(b"content-length")
        if announced is not None and (not announced.isdigit() or int(announced[:20]) > most):
            raise BadRequest(413, f"the body is larger than {most} bytes", close=True)
        message = await self.receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            found: bytes = message.get("body", b"")
        else:
            found = await self._rest(message, most)
        self._body_read = True
        if len(found) > most:
            raise BadRequest(413, f"the body is larger than {most} bytes", close=True)
        return found

    async def _rest(self, message: Any, most: int) -> bytes:
        parts, size = [], 0
        while message["type"] == "http.request":
            size += len(message.get("body", b""))
            if size > most:
                raise BadRequest(413, f"the body is larger than {most} bytes", close=True)
            parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                return b"".join(parts)
            message = await self.receive()
        raise ClientGone

    def check_json(self) -> None:
        """Let JSON pass.

        Raises:
            BadRequest: 415, the body is of another type.
        """
        kind = (self.header(b"content-type") or b"").split(b";")[0].strip().lower()
        if kind != JSON:
            told = kind.decode("latin-1") or "missing"
            raise BadRequest(415, f"Content-Type is {told[:80]}, wanted application/json", close=True)

    async def document(self, most: int) -> object:
        """Return the parsed JSON of the body.

        Raises:
            BadRequest: it is larger than `most` bytes, of another type, or not JSON.
            ClientGone: the client went away.
        """
        self.check_json()
        try:
            return orjson.loads(await self.body(most))
        except orjson.JSONDecodeError as error:
            raise BadRequest(400, f"the body is not valid JSON: {error}") from None

    async def send(self, reply: Reply, send: Send) -> None:
        """Send the reply; one that ends the connection first lets the client finish a little of what it sends."""
        if self.connection is not None and self.connection.is_gone():
            self.connection.abandon()
            return
        headers = [
            (b"content-type", reply.kind), (b"content-length", b"%d" % len(reply.body)), *reply.headers
        ]  # fmt: skip
        if reply.status == 204:
            headers = [*reply.headers]  # which has neither (RFC 9110, section 8.6)
        if reply.close:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        if reply.close and not self._body_read and self.method != "HEAD":
            await send({"type": "http.response.body", "body": reply.body, "more_body": True})
            await self._throw_away()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        await send({"type": "http.response.body", "body": reply.body, "more_body": False})

    async def _throw_away(self) -> None:
        left = LINGER_BYTES
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while left > 0:
                    message = await self.receive()
                    if message["type"] != "http.request" or not message.get("more_body", False):
                        return
                    left -= len(message.get("body", b""))
        except TimeoutError:
            return  # a client that goes on sending finds the connection closed


def _never() -> bool:
    return False
