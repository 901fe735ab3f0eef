"""Classification as vLLM (POST /classify), SGLang and NVIDIA Dynamo (POST /v1/classify), and infinity have it.

vLLM's request, from its `entrypoints/pooling/classify/protocol.py`: {"input": "text" | ["text", …] | [id, …] |
[[id, …], …], "truncate_prompt_tokens", "truncation_side", "use_activation", "add_special_tokens", …} → {"id",
"object": "list", "created", "model", "data": [{"index", "label", "probs", "num_classes"}], "usage"}. Token ids are
taken as they are: no special tokens are added. infinity takes lists of texts, truncates them, and answers with labels
and scores in `data`.
"""

from typing import Annotated, Any

from pydantic import Field, StrictInt, ValidationError

from models.tokenizer import Row
from service.protocols import Answer, BadRequest, Request, StopAtFirst, in_label_order, invalid, validated
from service.protocols.openai import Body as OpenAiBody
from service.protocols.openai import TokenLimits, created, listed, make_id

Ids = Annotated[list[StrictInt], StopAtFirst()]


class Body(TokenLimits):
    """JSON of a request to /classify or /v1/classify with `input`."""

    input: str | Annotated[list[str], StopAtFirst()] | Ids | Annotated[list[Ids], StopAtFirst()] = Field(
        description="a text, several texts, the token ids of a text, or those of several texts"
    )
    add_special_tokens: bool = Field(True, description="whether the tokenizer adds its special tokens to a text")


class InfinityBody(OpenAiBody):
    """JSON of a request in infinity's form."""

    input: str | Annotated[list[str], StopAtFirst()] = Field(description="a text, or several")
    raw_scores: bool = Field(False, description="logits instead of probabilities")


def read(document: object) -> Request:
    """Convert a parsed JSON document to a request."""
    if isinstance(document, dict) and document.get("messages") is not None:
        raise BadRequest(400, "`messages` is for chat models: send the text as `input`")
    items = document.get("input") if isinstance(document, dict) else None
    try:
        body = Body.model_validate(document)
    except ValidationError as problem:
        is_input = all(detail["loc"][:1] == ("input",) for detail in problem.errors(include_url=False))
        raise (_input_error(items) if is_input else invalid(problem, Body, 400)) from None
    texts, token_ids = _inputs(body.input)
    return Request(
        texts,
        single=False,
        raw_scores=body.raw_scores(),
        truncate=body.truncate_prompt_tokens is not None,
        direction="left" if body.truncation_side == "left" else "right",
        model=body.named_model(),
        token_ids=token_ids,
        prompt=body.prompt(body.add_special_tokens),
        extra=body.request_id,
    )


def _input_error(items: object) -> BadRequest:
    """Return the error of an invalid `input`; it names the first item that is not of the kind of the first one."""
    problem = BadRequest(400, "input must be a text, texts, token ids, or lists of token ids")
    if isinstance(items, list) and items and isinstance(items[0], str | list):
        for i, item in enumerate(items):
            if type(item) is not type(items[0]) or (isinstance(item, list) and any(type(n) is not int for n in item)):
                return problem.at(i)
    return problem


def _inputs(value: Any) -> tuple[list[Row], list[list[int]] | None]:
    """Return the rows of a request, and their token ids where it has these instead of texts."""
    if isinstance(value, str):
        return [(value,)], None
    if not value:
        raise BadRequest(400, "`input` cannot be empty", "Empty")
    if isinstance(value[0], str):
        return [(text,) for text in value], None
    token_ids = value if isinstance(value[0], list) else [value]
    return [()] * len(token_ids), token_ids


def write(answer: Answer, request: Request) -> object:
    """Return the JSON of the answer: label and probabilities of each text, in the order of the model's labels."""
    data = [
        {
            "index": i,
            "label": row[0]["label"],
            "probs": in_label_order(row, answer.labels),
            "num_classes": len(answer.labels),
        }
        for i, row in enumerate(answer.predictions)
        if row is not None
    ]
    return listed("classify", data, answer, request)


def read_infinity(document: object) -> Request:
    """Convert a parsed JSON document in infinity's form to a request."""
    body = validated(InfinityBody, document, 400)
    texts = [body.input] if isinstance(body.input, str) else body.input
    if not texts:
        raise BadRequest(400, "`input` cannot be empty", "Empty")
    return Request(
        [(text,) for text in texts],
        single=False,
        raw_scores=body.raw_scores,
        model=body.named_model(),
        extra=body.request_id,
    )


def write_infinity(answer: Answer, request: Request) -> object:
    """Return the JSON of the answer in infinity's form: ranked labels of each text."""
    return {
        "object": "classify",
        "data": answer.predictions,
        "model": answer.name,
        "usage": {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens},
        "id": make_id("infinity", request.extra),
        "created": created(),
    }
