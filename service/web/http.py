"""Call and Reply: one HTTP request with its limits, and one HTTP response. Plain ASGI.

A web framework's router, request and response objects cost as much time as tokenizing a short text does.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from service.protocols import BadRequest
from service.protocols.json_text import keys_of, parse_json

CONNECTION = "prunella.connection"  # the ASGI extension through which the application gets our Connection object
# After a refusal, what the client still sends is read and discarded: closing a socket with unread bytes resets the
# connection, and the client would lose the answer (RFC 9112, section 9.6).
LINGER_BYTES, LINGER_SECONDS = 64_000_000, 2.0
JSON = b"application/json"
KEYS_SECONDS = 0.2  # that a refusal waits for the start of the body, which says the protocol of the request
Headers = list[tuple[bytes, bytes]]


class ClientGone(Exception):
    """The client closed the connection before it had sent its request."""


@dataclass(slots=True)
class Reply:
    """A response: status, body, and the headers other than Content-Type and Content-Length."""

    body: bytes
    status: int = 200
    headers: Headers = field(default_factory=list)
    content_type: bytes = JSON
    close: bool = False  # close the connection after this response


def json_reply(document: object, status: int = 200, headers: Headers | None = None) -> Reply:
    """Return `document` as JSON."""
    return Reply(orjson.dumps(document), status, headers or [])


def refusal(problem: BadRequest, document: object) -> Reply:
    """Return an error as JSON, with Retry-After if the error says when to try again."""
    headers: Headers = []
    if problem.retry_after is not None:
        seconds = max(1, -int(-problem.retry_after // 1))  # Retry-After takes whole seconds only
        headers.append((b"retry-after", b"%d" % seconds))
        headers.append((b"retry-after-ms", b"%d" % max(1, round(problem.retry_after * 1e3))))
    if problem.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return Reply(orjson.dumps(document), problem.status, headers, close=problem.close)


class Call:
    """One HTTP request."""

    __slots__ = ("_body", "_body_read", "_start", "connection", "dialect", "path", "receive", "scope")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope, self.receive = scope, receive
        self.path: str = scope["path"]
        self.connection: Any = (scope.get("extensions") or {}).get(CONNECTION)
        self.dialect: Any = None  # the protocol of the request, where its path alone does not say it
        self._body: bytes | None = None
        self._start: bytes | None = None  # the first part of the body
        self._body_read = False

    @property
    def method(self) -> str:
        """GET, POST, …."""
        return str(self.scope["method"])

    def header(self, name: bytes) -> bytes | None:
        """Return the value of a header, or None; `name` is in lower case."""
        for key, value in self.scope["headers"]:
            if key == name:
                return bytes(value)
        return None

    def is_gone(self) -> Callable[[], bool]:
        """Return a function that says whether the client has gone.

        Without our Connection object it always returns False.
        """
        return self.connection.is_gone if self.connection is not None else _never

    def is_alone(self) -> Callable[[], bool]:
        """Return a function that says whether this is the only request in the process.

        Without our Connection object it always returns False.
        """
        return self.connection.is_alone if self.connection is not None else _never

    async def body(self, max_bytes: int) -> bytes:
        """Return the body; a second call returns it again.

        Raises:
            BadRequest: the body is larger than `max_bytes`; the rest is not read. Or it is compressed.
            ClientGone: the client closed the connection.
        """
        if self._body is not None:
            return self._body
        if self._is_compressed():
            raise BadRequest(415, "compressed bodies are not accepted: send it without Content-Encoding", close=True)
        announced = self.header(b"content-length")
        if announced is not None and (not announced.isdigit() or int(announced[:20]) > max_bytes):
            raise BadRequest(413, f"the body is larger than {max_bytes} bytes", close=True)
        message = await self.receive()
        self._start = message.get("body", b"")
        if message["type"] == "http.request" and not message.get("more_body", False):
            body: bytes = message.get("body", b"")
        else:
            body = await self._read_parts(message, max_bytes)
        self._body_read = True
        if len(body) > max_bytes:
            raise BadRequest(413, f"the body is larger than {max_bytes} bytes", close=True)
        self._body = body
        return body

    async def _read_parts(self, message: Any, max_bytes: int) -> bytes:
        """Return a body that arrives in several ASGI messages; `message` is the first one."""
        parts, size = [], 0
        while message["type"] == "http.request":
            size += len(message.get("body", b""))
            if size > max_bytes:
                raise BadRequest(413, f"the body is larger than {max_bytes} bytes", close=True)
            parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                return b"".join(parts)
            message = await self.receive()
        raise ClientGone

    async def keys(self) -> dict[str, None]:
        """Return the keys of the JSON object in the body, as far as the body has arrived; none if it is compressed.

        If nothing of the body has been read, its first part is awaited, but not if the client waits for 100 Continue.
        """
        if self._is_compressed():
            return {}
        if self._body is None and self._start is None and self.header(b"expect") is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(KEYS_SECONDS):
                    message = await self.receive()
                    self._start = message.get("body", b"")
                    self._body_read = not message.get("more_body", False)
        return keys_of(self._body or self._start or b"")

    def _is_compressed(self) -> bool:
        return (self.header(b"content-encoding") or b"").strip().lower() not in (b"", b"identity")

    def content_type(self) -> bytes:
        """Return the type of the body in lower case, without its parameters; empty: the request does not say it."""
        return (self.header(b"content-type") or b"").split(b";")[0].strip().lower()

    def check_json(self, may_be_missing: bool = False) -> None:
        """Check that the request's Content-Type is JSON.

        Raises:
            BadRequest: 415, the body has another type, or has none and it must not be missing.
        """
        if may_be_missing and self.header(b"content-type") is None:
            return
        content_type = self.content_type()
        if content_type != JSON:
            name = content_type.decode("latin-1") or "missing"
            raise BadRequest(415, f"Content-Type is {name[:80]}: it must be application/json", close=True)

    async def document(self, max_bytes: int) -> object:
        """Return the parsed JSON of the body.

        Raises:
            BadRequest: the body is larger than `max_bytes`, is compressed, has another type, or is not valid JSON.
            ClientGone: the client closed the connection.
        """
        self.check_json()
        return parse_json(await self.body(max_bytes))

    async def send(self, reply: Reply, send: Send) -> None:
        """Send the response.

        If it closes the connection before the request's body has been read, the rest of the body is read and
        discarded first, up to LINGER_BYTES and LINGER_SECONDS.
        """
        if self.connection is not None and self.connection.is_gone():
            self.connection.abandon()
            return
        headers = [
            (b"content-type", reply.content_type), (b"content-length", b"%d" % len(reply.body)), *reply.headers
        ]  # fmt: skip
        if reply.status == 204:
            headers = [*reply.headers]  # a 204 has neither Content-Type nor Content-Length (RFC 9110, section 8.6)
        if reply.close:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        if reply.close and not self._body_read and self.method != "HEAD":
            await send({"type": "http.response.body", "body": reply.body, "more_body": True})
            await self._discard_body()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        await send({"type": "http.response.body", "body": reply.body, "more_body": False})

    async def _discard_body(self) -> None:
        bytes_left = LINGER_BYTES
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while bytes_left > 0:
                    message = await self.receive()
                    if message["type"] != "http.request" or not message.get("more_body", False):
                        return
                    bytes_left -= len(message.get("body", b""))
        except TimeoutError:
            return  # the connection closes while the client is still sending


def _never() -> bool:
    return False
