"""The native protocol, POST /v1/classify.

{"text": "…"} | {"texts": ["…", …]} | {"pairs": [["…", "…"], …]}, and top_k, threshold, raw_scores, truncate,
truncation_direction → {"model", "predictions", "labels", "errors", "times_ms"}. `labels` is only in the answers of a
multi-label model: the labels that it assigns to a text. `top_k`, `threshold` and `raw_scores` do not change them.
"""

from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from models.schema import Record, explain
from service.protocols import Answer, BadRequest, Request


class Body(Record):
    """JSON of a request; unknown keys are refused."""

    text: str | None = Field(None, description="one text")
    texts: list[str] | None = Field(None, min_length=1, description="several texts")
    pairs: list[tuple[str, str]] | None = Field(None, min_length=1, description="pairs of texts")
    top_k: int | None = Field(None, ge=1, description="number of best labels in the answer")
    threshold: float | None = Field(None, allow_inf_nan=False, description="labels with a lower score are omitted")
    raw_scores: bool = Field(False, description="logits instead of probabilities")
    truncate: bool = Field(True, description="truncate long texts instead of refusing them")
    truncation_direction: Literal["left", "right"] = Field("right", description="the end that is truncated")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum(value is not None for value in (self.text, self.texts, self.pairs)) != 1:
            raise ValueError("wanted one of text, texts and pairs")
        return self


def read(document: object) -> Request:
    """Convert a parsed JSON document to a request."""
    if isinstance(document, dict) and len(document) == 1 and isinstance(text := document.get("text"), str):
        return Request([(text,)], single=True)  # the most frequent request skips the validation
    try:
        body = Body.model_validate(document)
    except ValidationError as problem:
        raise BadRequest(422, explain(problem)) from None
    if body.text is not None:
        rows: list[tuple[str, ...]] = [(body.text,)]
    else:
        rows = list(body.pairs) if body.pairs is not None else [(text,) for text in body.texts or ()]
    return Request(
        rows,
        single=body.text is not None,
        top_k=body.top_k,
        threshold=body.threshold,
        raw_scores=body.raw_scores,
        truncate=body.truncate,
        direction=body.truncation_direction,
        per_item=body.text is None,
    )


def write(answer: Answer, request: Request) -> object:
    """Return the JSON of the answer: predictions are a list for one text, a list of lists or nulls for several."""
    predictions: Any = answer.predictions[0] if request.single else answer.predictions
    document: dict[str, Any] = {"model": answer.model, "predictions": predictions, "times_ms": answer.times_ms}
    if answer.decisions is not None:
        document["labels"] = answer.decisions[0] if request.single else answer.decisions
    if answer.problems:
        document["errors"] = [{"index": i, **error(problem)} for i, problem in sorted(answer.problems.items())]
    return document


def error(problem: BadRequest) -> dict[str, str]:
    """Return the JSON of an error."""
    return {"error": problem.message, "kind": problem.kind}
