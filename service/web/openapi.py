"""openapi(): the OpenAPI document of every route.

The request schemas come from the pydantic models that the protocols validate requests with.
"""

from typing import Any

from pydantic import BaseModel

from service.operations.admin import Swap, Try
from service.protocols import hf, native, oip, pair_scores, rerank, tei, tokens, vertex, vllm
from service.settings import Settings
from service.web.openapi_operations import (
    ERROR,
    REFUSALS,
    TEXT,
    Document,
    add_schema,
    get,
    post,
    response,
    with_cascade,
)
from service.web.pages import version

NUMBER = {"type": "number"}
LABEL = {
    "type": "object",
    "required": ["label", "score"],
    "properties": {"label": TEXT, "score": NUMBER},
}
LABELS = {"type": "array", "items": LABEL, "description": "best first"}
BATCH = {"type": "array", "items": LABELS}
TIMES = {"type": "object", "additionalProperties": NUMBER, "description": "milliseconds of each step"}
STAGE = {"type": "string", "enum": ["gate", "student"]}
NATIVE_ANSWER = {
    "type": "object",
    "required": ["model", "predictions", "times_ms"],
    "properties": {
        "model": TEXT,
        "times_ms": TIMES,
        "predictions": {
            "description": "ranked labels; several texts: one list per text, null if the text has an error",
            "type": "array",
            "items": {"anyOf": [LABEL, LABELS, {"type": "null"}]},
        },
        "stage": {
            "description": "bundles with a gate: which model answered; several texts: a list, null for an error",
            "anyOf": [STAGE, {"type": "array", "items": {"anyOf": [STAGE, {"type": "null"}]}}],
        },
        "labels": {
            "description": "multi-label models: the labels assigned to the text; several texts: one list per text",
            "type": "array",
            "items": {"anyOf": [TEXT, {"type": "array", "items": TEXT}, {"type": "null"}]},
        },
        "errors": {
            "type": "array",
            "items": {**ERROR, "properties": {"index": {"type": "integer"}, "error": TEXT, "kind": TEXT}},
        },
    },
}
OIP_ANSWER = {
    "type": "object",
    "required": ["model_name", "model_version", "outputs"],
    "properties": {
        "model_name": TEXT,
        "model_version": TEXT,
        "id": TEXT,
        "outputs": {"type": "array", "items": {"type": "object"}},
    },
}
BENTOML_BODY = {
    "type": "object",
    "required": ["texts"],
    "properties": {
        "texts": {"type": "array", "items": TEXT},
        "top_k": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    },
}
ANYTHING = {"type": "object"}
INTEGER = {"type": "integer"}
MODEL_NAME = {"name": "name", "in": "path", "required": True, "schema": TEXT}
USAGE = {"type": "object", "additionalProperties": {"anyOf": [INTEGER, {"type": "null"}]}}


