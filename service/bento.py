"""BentoRoutes: BentoML's own routes (/classify, /schema.json) in our process, loaded when the first request asks.

BentoML's application costs two seconds to import and 60 MB; most servers never get a request for it.
"""

import asyncio
import contextlib
import logging
from typing import Any

from starlette.types import Message, Scope, Send

from service import opening
from service.desk import Desk

log = logging.getLogger("prunella")


class BentoRoutes:
    """BentoML's application, over the same desk as every other route."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._app: Any = None
        self._life = contextlib.AsyncExitStack()
        self._lock = asyncio.Lock()

    async def __call__(self, scope: Scope, body: bytes, send: Send) -> None:
        """Answer a request whose body was read."""
        async with self._lock:
            if self._app is None:
                self._app = await self._load()
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            if messages:
                return messages.pop()
            return await asyncio.get_running_loop().create_future()  # no more comes; BentoML stops waiting itself

        await self._app(scope, receive, send)

    async def close(self) -> None:
        """End the application, if it was loaded."""
        await self._life.aclose()

    async def _load(self) -> Any:
        log.info("loading BentoML's application for the first request to its routes")
        app = await asyncio.to_thread(_import, self._desk)
        await self._life.enter_async_context(app.router.lifespan_context(app))
        return app


def _import(desk: Desk) -> Any:
    opening.shared = desk  # before the import, which would look for the bundle of the settings otherwise
    from service.service import TextClassifier

    TextClassifier.inner.shared = desk  # type: ignore[attr-defined]  # BentoML makes the instance itself
    return TextClassifier.to_asgi(is_main=True)  # type: ignore[attr-defined]
