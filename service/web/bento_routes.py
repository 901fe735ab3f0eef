"""BentoRoutes: BentoML's own routes (/classify, /schema.json), served by our process.

BentoML's application is loaded at the first request to one of its routes: importing it takes two seconds and 60 MB,
and most servers never get such a request.
"""

import asyncio
import contextlib
import logging
from typing import Any

from starlette.types import Message, Scope, Send

from service.inference.inference_service import InferenceService
from service.process import factory

log = logging.getLogger("prunella")


class BentoRoutes:
    """BentoML's application, which uses the same inference service as every other route."""

    def __init__(self, inference: InferenceService) -> None:
        self._inference = inference
        self._app: Any = None
        self._lifespan = contextlib.AsyncExitStack()
        self._lock = asyncio.Lock()

    async def __call__(self, scope: Scope, body: bytes, send: Send) -> None:
        """Answer a request whose body has been read."""
        async with self._lock:
            if self._app is None:
                self._app = await self._load()
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            if messages:
                return messages.pop()
            return await asyncio.get_running_loop().create_future()  # never set; BentoML cancels the wait itself

        await self._app(scope, receive, send)

    async def close(self) -> None:
        """Shut the application down, if it was loaded."""
        await self._lifespan.aclose()

    async def _load(self) -> Any:
        log.info("loading BentoML's application for the first request to its routes")
        app = await asyncio.to_thread(_import, self._inference)
        await self._lifespan.enter_async_context(app.router.lifespan_context(app))
        return app


def _import(inference: InferenceService) -> Any:
    factory.shared = inference  # before the import, which would otherwise resolve the bundle of the settings
    from service.service import TextClassifier

    TextClassifier.inner.shared = inference  # type: ignore[attr-defined]  # BentoML makes the instance itself
    return TextClassifier.to_asgi(is_main=True)  # type: ignore[attr-defined]
