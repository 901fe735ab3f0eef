"""The Hugging Face Inference API, POST /, as `huggingface_hub.InferenceClient.text_classification` uses it.

`inputs`: "text" | ["text", …] | {"text": "…", "text_pair": "…"} | [{…}, …]. The answer is a list of lists, also for
one text, because the clients take the first element.
"""

from typing import Any

from pydantic import Field, ValidationError

from models.schema import Record, explain
from models.tokenizer import Row
from service.protocols import Answer, BadRequest, Function, Request


class Parameters(Record):
    """The score function and the number of labels in the answer."""

    function_to_apply: Function | None = None
    top_k: int | None = Field(None, ge=1)


class Pair(Record):
    """A text, or a pair of texts."""

    text: str
    text_pair: str | None = None


class Body(Record):
    """JSON of a request."""

    inputs: str | Pair | list[str | Pair] = Field(description="a text, a pair, or several")
    parameters: Parameters | None = None
    options: dict[str, Any] | None = Field(None, description="options of the hosted service; accepted and ignored")


def read(document: object) -> Request:
    """Convert a parsed JSON document to a request."""
    try:
        body = Body.model_validate(document)
    except ValidationError as problem:
        raise BadRequest(422, explain(problem)) from None
    items = body.inputs if isinstance(body.inputs, list) else [body.inputs]
    if not items:
        raise BadRequest(422, "`inputs` cannot be empty", "Empty")
    rows, parameters = [_row(item) for item in items], body.parameters or Parameters()
    return Request(rows, single=False, top_k=parameters.top_k, function=parameters.function_to_apply)


def _row(item: str | Pair) -> Row:
    if isinstance(item, str):
        return (item,)
    return (item.text,) if item.text_pair is None else (item.text, item.text_pair)


def write(answer: Answer, request: Request) -> object:  # noqa: ARG001
    """Return the JSON of the answer: a list of labels for each text."""
    return answer.predictions


def error(problem: BadRequest) -> object:
    """Return the JSON of an error."""
    return {"error": problem.message}
