"""What the protocols of vLLM, SGLang, Dynamo, infinity, Cohere and Jina share: the model's name, ids, usage, errors.

An invalid request is answered with 400 here, as vLLM does, where other protocols answer with 422.
"""

import time
import uuid
from typing import Any, Literal, Protocol

from pydantic import BaseModel, Field

from models.task import Task
from service.protocols import Answer, BadRequest, Prompt, Request, with_index

STATUSES = {422: 400}  # how these protocols answer what is 422 in the others
UNNAMED = ("", "default", "default/not-specified")  # names that clients send instead of a model's
TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    405: "Method Not Allowed",
    415: "Unsupported Media Type",
    429: "RateLimitError",
    500: "InternalServerError",
    503: "ServiceUnavailableError",
    504: "TimeoutError",
}


class Body(BaseModel):
    """The keys that all requests share; unknown keys are ignored, as vLLM ignores them."""

    model: str | None = Field(None, description="name of the served model; another one is answered with 404")
    request_id: str | None = Field(None, max_length=200, description="becomes part of the answer's id")
    priority: int = Field(0, description="accepted and ignored: the server has its own order")
    user: str | None = Field(None, description="accepted and ignored")

    def named_model(self) -> str | None:
        """Return the name of the model that the client wants, or None."""
        return None if self.model in UNNAMED else self.model


class TokenLimits(Body):
    """Truncation and activation, as vLLM names them."""

    truncate_prompt_tokens: int | None = Field(
        None, ge=-1, description="tokens that are kept; -1: as many as the model takes; by default nothing is cut"
    )
    truncation_side: str | None = Field(None, pattern="^(left|right)$", description="the end that is cut")
    use_activation: bool | None = Field(None, description="false: logits instead of scores")
    softmax: bool | None = Field(None, description="older name of use_activation")
    activation: bool | None = Field(None, description="older name of use_activation")

    def raw_scores(self) -> bool:
        """Whether the client wants logits."""
        return False in (self.use_activation, self.softmax, self.activation)

    def prompt(self, special_tokens: bool = True) -> Prompt | None:
        """Return the limit on tokens, None where only the model's own limit applies."""
        limit = self.truncate_prompt_tokens
        limit = None if limit == -1 else limit
        return None if limit is None and special_tokens else Prompt(limit, special_tokens)


class TextPart(BaseModel):
    """A part of the content of a text; parts of other types, such as images, are refused."""

    type: Literal["text"]
    text: str


class Content(BaseModel):
    """A text as vLLM and SGLang also take it: {"content": [{"type": "text", "text": "…"}]}."""

    content: list[TextPart] = Field(min_length=1, max_length=1)

    @property
    def text(self) -> str:
        """The text."""
        return self.content[0].text


class HasText(Protocol):
    """A text as an object."""

    @property
    def text(self) -> str:
        """The text."""


def text_of(value: str | HasText) -> str:
    """Return a text that may be an object."""
    return value if isinstance(value, str) else value.text


def make_id(kind: str, request_id: str | None) -> str:
    """Return the id of an answer, such as `classify-0f3a…`."""
    return f"{kind}-{request_id or uuid.uuid4().hex}"


def created() -> int:
    """Return the time of an answer: seconds since 1970."""
    return int(time.time())


def listed(kind: str, data: list[dict[str, Any]], answer: Answer, request: Request) -> dict[str, Any]:
    """Return the JSON of an answer whose `data` has an object for each text or pair."""
    tokens = answer.tokens
    return {
        "id": make_id(kind, request.extra),
        "object": "list",
        "created": created(),
        "model": answer.name,
        "data": data,
        "usage": {
            "prompt_tokens": tokens,
            "total_tokens": tokens,
            "completion_tokens": 0,
            "prompt_tokens_details": None,
        },
    }


def needs_one_output(task: Task) -> None:
    """Check that a model gives one score for a pair of texts.

    Raises:
        BadRequest: it has several outputs, or does not take pairs.
    """
    if len(task.labels) != 1:
        names = ", ".join(task.labels[:3]) + (", …" if len(task.labels) > 3 else "")
        raise BadRequest(
            400,
            f"this model has {len(task.labels)} outputs ({names}): scores and ranking need a model with one output; "
            "use /v1/classify",
        )
    if not task.pair:
        raise BadRequest(400, "this model takes single texts: scores and ranking need a model of pairs")


def error(problem: BadRequest) -> object:
    """Return the JSON of an error."""
    status = STATUSES.get(problem.status, problem.status)
    default = "BadRequestError" if status < 500 else "InternalServerError"
    document = {
        "message": problem.message,
        "type": TYPES.get(status, default),
        "param": None,
        "code": status,
    }
    return {"error": with_index(document, problem)}
