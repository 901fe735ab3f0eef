"""The protocol of Hugging Face text-embeddings-inference, POST /predict.

`inputs`: "text" | ["text"] | ["first", "second"] (two in a flat list are a pair) | [["text"], ["first", "second"], …]
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from service.protocols import Answer, BadRequest, Request, StopAtFirst, validated, with_index


class Body(BaseModel):
    """JSON of a request; unknown keys are ignored, as text-embeddings-inference ignores them."""

    inputs: str | Annotated[list[str | Annotated[list[str], StopAtFirst()]], StopAtFirst()] = Field(
        description="a text, a pair, or a batch of lists"
    )
    raw_scores: bool = False
    truncate: bool | None = None
    truncation_direction: Literal["Left", "Right", "left", "right"] = "Right"


def read(document: object) -> Request:
    """Convert a parsed JSON document to a request."""
    body = validated(Body, document)
    inputs = body.inputs
    single = isinstance(inputs, str) or (bool(inputs) and isinstance(inputs[0], str))
    groups: list[Any] = [[inputs]] if isinstance(inputs, str) else [inputs] if single else list(inputs)
    if not groups:
        raise BadRequest(400, "`inputs` cannot be empty", "Empty")
    rows = [_row(group, i, single) for i, group in enumerate(groups)]
    left = body.truncation_direction.lower() == "left"
    return Request(
        rows,
        single,
        raw_scores=body.raw_scores,
        truncate=body.truncate is not False,
        direction="left" if left else "right",
    )


def _row(group: Any, index: int, single: bool) -> tuple[str, ...]:
    if isinstance(group, list) and all(isinstance(text, str) for text in group) and len(group) in (1, 2):
        return tuple(group)
    kind = len(group) if isinstance(group, list) else "a text"
    problem = BadRequest(422, f"an input is one text or a pair, found {kind}; a batch is a list of lists")
    raise problem if single else problem.at(index)


def write(answer: Answer, request: Request) -> object:
    """Return the JSON of the answer: flat for one input, nested for a batch."""
    return answer.predictions[0] if request.single else answer.predictions


def error(problem: BadRequest) -> object:
    """Return the JSON of an error."""
    return with_index({"error": problem.message, "error_type": problem.kind}, problem)
