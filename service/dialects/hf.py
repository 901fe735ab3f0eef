"""The Hugging Face Inference API, POST /, as `huggingface_hub.InferenceClient.text_classification` speaks it.

`inputs`: "text" | ["text", …] | {"text": "…", "text_pair": "…"} | [{…}, …]; the answer is always nested, also for one
text: its clients take the first element.
"""

from typing import Any

from pydantic import Field, ValidationError

from models.record import Record, explain
from models.tokens import Row
from service.dialects import Answer, BadRequest, Function, Request


class Parameters(Record):
    """How scores are made and how many are told."""

    function_to_apply: Function | None = None
    top_k: int | None = Field(None, ge=1)


class Pair(Record):
    """A text, or a pair."""

    text: str
    text_pair: str | None = None


class Body(Record):
    """The request's JSON."""

    inputs: str | Pair | list[str | Pair] = Field(description="a text, a pair, or several")
    parameters: Parameters | None = None
    options: dict[str, Any] | None = Field(None, description="of the hosted service; taken and not used")


def read(document: object) -> Request:
    """Return the request in a parsed JSON document."""
    try:
        body = Body.model_validate(document)
    except ValidationError as problem:
        raise BadRequest(422, explain(problem)) from None
    items = body.inputs if isinstance(body.inputs, list) else [body.inputs]
    if not items:
        raise BadRequest(422, "`inputs` cannot be empty", "Empty")
    asked = body.parameters or Parameters()
    return Request([_row(item) for item in items], single=False, top_k=asked.top_k, function=asked.function_to_apply)


def _row(item: str | Pair) -> Row:
    if isinstance(item, str):
        return (item,)
    return (item.text,) if item.text_pair is None else (item.text, item.text_pair)


def write(answer: Answer, request: Request) -> object:  # noqa: ARG001
    """Return the answer's JSON: a list of labels for each text."""
    return answer.predictions


def error(problem: BadRequest) -> object:
    """Return the JSON of an error."""
    return {"error": problem.message}
