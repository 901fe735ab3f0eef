"""openapi(): the OpenAPI document of every route.

The request schemas come from the pydantic models that the protocols validate requests with.
"""

from typing import Any

from pydantic import BaseModel

from service.operations.admin import Swap, Try
from service.protocols import hf, native, oip, tei
from service.settings import Settings
from service.web.pages import version

Document = dict[str, Any]
TEXT, NUMBER = {"type": "string"}, {"type": "number"}
LABEL = {
    "type": "object",
    "required": ["label", "score"],
    "properties": {"label": TEXT, "score": NUMBER},
}
LABELS = {"type": "array", "items": LABEL, "description": "best first"}
BATCH = {"type": "array", "items": LABELS}
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": TEXT, "kind": TEXT, "error_type": TEXT},
}
TIMES = {"type": "object", "additionalProperties": NUMBER, "description": "milliseconds of each step"}
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
REFUSALS = {
    400: "not JSON, or not this protocol",
    401: "the key is missing or wrong",
    408: "the request did not come in time",
    413: "body, text or batch over the limit",
    415: "not application/json, or compressed",
    422: "valid JSON, not a valid request: the error says where",
    429: "too many texts are queued: Retry-After says when to try again",
    500: "the model failed on this request",
    503: "the server is shutting down",
    504: "the deadline passed while the request was in the model",
}
DEADLINE = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "required": False,
    "schema": {"type": "number", "minimum": 1, "maximum": 3_600_000},
    "description": "how long the client waits; a request that cannot be answered by then is refused or dropped",
}


def openapi(settings: Settings) -> Document:
    """Return the document of GET /openapi.json."""
    schemas: Document = {}
    secured: list[Any] = [{"bearer": []}, {"key": []}] if settings.api_key is not None else []
    document: Document = {
        "openapi": "3.1.0",
        "info": {"title": "Prunella", "version": version(), "description": "Text classification."},
        "paths": {**_protocols(schemas, secured), **_operations(secured), **_admin(schemas)},
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
    name = {"name": "name", "in": "path", "required": True, "schema": TEXT}
    model_version = {"name": "version", "in": "path", "required": True, "schema": TEXT}
    infer = _post("Open Inference Protocol v2", _schema(schemas, "OipRequest", oip.Body), OIP_ANSWER, secured)
    ready = _get("readiness of the model", ANYTHING, secured, missing=True)
    metadata = _get("metadata of the model", ANYTHING, secured, missing=True)
    paths: Document = {
        "/v1/classify": _post(
            "native protocol", _schema(schemas, "NativeRequest", native.Body), NATIVE_ANSWER, secured
        ),
        "/predict": _post(
            "text-embeddings-inference", _schema(schemas, "TeiRequest", tei.Body), {"anyOf": [LABELS, BATCH]}, secured
        ),
        "/": _post("Hugging Face Inference API", _schema(schemas, "HfRequest", hf.Body), BATCH, secured),
        "/classify": _post("BentoML's clients", BENTOML_BODY, {"anyOf": [ANYTHING, {"type": "array"}]}, secured),
        "/v2/models/{name}": {**metadata, "parameters": [name]},
        "/v2/models/{name}/ready": {**ready, "parameters": [name]},
        "/v2/models/{name}/infer": {**infer, "parameters": [name]},
        "/v2/models/{name}/versions/{version}": {**metadata, "parameters": [name, model_version]},
        "/v2/models/{name}/versions/{version}/ready": {**ready, "parameters": [name, model_version]},
        "/v2/models/{name}/versions/{version}/infer": {**infer, "parameters": [name, model_version]},
    }
    del paths["/classify"]["post"]["parameters"]  # BentoML's dispatcher does not support request deadlines
    paths["/"]["get"] = {
        "summary": "redirect to the playground",
        "responses": {"307": {"description": "redirect to /ui"}},
    }
    return paths


def _operations(secured: list[Any]) -> Document:
    paths: Document = {
        "/info": _get("the served model, its measured loss and speed-up, and the limits", ANYTHING, secured),
        "/schema.json": _get("schema for BentoML's clients", ANYTHING, secured, missing=True),
    }
    for path in ("/livez", "/healthz", "/readyz", "/health", "/v2/health/live", "/v2/health/ready"):
        paths[path] = _get("probe", ANYTHING, [])
        paths[path]["get"]["responses"]["503"] = _response("not live, or not ready", ANYTHING)
    for path in ("/v2", "/openapi.json"):
        paths[path] = _get("about this server", ANYTHING, [])
    for path, content_type, summary in (
        ("/metrics", "text/plain", "Prometheus metrics"),
        ("/ui", "text/html", "the playground"),
    ):
        answer = {"description": summary, "content": {content_type: {"schema": TEXT}}}
        paths[path] = {"get": {"summary": summary, "responses": {"200": answer}}}
    return paths


def _admin(schemas: Document) -> Document:
    secured: list[Any] = [{"bearer": []}, {"key": []}]
    refusals = {"404": _response("no admin token is set", ERROR), "409": _response("refused", ERROR)}
    swap = _post("load, check and swap a bundle", _schema(schemas, "Swap", Swap), ANYTHING, secured)["post"]
    shadow = _post("start a shadow candidate", _schema(schemas, "Try", Try), ANYTHING, secured)["post"]
    rollback = {
        "summary": "switch back to the previous model",
        "security": secured,
        "responses": {"200": _response("ok", ANYTHING)},
    }
    end_shadow = {**rollback, "summary": "stop the shadow candidate"}
    models = _get("current, previous and candidate model", ANYTHING, secured)["get"]
    paths: Document = {
        "/admin/models": {"get": models, "post": swap},
        "/admin/rollback": {"post": rollback},
        "/admin/shadow": {"post": shadow, "delete": end_shadow},
    }
    for path in paths.values():
        for operation in path.values():
            codes = {"401": _response(REFUSALS[401], ERROR), "422": _response(REFUSALS[422], ERROR), **refusals}
            operation["responses"] = {**operation["responses"], **codes}
    return paths


def _post(summary: str, body: Document, answer: Document, secured: list[Any]) -> Document:
    responses = {"200": _response("the answer", answer)}
    error = {"anyOf": [ERROR, {"type": "array"}]}
    responses |= {str(code): _response(description, error) for code, description in REFUSALS.items()}
    responses["429"]["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
    responses["404"] = _response("no such model", ERROR)
    return {
        "post": {
            "summary": summary,
            "security": secured,
            "parameters": [DEADLINE],
            "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
            "responses": responses,
        }
    }


def _get(summary: str, answer: Document, secured: list[Any], missing: bool = False) -> Document:
    responses = {"200": _response("the answer", answer)}
    if secured:
        responses["401"] = _response(REFUSALS[401], ERROR)
    if missing:
        responses["404"] = _response("no such model", ERROR)
    return {"get": {"summary": summary, "security": secured, "responses": responses}}


def _response(description: str, schema: Document) -> Document:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _schema(schemas: Document, name: str, record: type[BaseModel]) -> Document:
    """Add a record's JSON schema to `schemas`, and return a reference to it."""
    schema = record.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(schema.pop("$defs", {}))
    schemas[name] = schema
    return {"$ref": f"#/components/schemas/{name}"}
