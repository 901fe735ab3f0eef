"""post() and get(): how the OpenAPI document describes a path, its errors and its headers."""

from typing import Any

from pydantic import BaseModel

Document = dict[str, Any]
TEXT = {"type": "string"}
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {"anyOf": [TEXT, {"type": "object"}]},
        "kind": TEXT,
        "error_type": TEXT,
        "index": {"type": "integer", "description": "the text with the error, where there are several"},
    },
}
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
CASCADE = {
    "name": "X-Cascade",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "enum": ["true", "false"]},
    "description": "false: the student answers, also what the bundle's gate could answer",
}
CASCADE_STAGE = {
    "schema": TEXT,
    "description": "bundles with a gate: which model answered, gate or student; of a list, g or s for each text, "
    "- for an error, and the counts for more than 1024 texts",
}


def post(summary: str, body: Document, answer: Document, secured: list[Any]) -> Document:
    """Return the description of a path that takes POST.

    Args:
        summary: what it is for.
        body: schema of the request.
        answer: schema of the answer.
        secured: the ways to send a key; empty: none is needed.
    """
    responses = {"200": response("the answer", answer)}
    error = {"anyOf": [ERROR, {"type": "array"}]}
    responses |= {str(code): response(description, error) for code, description in REFUSALS.items()}
    responses["429"]["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
    responses["404"] = response("no such model", ERROR)
    return {
        "post": {
            "summary": summary,
            "security": secured,
            "parameters": [DEADLINE],
            "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
            "responses": responses,
        }
    }


def with_cascade(path: Document) -> Document:
    """Add the headers of a cascade to a path that classifies; scores and ranks of pairs have no gate."""
    path["post"]["parameters"].append(CASCADE)
    path["post"]["responses"]["200"]["headers"] = {"X-Cascade-Stage": CASCADE_STAGE}
    return path


def get(summary: str, answer: Document, secured: list[Any], missing: bool = False) -> Document:
    """Return the description of a path that takes GET; `missing`: it answers 404 if there is no such model."""
    responses = {"200": response("the answer", answer)}
    if secured:
        responses["401"] = response(REFUSALS[401], ERROR)
    if missing:
        responses["404"] = response("no such model", ERROR)
    return {"get": {"summary": summary, "security": secured, "responses": responses}}


def response(description: str, schema: Document) -> Document:
    """Return the description of a JSON response."""
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def add_schema(schemas: Document, name: str, record: type[BaseModel]) -> Document:
    """Add a record's JSON schema to `schemas`, and return a reference to it."""
    schema = record.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(schema.pop("$defs", {}))
    schemas[name] = schema
    return {"$ref": f"#/components/schemas/{name}"}
