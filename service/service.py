"""TextClassifier: the BentoML service around the inference service and its web application."""

import os
import sys

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
os.environ.setdefault("BENTOML_DISABLE_GPU_ALLOCATION", "1")  # `choose_device` selects the GPU

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import bentoml
import click
from bentoml.exceptions import BentoMLException
from pydantic import BaseModel
from starlette.types import ASGIApp, Receive, Scope, Send

from models.errors import PrunellaError
from service.inference.inference_service import InferenceService
from service.inference.request_context import RequestContext
from service.model.isolation import apply_isolated, infer_isolated
from service.process import factory
from service.process.factory import open_inference_service
from service.process.image import container_image
from service.process.launch import PORT, platform_port
from service.process.publish import resolve
from service.protocols import BadRequest, Request, native, ranked
from service.settings import Settings
from service.web import cascade_header
from service.web.app import BENTOML_PATHS, App
from service.web.cascade_header import asks_for_student, stage_of

log = logging.getLogger("prunella")
BENTOML_ONLY_FLAGS = ("development", "reload", "ssl_certfile")  # of `bentoml serve`: need BentoML's parent process


@contextmanager
def _exit_with_message() -> Iterator[None]:
    """On a PrunellaError, print its message and exit, where BentoML would print a traceback."""
    try:
        yield
    except PrunellaError as error:
        sys.stderr.write(f"prunella: {error}\n")
        sys.exit(error.exit_code)


if factory.shared is not None:  # in a Prunella worker, which has opened its bundle already
    SETTINGS = factory.shared.settings
else:
    with _exit_with_message():
        SETTINGS = Settings.from_environment()
        RESOLVED = resolve(SETTINGS.bundle)
# otherwise the bundle is a tag, which `bentoml build` must record and pack
IS_FOLDER = factory.shared is not None or Path(SETTINGS.bundle).is_dir()


class Classified(BaseModel):
    """Labels with scores for each text, best first; none for a text with an error, which is in `errors`."""

    predictions: list[list[dict[str, Any]]]
    errors: list[dict[str, Any]] = []


def _bundle_spec() -> str:
    """Return the bundle to serve: a folder or a tag.

    It is the one that the settings name, else the model in the built bento, else the default of the settings. Another
    process resolves it again at SIGHUP. The model of a bento cannot change, so it is returned as a folder.
    """
    bento = TextClassifier.bento  # type: ignore[attr-defined]  # None when the service runs from its sources
    if bento is None or "bundle" in SETTINGS.model_fields_set:
        return str(Path(SETTINGS.bundle).absolute()) if IS_FOLDER else SETTINGS.bundle
    return str(resolve(str(bento.info.all_models[0].tag)))


