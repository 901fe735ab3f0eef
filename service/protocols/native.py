"""The native protocol, POST /v1/classify.

{"text": "…"} | {"texts": ["…", …]} | {"pairs": [["…", "…"], …]}, and top_k, threshold, raw_scores, truncate,
truncation_direction, cascade, parameters (candidate labels for a model of pairs) → {"model", "predictions",
"labels", "stage", "windows", "errors", "times_ms"}. `labels` is only in the answers of a multi-label model: those
that it assigns to a text. `top_k`, `threshold` and `raw_scores` do not change them. `stage` is only in the answers of
a bundle with a gate: which model answered the text, "gate" or "student". `windows` is only there if long texts have
windows (PRUNELLA_WINDOWS, or the bundle's task.json): their number for each text.
"""

import math
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from models.schema import Record
from service.protocols import Answer, BadRequest, Prediction, Request, StopAtFirst, validated, with_index, zero_shot
from service.protocols.zero_shot import ZeroShot


class Body(Record):
    """JSON of a request; unknown keys are refused."""

    text: str | None = Field(None, description="one text")
    texts: Annotated[list[str], StopAtFirst()] | None = Field(None, min_length=1, description="several texts")
    pairs: Annotated[list[tuple[str, str]], StopAtFirst()] | None = Field(
        None, min_length=1, description="pairs of texts"
    )
    top_k: int | None = Field(None, ge=1, description="number of best labels in the answer")
    threshold: float | None = Field(None, allow_inf_nan=False, description="labels with a lower score are omitted")
    raw_scores: bool = Field(False, description="logits instead of probabilities")
    truncate: bool = Field(True, description="truncate long texts instead of refusing them")
    truncation_direction: Literal["left", "right"] = Field("right", description="the end that is truncated")
    cascade: bool = Field(True, description="false: the student answers, also what the bundle's gate could answer")
    parameters: ZeroShot | None = Field(None, description="candidate labels, for a model of pairs with entailment")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum(value is not None for value in (self.text, self.texts, self.pairs)) != 1:
            raise ValueError("wanted one of text, texts and pairs")
        if self.parameters is not None and (self.pairs is not None or self.raw_scores):
            raise ValueError("candidate_labels go with text or texts, without raw_scores")
        return self


def read(document: object) -> Request:
    """Convert a parsed JSON document to a request."""
    if isinstance(document, dict) and len(document) == 1 and isinstance(text := document.get("text"), str):
        return Request([(text,)], single=True)  # the most frequent request skips the validation
    body = validated(Body, document)
    if body.text is not None:
        rows: list[tuple[str, ...]] = [(body.text,)]
    else:
        rows = list(body.pairs) if body.pairs is not None else [(text,) for text in body.texts or ()]
    if body.parameters is not None:
        return _zero_shot(body, [row[0] for row in rows], body.parameters)
    return Request(
        rows,
        single=body.text is not None,
        top_k=body.top_k,
        threshold=body.threshold,
        raw_scores=body.raw_scores,
        truncate=body.truncate,
        direction=body.truncation_direction,
        per_item=body.text is None,
        cascade=body.cascade,
    )


def _zero_shot(body: Body, texts: list[str], labels: ZeroShot) -> Request:
    """Return the request that asks which of the candidate labels each text has."""
    return Request(
        zero_shot.rows(texts, labels),
        single=body.text is not None,
        raw_scores=True,
        truncate=body.truncate,
        direction=body.truncation_direction,
        rows_per_text=len(labels.labels()),
        check=zero_shot.needs_entailment,
        extra=(labels, body.top_k, body.threshold),
    )


def _of_candidates(answer: Answer, request: Request) -> Answer:
    """Return the answer with the candidate labels of each text instead of the model's labels of each pair."""
    labels, top_k, threshold = request.extra
    ranked = zero_shot.classify(answer.predictions, answer.labels, labels)
    least = -math.inf if threshold is None else threshold
    kept: list[list[Prediction] | None] = [
        [prediction for prediction in row[:top_k] if prediction["score"] >= least] for row in ranked
    ]
    return replace(answer, predictions=kept, decisions=None)


def write(answer: Answer, request: Request) -> object:
    """Return the JSON of the answer: predictions are a list for one text, a list of lists or nulls for several."""
    if request.extra is not None:
        answer = _of_candidates(answer, request)
    predictions: Any = answer.predictions[0] if request.single else answer.predictions
    document: dict[str, Any] = {"model": answer.model, "predictions": predictions, "times_ms": answer.times_ms}
    if answer.decisions is not None:
        document["labels"] = answer.decisions[0] if request.single else answer.decisions
    if answer.stages is not None:
        document["stage"] = answer.stages[0] if request.single else answer.stages
    if answer.windows is not None:
        document["windows"] = answer.windows[0] if request.single else answer.windows
    if answer.problems:
        document["errors"] = [{**error(problem), "index": i} for i, problem in sorted(answer.problems.items())]
    return document


def error(problem: BadRequest) -> dict[str, Any]:
    """Return the JSON of an error."""
    return with_index({"error": problem.message, "kind": problem.kind}, problem)
