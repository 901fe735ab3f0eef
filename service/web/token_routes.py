"""TokenRoutes: the handlers of GET /v1/models[/{name}], POST /tokenize and POST /detokenize, in vLLM's form."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from service.inference.inference_service import InferenceService
from service.inference.request_context import RequestContext
from service.protocols import tokens
from service.protocols.openai import created
from service.web.http import Call, Reply, json_reply

MODELS, PREDICT = "/v1/models/", ":predict"  # KServe's protocol v1 has /v1/models/{name}:predict
INLINE_TOKENS = 4096  # up to here their strings are looked up on the event loop, in about a millisecond


class TokenRoutes:
    """Handlers that use the model's tokenizer and name, and not the model."""

    def __init__(self, inference: InferenceService, context: Callable[[Call], RequestContext]) -> None:
        self._inference, self._context = inference, context
        self._settings = inference.settings
        self._started = created()

    async def models(self, _: Call) -> Reply:
        """Answer GET /v1/models."""
        return json_reply({"object": "list", "data": [self._model()]})

    async def model(self, call: Call) -> Reply:
        """Answer GET /v1/models/{name}, also as KServe's protocol v1 asks whether the model is ready."""
        self.check_path(call)
        ready = not self._inference.draining and not self._inference.trouble()
        return json_reply({**self._model(), "name": self._model()["id"], "ready": ready}, 200 if ready else 503)

    def check_path(self, call: Call) -> None:
        """Check that the path names the served model.

        Raises:
            BadRequest: 404, it names another one.
        """
        self._inference.check_name(call.path.removeprefix(MODELS).removesuffix(PREDICT))

    def _model(self) -> dict[str, Any]:
        engine = self._inference.model_slots.current
        return {
            "id": self._inference.name(engine),
            "object": "model",
            "created": self._started,
            "owned_by": "prunella",
            "root": engine.bundle.id,
            "parent": None,
            "max_model_len": engine.bundle.task.max_tokens,
            "permission": [],
        }

    async def tokenize(self, call: Call) -> Reply:
        """Answer POST /tokenize."""
        context = self._context(call)
        body = tokens.read(await call.document(self._settings.max_body_bytes))
        self._inference.check_name(body.named_model())
        engine, encoded = await self._inference.tokenize(body.prompt, context)
        before, after = engine.tokenizer.affixes
        ids = encoded.ids if body.add_special_tokens else encoded.ids[before : len(encoded.ids) - after]
        write = partial(tokens.write, ids, body, engine.tokenizer, engine.bundle.task.max_tokens)
        is_long = body.return_token_strs and len(ids) > INLINE_TOKENS
        return json_reply(await asyncio.to_thread(write) if is_long else write())

    async def detokenize(self, call: Call) -> Reply:
        """Answer POST /detokenize."""
        context, engine = self._context(call), self._inference.model_slots.current
        document = await call.document(self._settings.max_body_bytes)
        body = tokens.read_ids(document, engine.bundle.architecture.vocabulary, self._settings.max_text_chars)
        self._inference.check_name(body.named_model())
        return json_reply({"prompt": await self._inference.detokenize(engine, body.tokens, context)})