class PrunellaRoutesFirst:
    """Middleware that answers Prunella's routes before BentoML's router.

    BentoML's /livez and /readyz would hide Prunella's, and its router costs time.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request to the application that has its path."""
        service = bentoml.get_current_service()
        if scope["type"] == "http" and scope["path"] not in BENTOML_PATHS and service.app is not None:
            await service.app(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def _classify_by_prunella() -> Any:
    """Return BentoML's `classify` endpoint with Prunella's batching."""

    async def classify(self: Any, texts: list[str], top_k: int | None = None, *, ctx: bentoml.Context) -> Classified:
        """Classify texts; for BentoML's clients."""
        now = time.perf_counter()
        header = ctx.request.headers.get(cascade_header.REQUEST.decode())
        context = RequestContext(
            now,
            now + SETTINGS.request_timeout_ms / 1e3,
            lambda: False,
            asks_for_student=lambda: asks_for_student(header if header is None else header.encode()),
        )
        try:
            request = native.read({"texts": texts, "top_k": top_k})
            answer = await self.inference.answer(request, context)
        except BadRequest as error:
            raise BentoMLException(error.message, error_code=HTTPStatus(error.status)) from None
        for index, problem in answer.problems.items():
            if problem.status >= 500:  # a client that does not read `errors` must not take this for an answer
                raise BentoMLException(problem.at(index).message, error_code=HTTPStatus(problem.status))
        stage = stage_of(answer, request)
        if stage is not None:
            ctx.response.headers[cascade_header.ANSWER.decode()] = stage
        errors = [{"index": index, **native.error(problem)} for index, problem in sorted(answer.problems.items())]
        return Classified(predictions=[row or [] for row in answer.predictions], errors=errors)

    return bentoml.api(classify)


def _classify_by_bentoml() -> Any:
    """Return BentoML's `classify` endpoint with BentoML's adaptive batching."""

    def classify(self: Any, texts: list[str]) -> list[list[dict[str, Any]]]:
        """Classify a batch that BentoML's dispatcher collected from several requests.

        The format has no per-text errors: a text on which tokenizer or model fails gets an empty list. The student
        answers every text, also of a bundle with a gate.
        """
        engine, request = self.inference.model_slots.current, Request([], single=False)
        encoded = apply_isolated(partial(engine.tokenize, cut=engine.cut_of("right")), [(text,) for text in texts])
        valid = {i: tokens for i, tokens in enumerate(encoded) if tokens is not None}
        parts = engine.parts(list(valid.values()))
        work = [window for part in parts for window in part]
        answers = engine.joined(parts, infer_isolated(engine, work) if work else [])
        logits = dict(zip(valid, answers, strict=True))
        rows = [logits.get(i) for i in range(len(texts))]
        return [[] if row is None else ranked(engine.bundle.task, row, request) for row in rows]

    max_batch_size = max(2, SETTINGS.rules().items)  # 2 is the minimum that BentoML accepts
    return bentoml.api(classify, batchable=True, max_batch_size=max_batch_size, max_latency_ms=10_000)


@bentoml.service(
    name="prunella",
    traffic={"timeout": 10},
    tracing={"excluded_urls": ".*"},  # replaced by service/operations/tracing.py
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},  # /metrics is Prunella's
    image=container_image(None if IS_FOLDER else RESOLVED),
)
class TextClassifier:
    """Serves one bundle. All routes except BentoML's own are answered by `App`, in the same process."""

    model = None if IS_FOLDER else bentoml.models.BentoModel(SETTINGS.bundle)
    shared: InferenceService | None = factory.shared
    classify = _classify_by_prunella() if SETTINGS.batcher == "ours" else _classify_by_bentoml()

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    @staticmethod
    def hand_over() -> None:
        """Replace `bentoml serve` by Prunella's supervisor, which restarts workers in a container too and drains."""
        context = click.get_current_context(silent=True)
        flags = context.params if context is not None else {}
        with _exit_with_message():
            spec = _bundle_spec()
        if "host" not in flags or any(flags.get(name) for name in BENTOML_ONLY_FLAGS):
            log.warning("BentoML's own parent process is used: it neither replaces workers in a container nor drains")
            return
        root = Path(__file__).resolve().parent.parent
        variables = {**os.environ, "PRUNELLA_BUNDLE": spec, "PYTHONPATH": str(root)}
        with _exit_with_message():
            port = flags.get("port") or platform_port() or PORT
        host = flags["host"] or "0.0.0.0"  # BentoML's own default
        command = ["-m", "service.process.launch", "--host", str(host), "--port", str(port)]
        sys.stderr.flush()
        os.execve(sys.executable, [sys.executable, *command], variables)

    def __init__(self) -> None:
        self.inference = self.shared or open_inference_service(SETTINGS.model_copy(update={"bundle": _bundle_spec()}))
        self.app = None if self.shared else App(self.inference)

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def start(self) -> None:
        """Start the runners, unless a Prunella worker has started them."""
        if not self.shared:
            await self.inference.start()


TextClassifier.add_asgi_middleware(PrunellaRoutesFirst)  # type: ignore[attr-defined]
