"""The native dialect, POST /v1/classify.

{"text": "…"} | {"texts": ["…", …]} | {"pairs": [["…", "…"], …]}, and top_k, raw_scores, truncate,
truncation_direction → {"model", "predictions", "times_ms"}.
"""

from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from models.record import Record, explain
from service.dialects import BadRequest, Request, text


class Body(Record):
    """The request's JSON; keys that it does not know are refused."""

    text: str | None = Field(None, description="one text")
    texts: list[str] | None = Field(None, min_length=1, description="several texts")
    pairs: list[tuple[str, str]] | None = Field(None, min_length=1, description="pairs of texts")
    top_k: int | None = Field(None, ge=1, description="best labels only")
    raw_scores: bool = Field(False, description="logits instead of probabilities")
    truncate: bool = Field(True, description="cut long texts instead of refusing them")
    truncation_direction: Literal["left", "right"] = Field("right", description="the end that is cut")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum(value is not None for value in (self.text, self.texts, self.pairs)) != 1:
            raise ValueError("wanted one of text, texts and pairs")
        return self


def read(document: object) -> Request:
    """Return the request in a parsed JSON document."""
    try:
        body = Body.model_validate(document)
    except ValidationError as error:
        raise BadRequest(422, explain(error)) from None
    if body.pairs is not None:
        rows: list[tuple[str, ...]] = [(text(a, "a text"), text(b, "a text")) for a, b in body.pairs]
    elif body.texts is not None:
        rows = [(text(one, "a text"),) for one in body.texts]
    else:
        rows = [(text(body.text, "text"),)]
    single = body.text is not None
    return Request(rows, single, body.top_k, body.raw_scores, body.truncate, body.truncation_direction)


def write(model: str, answers: list[list[dict[str, Any]]], request: Request, times_ms: dict[str, float]) -> object:
    """Return the answer's JSON: predictions of one text are a list, of several a list of lists."""
    return {"model": model, "predictions": answers[0] if request.single else answers, "times_ms": times_ms}


def error(problem: BadRequest) -> object:
    """Return the JSON of an error."""
    return {"error": problem.message, "kind": problem.kind}
