"""Ranking of documents by a model with one output (a cross-encoder): POST /rerank, /v1/rerank and /v2/rerank.

The form of Cohere, Jina and vLLM: {"query", "documents": ["text" | {"text"}, …], "top_n"?, "return_documents"?} →
{"id", "model", "results": [{"index", "relevance_score", "document"?}], "usage"}, best first. The form of
text-embeddings-inference: {"query", "texts": […], "raw_scores"?, "return_text"?, "truncate"?,
"truncation_direction"?} → [{"index", "score", "text"?}], best first. Scores are the sigmoid of the output.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from service.protocols import Answer, BadRequest, Request, StopAtFirst, validated
from service.protocols.openai import Content, TokenLimits, make_id, needs_one_output, text_of


class Document(BaseModel):
    """A document as an object; other keys are ignored."""

    text: str


class Body(TokenLimits):
    """JSON of a request in the form of Cohere, Jina and vLLM."""

    query: str | Document | Content = Field(description="a text, or an object with `text`")
    documents: Annotated[list[str | Document | Content], StopAtFirst()] = Field(
        description="texts, or objects with `text`"
    )
    top_n: int | None = Field(None, ge=0, description="number of best documents in the answer; 0: all")
    return_documents: bool | None = Field(
        True, description="whether the answer has the texts of the documents; null: it has them"
    )
    max_tokens_per_doc: int | None = Field(None, description="refused unless 0 or more than the model takes")
    max_tokens_per_query: int | None = Field(None, description="the same")
    logits: bool = Field(False, alias="raw_scores", description="infinity's name of use_activation: false")
    rank_fields: list[str] | None = Field(None, description='only ["text"]: the documents have no other field')


class TeiBody(BaseModel):
    """JSON of a request in the form of text-embeddings-inference; unknown keys are ignored, as there."""

    query: str
    texts: Annotated[list[str], StopAtFirst()] = Field(description="the documents to rank")
    raw_scores: bool = False
    return_text: bool = False
    truncate: bool | None = None
    truncation_direction: Literal["Left", "Right", "left", "right"] = "Right"


def read(document: object) -> Request:
    """Convert a parsed JSON document in the form of Cohere, Jina and vLLM to a request.

    Long documents are truncated, as by the services of Cohere and Jina.
    """
    body = validated(Body, document, 400)
    if body.rank_fields not in (None, ["text"]):
        raise BadRequest(400, 'rank_fields is not supported: documents are ranked by their "text"')
    query, texts = text_of(body.query), [text_of(item) for item in body.documents]
    if not texts or not query.strip():
        raise BadRequest(400, "`query` and `documents` cannot be empty", "Empty")
    limits = [n for n in (body.max_tokens_per_doc, body.max_tokens_per_query) if n]

    def check(task: Any) -> None:
        needs_one_output(task)
        if any(limit < task.max_tokens for limit in limits):
            raise BadRequest(
                400, f"max_tokens_per_doc and _per_query are not supported below the model's {task.max_tokens} tokens"
            )

    return Request(
        [(query, text) for text in texts],
        single=False,
        top_k=None,
        function="sigmoid",
        raw_scores=body.raw_scores() or body.logits,
        direction="left" if body.truncation_side == "left" else "right",
        model=body.named_model(),
        check=check,
        prompt=body.prompt(),
        extra=body,
    )


def write(answer: Answer, request: Request) -> object:
    """Return the JSON of the answer: the best `top_n` documents, best first."""
    body: Body = request.extra
    results: list[dict[str, Any]] = [
        {"index": index, "relevance_score": score} for index, score in _ranking(answer)[: body.top_n or None]
    ]
    if body.return_documents is not False:
        for result in results:
            result["document"] = {"text": request.rows[result["index"]][1]}
    return {
        "id": make_id("rerank", body.request_id),
        "model": answer.name,
        "results": results,
        "usage": {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens},
    }


def read_tei(document: object) -> Request:
    """Convert a parsed JSON document in the form of text-embeddings-inference to a request."""
    body = validated(TeiBody, document)
    if not body.texts or not body.query.strip():
        raise BadRequest(400, "`query` and `texts` cannot be empty", "Empty")
    return Request(
        [(body.query, text) for text in body.texts],
        single=False,
        function="sigmoid",
        raw_scores=body.raw_scores,
        truncate=body.truncate is not False,
        direction="left" if body.truncation_direction.lower() == "left" else "right",
        check=needs_one_output,
        extra=body.return_text,
    )


def write_tei(answer: Answer, request: Request) -> object:
    """Return the JSON of the answer in the form of text-embeddings-inference, best first."""
    text = {index: row[1] for index, row in enumerate(request.rows)} if request.extra else {}
    return [
        {"index": index, **({"text": text[index]} if text else {}), "score": score}
        for index, score in _ranking(answer)
    ]


def _ranking(answer: Answer) -> list[tuple[int, float]]:
    """Return the index and score of each document, best first; equal ones in their own order."""
    scores = [(i, float(row[0]["score"])) for i, row in enumerate(answer.predictions) if row is not None]
    return sorted(scores, key=lambda item: -item[1])
