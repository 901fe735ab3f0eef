"""TextClassifier: the BentoML wiring, and nothing else."""

import os
import sys

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
os.environ.setdefault("BENTOML_DISABLE_GPU_ALLOCATION", "1")  # the runtime chooses the device itself

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
from service import opening
from service.app import KEPT, App
from service.desk import Caller, Desk
from service.dialects import BadRequest, Request, native, ranked
from service.isolation import answer as run_apart
from service.isolation import each
from service.opening import open_desk
from service.publish import resolve
from service.settings import Settings

log = logging.getLogger("prunella")
STAYS = ("development", "reload", "ssl_certfile")  # flags of `bentoml serve` that only BentoML's own parent knows


@contextmanager
def _one_sentence() -> Iterator[None]:
    """End this process with the sentence of an error of ours, where BentoML would print its own stack."""
    try:
        yield
    except PrunellaError as error:
        sys.stderr.write(f"prunella: {error}\n")
        sys.exit(error.exit_code)


if opening.shared is not None:  # a worker of ours: it has its bundle, wherever that came from is now
    SETTINGS = opening.shared.settings
else:
    with _one_sentence():
        SETTINGS = Settings.from_environment()
        resolve(SETTINGS.bundle)
# else a tag, which `bentoml build` must record and pack
FOLDER = opening.shared is not None or Path(SETTINGS.bundle).is_dir()


class Classified(BaseModel):
    """Labels with scores for each text, best first."""

    predictions: list[list[dict[str, Any]]]


def _spec() -> str:
    """Return the bundle that is named, else the one that a built bento holds, else the newest in the store.

    It is resolved again at SIGHUP, by another process: what is in the bento, which cannot change, is a folder here.
    """
    bento = TextClassifier.bento  # type: ignore[attr-defined]  # None when the service runs from its sources
    if bento is None or "bundle" in SETTINGS.model_fields_set:
        return str(Path(SETTINGS.bundle).absolute()) if FOLDER else SETTINGS.bundle
    return str(resolve(str(bento.info.all_models[0].tag)))


class OursFirst:
    """Answers our routes before BentoML's router: its /livez and /readyz would shadow ours, and it costs time."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on to the application that has its path."""
        here = bentoml.get_current_service()
        if scope["type"] == "http" and scope["path"] not in KEPT and here.app is not None:
            await here.app(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def _in_our_batches() -> Any:
    async def classify(self: Any, texts: list[str], top_k: int | None = None) -> Classified:
        """Classify texts; for BentoML's own clients."""
        now = time.perf_counter()
        caller = Caller(now, now + SETTINGS.request_timeout_ms / 1e3, lambda: False)
        try:
            answer = await self.desk.answer(native.read({"texts": texts, "top_k": top_k}), caller)
        except BadRequest as problem:
            raise BentoMLException(problem.message, error_code=HTTPStatus(problem.status)) from None
        for failed in answer.problems.values():
            if failed.status >= 500:  # this format has no errors of single texts
                raise BentoMLException(failed.message, error_code=HTTPStatus(failed.status))
        return Classified(predictions=[found or [] for found in answer.predictions])

    return bentoml.api(classify)


def _in_bentomls_batches() -> Any:
    def classify(self: Any, texts: list[str]) -> list[list[dict[str, Any]]]:
        """Classify texts that BentoML's dispatcher put together from several requests.

        It has no errors of single texts: one on which tokenizer or model fails gets an empty list.
        """
        engine, request = self.desk.rotation.current, Request([], single=False)
        encoded = each(partial(engine.tokenize, cut="right"), [(text,) for text in texts])
        known = {i: one for i, one in enumerate(encoded) if one is not None}
        rows = dict(zip(known, run_apart(engine, list(known.values())) if known else [], strict=True))
        found = [rows.get(i) for i in range(len(texts))]
        return [[] if row is None else ranked(engine.bundle.task, row, request) for row in found]

    most = max(2, SETTINGS.rules().items)  # it takes no fewer
    return bentoml.api(classify, batchable=True, max_batch_size=most, max_latency_ms=10_000)


@bentoml.service(
    name="prunella",
    traffic={"timeout": 10},
    tracing={"excluded_urls": ".*"},  # spans of ours tell more: service/tracing.py
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},  # /metrics is ours
)
class TextClassifier:
    """Serves one bundle; the hot routes are an application of ours, in the same process."""

    model = None if FOLDER else bentoml.models.BentoModel(SETTINGS.bundle)
    shared: Desk | None = opening.shared
    classify = _in_our_batches() if SETTINGS.batcher == "ours" else _in_bentomls_batches()

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    @staticmethod
    def hand_over() -> None:
        """Turn `bentoml serve` into our supervisor, which replaces workers in a container too, and ends cleanly."""
        context = click.get_current_context(silent=True)
        flags = context.params if context is not None else {}
        with _one_sentence():
            spec = _spec()
        if "host" not in flags or any(flags.get(name) for name in STAYS):
            log.warning("BentoML's own parent process is used: it neither replaces workers in a container nor drains")
            return
        root = Path(__file__).resolve().parent.parent
        variables = {**os.environ, "PRUNELLA_BUNDLE": spec, "PYTHONPATH": str(root)}
        host, port = flags["host"] or "0.0.0.0", flags.get("port") or 3000  # BentoML's own defaults
        command = ["-m", "service.serve", "--host", str(host), "--port", str(port)]
        sys.stderr.flush()
        os.execve(sys.executable, [sys.executable, *command], variables)

    def __init__(self) -> None:
        self.desk = self.shared or open_desk(SETTINGS.model_copy(update={"bundle": _spec()}))
        self.app = None if self.shared else App(self.desk)

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def start(self) -> None:
        """Start the runners, where no worker of ours has."""
        if not self.shared:
            await self.desk.start()


TextClassifier.add_asgi_middleware(OursFirst)  # type: ignore[attr-defined]
