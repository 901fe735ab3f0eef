"""TextClassifier: the BentoML wiring, and nothing else."""

import os
import sys

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
os.environ.setdefault("BENTOML_DISABLE_GPU_ALLOCATION", "1")  # the runtime chooses the device itself

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import bentoml
from bentoml.exceptions import BentoMLException
from pydantic import BaseModel
from starlette.types import ASGIApp, Receive, Scope, Send

from models.errors import PrunellaError
from service.app import Desk, build_app
from service.bundle import Bundle
from service.dialects import BadRequest, native, predictions
from service.engine import Engine
from service.publish import resolve
from service.settings import Settings


@contextmanager
def _one_sentence() -> Iterator[None]:
    """End this process with the sentence of an error of ours, where BentoML would print its own stack."""
    try:
        yield
    except PrunellaError as error:
        sys.stderr.write(f"prunella: {error}\n")
        sys.exit(error.exit_code)


with _one_sentence():
    SETTINGS = Settings.from_environment()
    resolve(SETTINGS.bundle)
FOLDER = Path(SETTINGS.bundle).is_dir()  # else a tag, which `bentoml build` must record and pack
KEPT = ("/classify", "/schema.json")  # BentoML's own routes, which its clients use; every other path is ours


class Classified(BaseModel):
    """Labels with scores for each text, best first."""

    predictions: list[list[dict[str, Any]]]


def _open() -> Engine:
    """Open the bundle that is named, else the one that a built bento holds, else the newest in the store."""
    bento = TextClassifier.bento  # type: ignore[attr-defined]  # None when the service runs from its sources
    named = "bundle" in SETTINGS.model_fields_set
    folder = resolve(SETTINGS.bundle if named or bento is None else str(bento.info.all_models[0].tag))
    engine = Engine.open(Bundle.open(folder), SETTINGS.runtime())
    engine.self_check()  # also the warm-up
    return engine


class OursFirst:
    """Answers our routes before BentoML's router: its /livez and /readyz would shadow ours, and it costs time."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on to the application that has its path."""
        ours = scope["type"] == "http" and scope["path"] not in KEPT
        await (bentoml.get_current_service().app if ours else self.app)(scope, receive, send)


@bentoml.service(
    name="prunella",
    traffic={"timeout": 10},
    tracing={"excluded_urls": "" if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") else ".*"},
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},  # /metrics is ours
)
class TextClassifier:
    """Serves one bundle; the hot routes are an application of ours, in the same process."""

    model = None if FOLDER else bentoml.models.BentoModel(SETTINGS.bundle)

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    @staticmethod
    def refuse_once() -> None:
        """Open the bundle before any worker does: a worker that fails is started again for ever."""
        with _one_sentence():
            _open()

    def __init__(self) -> None:
        self.desk = Desk(_open(), SETTINGS)
        self.app = build_app(self.desk)

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    def freeze_heap(self) -> None:
        """Keep what is loaded out of the collector's way."""
        gc.collect()
        gc.freeze()  # BentoML's imports leave a heap whose full collections cost 100 ms in the tail

    @bentoml.api  # type: ignore[untyped-decorator]
    async def classify(self, texts: list[str], top_k: int | None = None) -> Classified:
        """Classify texts; for BentoML's own clients."""
        try:
            request = native.read({"texts": texts, "top_k": top_k})
            logits, _ = await self.desk.infer(self.desk.encode(request))
        except BadRequest as problem:
            raise BentoMLException(problem.message, error_code=HTTPStatus(problem.status)) from None
        return Classified(predictions=predictions(self.desk.engine.bundle.task, logits, request))


TextClassifier.add_asgi_middleware(OursFirst)  # type: ignore[attr-defined]