def openapi(settings: Settings) -> Document:
    """Return the document of GET /openapi.json."""
    schemas: Document = {}
    secured: list[Any] = [{"bearer": []}, {"key": []}] if settings.api_key is not None else []
    document: Document = {
        "openapi": "3.1.0",
        "info": {"title": "Prunella", "version": version(), "description": "Text classification."},
        "servers": [{"url": settings.root_path or "/"}],
        "paths": {
            **_protocols(schemas, secured),
            **_shared_paths(schemas, secured, settings),
            **_operations(secured),
            **_admin(schemas),
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }
    return document


def _protocols(schemas: Document, secured: list[Any]) -> Document:
    name = MODEL_NAME
    model_version = {"name": "version", "in": "path", "required": True, "schema": TEXT}
    infer = with_cascade(
        post("Open Inference Protocol v2", add_schema(schemas, "OipRequest", oip.Body), OIP_ANSWER, secured)
    )
    ready = get("readiness of the model", ANYTHING, secured, missing=True)
    ready["get"]["responses"]["503"] = response("not ready", ANYTHING)
    metadata = get("metadata of the model", ANYTHING, secured, missing=True)
    paths: Document = {
        "/predict": post(
            "text-embeddings-inference",
            add_schema(schemas, "TeiRequest", tei.Body),
            {"anyOf": [LABELS, BATCH]},
            secured,
        ),
        "/": post("Hugging Face Inference API", add_schema(schemas, "HfRequest", hf.Body), BATCH, secured),
        "/v2/models/{name}": {**metadata, "parameters": [name]},
        "/v2/models/{name}/ready": {**ready, "parameters": [name]},
        "/v2/models/{name}/infer": {**infer, "parameters": [name]},
        "/v2/models/{name}/versions/{version}": {**metadata, "parameters": [name, model_version]},
        "/v2/models/{name}/versions/{version}/ready": {**ready, "parameters": [name, model_version]},
        "/v2/models/{name}/versions/{version}/infer": {**infer, "parameters": [name, model_version]},
    }
    for path in ("/predict", "/"):
        with_cascade(paths[path])
    paths["/"]["get"] = {
        "summary": "redirect to the playground",
        "responses": {"307": {"description": "redirect to /ui"}},
    }
    return paths


def _shared_paths(schemas: Document, secured: list[Any], settings: Settings) -> Document:
    """Return the paths that clients of several protocols use; the keys of a request say which one it is in."""

    def forms(summary: str, answer: Document, **bodies: type[BaseModel]) -> Document:
        known = [add_schema(schemas, name, body) for name, body in bodies.items()]
        return post(summary, known[0] if len(known) == 1 else {"anyOf": known}, answer, secured)

    infinity = settings.classify_dialect == "infinity"
    with_input: dict[str, type[BaseModel]] = (
        {"InfinityRequest": vllm.InfinityBody} if infinity else {"VllmRequest": vllm.Body}
    )
    listed = _answer(id=TEXT, object=TEXT, created=INTEGER, model=TEXT, data={"type": "array"}, usage=USAGE)
    ranking = _answer(id=TEXT, model=TEXT, results={"type": "array", "items": ANYTHING}, usage=USAGE)
    native_or_listed = {"anyOf": [NATIVE_ANSWER, listed]}
    scores = forms("scores of pairs", listed, ScoreRequest=pair_scores.Body)
    ranks = forms(
        "documents, best first", {"anyOf": [ranking, {"type": "array", "items": ANYTHING}]},
        RerankRequest=rerank.Body, TeiRerankRequest=rerank.TeiBody,
    )  # fmt: skip
    classify = forms("vLLM's, infinity's and BentoML's clients", {"anyOf": [listed, ANYTHING]}, **with_input)
    content = classify["post"]["requestBody"]["content"]["application/json"]
    content["schema"] = {"anyOf": [content["schema"], BENTOML_BODY]}
    every: dict[str, type[BaseModel]] = {
        **with_input,
        "NativeRequest": native.Body,
        "TeiRequest": tei.Body,
        "HfRequest": hf.Body,
    }
    every |= {"ScoreRequest": pair_scores.Body, "RerankRequest": rerank.Body, "VertexRequest": vertex.Body}
    anything: Document = {}
    predictions = _answer(predictions=BATCH)
    token_ids = _answer(count=INTEGER, max_model_len=INTEGER, tokens={"type": "array", "items": INTEGER})
    model = get("the served model, and whether it is ready (KServe v1)", ANYTHING, secured, missing=True)
    model["get"]["responses"]["503"] = response("not ready", ANYTHING)
    paths = {
        "/v1/classify": forms("native, vLLM's form", native_or_listed, NativeRequest=native.Body, **with_input),
        "/classify": classify,
        **dict.fromkeys(("/score", "/v1/score"), scores),
        **dict.fromkeys(("/rerank", "/v1/rerank", "/v2/rerank"), ranks),
        "/tokenize": forms("token ids of a text", token_ids, TokenizeRequest=tokens.TokenizeBody),
        "/detokenize": forms("text of token ids", _answer(prompt=TEXT), DetokenizeRequest=tokens.DetokenizeBody),
        "/v1/models": get(
            "the served model, in OpenAI's form", _answer(object=TEXT, data={"type": "array"}), secured
        ),
        "/v1/models/{name}": {**model, "parameters": [MODEL_NAME]},
        "/v1/models/{name}:predict": {
            **with_cascade(forms("KServe v1", predictions, VertexRequest=vertex.Body)),
            "parameters": [MODEL_NAME],
        },
        "/invocations": forms("SageMaker: every protocol, by its keys", anything, **every),
    }
    if settings.predict_route and settings.predict_route not in {*paths, "/predict"}:
        paths[settings.predict_route] = with_cascade(forms("Vertex AI", predictions, VertexRequest=vertex.Body))
    if settings.health_route:
        paths[settings.health_route] = get("probe", ANYTHING, [])
    for path in ("/v1/classify", "/classify", "/invocations"):
        with_cascade(paths[path])
    return paths


def _answer(**properties: Document) -> Document:
    """Return the schema of an object with these keys."""
    return {"type": "object", "required": list(properties), "properties": properties}


def _operations(secured: list[Any]) -> Document:
    paths: Document = {
        "/info": get("the served model, its measured loss and speed-up, and the limits", ANYTHING, secured),
        "/schema.json": get("schema for BentoML's clients", ANYTHING, secured, missing=True),
    }
    for path in ("/livez", "/healthz", "/readyz", "/health", "/ping", "/v2/health/live", "/v2/health/ready"):
        paths[path] = get("probe", ANYTHING, [])
        paths[path]["get"]["responses"]["503"] = response("not live, or not ready", ANYTHING)
    for path in ("/v2", "/openapi.json"):
        paths[path] = get("about this server", ANYTHING, [])
    for path, content_type, summary in (
        ("/metrics", "text/plain", "Prometheus metrics"),
        ("/ui", "text/html", "the playground"),
    ):
        answer = {"description": summary, "content": {content_type: {"schema": TEXT}}}
        paths[path] = {"get": {"summary": summary, "responses": {"200": answer}}}
    return paths


def _admin(schemas: Document) -> Document:
    secured: list[Any] = [{"bearer": []}, {"key": []}]
    refusals = {"404": response("no admin token is set", ERROR), "409": response("refused", ERROR)}
    swap = post("load, check and swap a bundle", add_schema(schemas, "Swap", Swap), ANYTHING, secured)["post"]
    shadow = post("start a shadow candidate", add_schema(schemas, "Try", Try), ANYTHING, secured)["post"]
    rollback = {
        "summary": "switch back to the previous model",
        "security": secured,
        "responses": {"200": response("ok", ANYTHING)},
    }
    end_shadow = {**rollback, "summary": "stop the shadow candidate"}
    models = get("current, previous and candidate model", ANYTHING, secured)["get"]
    paths: Document = {
        "/admin/models": {"get": models, "post": swap},
        "/admin/rollback": {"post": rollback},
        "/admin/shadow": {"post": shadow, "delete": end_shadow},
    }
    for path in paths.values():
        for operation in path.values():
            codes = {"401": response(REFUSALS[401], ERROR), "422": response(REFUSALS[422], ERROR), **refusals}
            operation["responses"] = {**operation["responses"], **codes}
    return paths
