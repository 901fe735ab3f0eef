"""Scores of pairs by a model with one output (a cross-encoder), as vLLM has them: POST /score and /v1/score.

{"queries" | "text_1" | "data_1": "q" | ["q", …], "documents" | "items" | "text_2" | "data_2": "d" | ["d", …]}: one
query with each document, or as many queries as documents, which are paired in order → {"id", "object": "list",
"created", "model", "data": [{"index", "object": "score", "score"}], "usage"}. The score is the sigmoid of the output,
as in vLLM and text-embeddings-inference; with `use_activation: false` it is the output itself.
"""

from typing import Annotated, Any

from pydantic import AliasChoices, Field

from service.protocols import Answer, BadRequest, Request, StopAtFirst, validated
from service.protocols.openai import Content, TokenLimits, listed, needs_one_output, text_of

Texts = str | Content | Annotated[list[str | Content], StopAtFirst()]


class Body(TokenLimits):
    """JSON of a request."""

    queries: Texts = Field(
        validation_alias=AliasChoices("queries", "text_1", "data_1"), description="a text, or several"
    )
    documents: Texts = Field(
        validation_alias=AliasChoices("documents", "text_2", "data_2", "items"), description="a text, or several"
    )
    max_tokens_per_query: int | None = Field(None, description="refused unless 0: pairs are cut as a whole")
    max_tokens_per_doc: int | None = Field(None, description="refused unless 0: pairs are cut as a whole")


def read(document: object) -> Request:
    """Convert a parsed JSON document to a request."""
    body = validated(Body, document, 400)
    for key in ("max_tokens_per_query", "max_tokens_per_doc"):
        if getattr(body, key):
            raise BadRequest(400, f"{key} is not supported: use truncate_prompt_tokens, which cuts the pair")
    queries, documents = (
        [text_of(one) for one in (value if isinstance(value, list) else [value])]
        for value in (body.queries, body.documents)
    )
    if not queries or not documents:
        raise BadRequest(400, "queries and documents cannot be empty", "Empty")
    if len(queries) not in (1, len(documents)):
        raise BadRequest(
            400,
            f"{len(queries)} queries and {len(documents)} documents: wanted one query, or as many as documents",
        )
    pairs = zip(queries * len(documents) if len(queries) == 1 else queries, documents, strict=True)
    return Request(
        list(pairs),
        single=False,
        function="sigmoid",
        raw_scores=body.raw_scores(),
        truncate=body.truncate_prompt_tokens is not None,
        direction="left" if body.truncation_side == "left" else "right",
        model=body.named_model(),
        check=needs_one_output,
        prompt=body.prompt(),
        extra=body.request_id,
    )


def write(answer: Answer, request: Request) -> object:
    """Return the JSON of the answer: a score for each pair."""
    data: list[Any] = [
        {"index": i, "object": "score", "score": row[0]["score"]}
        for i, row in enumerate(answer.predictions)
        if row is not None
    ]
    return listed("score", data, answer, request)
