"""Protocols: convert JSON to a Request and an Answer to JSON.

Each protocol is one module with the functions `read`, `write` and `error`. The computation of scores, which all of
them share, is in this file.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AliasChoices, BaseModel, FailFast, ValidationError

from models.schema import sentence
from models.task import Task
from models.tokenizer import Row

Function = Literal["softmax", "sigmoid", "none"]
Prediction = dict[str, Any]  # {"label": …, "score": …}
Stage = Literal["gate", "student"]  # which of the two models of a cascade answered a text
Form = TypeVar("Form", bound=BaseModel)
# the keys of requests that have lists of texts, under every name that a protocol accepts
TEXT_KEYS = (
    "inputs", "input", "texts", "pairs", "instances",
    "queries", "text_1", "data_1", "documents", "text_2", "data_2", "items",
)  # fmt: skip

# pydantic's names of errors and of kinds of values
WRONG_TYPES = (
    "string_type",
    "int_type",
    "list_type",
    "tuple_type",
    "dict_type",
    "model_type",
    "model_attributes_type",
)
NOT_AN_OBJECT = "the body must be a JSON object"
KINDS = ("str", "int", "bool", "float")


class StopAtFirst(FailFast):
    """Stop at the first invalid item of a list: one of a million items would give a million errors."""

    __hash__ = object.__hash__  # without it the type cannot be part of a union


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a request says about the tokens of its single texts, beyond truncation to the model's limit."""

    limit: int | None = None  # tokens, special tokens included; None: the model's limit
    special_tokens: bool = True  # whether the tokenizer adds [CLS], [SEP], …


@dataclass(slots=True)  # not frozen: that would cost a microsecond for each request
class Request:
    """A request in the form that all protocols share."""

    rows: list[Row]
    single: bool  # the answer is one item instead of a list
    top_k: int | None = None
    threshold: float | None = None  # labels with a lower score are omitted
    raw_scores: bool = False
    function: Function | None = None  # default: the function of the task
    truncate: bool = True
    direction: Literal["left", "right"] = "right"
    per_item: bool = False  # the protocol has per-text errors: the other texts are answered
    rows_per_text: int = 1  # rows that are made of one text of the client; errors name the text
    model: str | None = None  # the model that the client names; another one than the served one is refused
    check: Callable[[Task], None] | None = None  # raises BadRequest if the model cannot answer such a request
    token_ids: list[list[int]] | None = None  # the tokens of each row, instead of texts; `rows` is as long
    prompt: Prompt | None = None
    cascade: bool = True  # the gate of a cascade may answer; else the student does
    extra: Any = None  # data of the protocol, for its `write`


class BadRequest(Exception):
    """A request, or one of its texts, that cannot be answered; each protocol writes it in its own format.

    `retry_after` is in seconds; `close` closes the connection, because the rest of the request is not read; `index`
    is the position of the text in a request of several.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "Validation",
        retry_after: float | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind
        self.retry_after, self.close = retry_after, close
        self.index: int | None = None

    def at(self, index: int) -> "BadRequest":
        """Say in the message and in `index` which text of several it is; return this error."""
        if self.index is None:
            self.index = index
            self.message = f"{self.message} (the text at index {index})"
        return self


@dataclass(slots=True)
class Answer:
    """An answer in the form that all protocols share."""

    model: str  # id of the bundle
    name: str
    labels: tuple[str, ...]
    predictions: list[list[Prediction] | None]  # by row; None where `problems` has an error
    decisions: list[list[str] | None] | None = None  # by row, only for a multi-label task: assigned labels
    problems: dict[int, BadRequest] = field(default_factory=dict)
    times_ms: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    characters: int = 0
    compute: str = ""  # device and variant
    stages: list[Stage | None] | None = None  # by row, None where there is no answer; only of a bundle with a gate
    windows: list[int | None] | None = None  # by row: windows of its text; None: the model has no windows


def invalid(problem: ValidationError, form: type[BaseModel], status: int = 422) -> BadRequest:
    """Return the error of a JSON document that is not a valid `form`; it names the first text that is invalid."""
    details = problem.errors(include_url=False, include_input=False, include_context=False)
    error = BadRequest(status, _sentences(details, form))
    for detail in details:
        if detail["loc"] and detail["loc"][0] in TEXT_KEYS:
            for part in detail["loc"]:
                if isinstance(part, int):
                    return error.at(part)
    return error


def _sentences(details: list[Any], form: type[BaseModel]) -> str:
    """Return what is wrong in a document, in one sentence for each of its first five wrong keys."""
    if not details[0]["loc"] and details[0]["type"] in WRONG_TYPES:
        return NOT_AN_OBJECT
    groups: dict[Any, list[Any]] = {}
    for detail in details:
        groups.setdefault(detail["loc"][0] if detail["loc"] else "the document", []).append(detail)
    return "; ".join(_of_key(key, group, form) for key, group in list(groups.items())[:5])


def _of_key(key: Any, details: list[Any], form: type[BaseModel]) -> str:
    """Return what is wrong with the value of a key, where pydantic would list all kinds of values that it is not."""
    inside = details if len(details) == 1 else [detail for detail in details if detail["type"] not in WRONG_TYPES]
    if inside:  # one kind is right, and something in it is wrong
        return "; ".join(f"{_place(detail['loc']) or key}: {sentence(detail)}" for detail in inside[:5])
    return f"{key}: wanted {_description(form, key)}"


def _place(parts: tuple[Any, ...]) -> str:
    """Return the keys and positions of a place, without pydantic's names of the kinds between them."""
    names = (str(part) for part in parts if isinstance(part, int) or (part.islower() and part not in KINDS))
    return ".".join(name for name in names if "[" not in name)


def _description(form: type[BaseModel], key: str) -> str:
    """Return the description of a field by its name or by another name that requests may use."""
    for name, one in form.model_fields.items():
        others = one.validation_alias.choices if isinstance(one.validation_alias, AliasChoices) else ()
        if key == name or key in others:
            return one.description or "another kind of value"
    return "another kind of value"


def validated(form: type[Form], document: object, status: int = 422) -> Form:
    """Return the body of a request as a record of the class `form`.

    Raises:
        BadRequest: the parsed JSON `document` is not valid: HTTP status `status`.
    """
    try:
        return form.model_validate(document)
    except ValidationError as problem:
        raise invalid(problem, form, status) from None


def with_index(document: dict[str, Any], problem: BadRequest) -> dict[str, Any]:
    """Return the JSON of an error with the index of its text, if it is the error of one text of several."""
    return document if problem.index is None else {**document, "index": problem.index}


def in_label_order(row: list[Prediction], labels: tuple[str, ...]) -> list[float]:
    """Return the scores of one text in the order of the model's labels."""
    scores = {prediction["label"]: prediction["score"] for prediction in row}
    return [scores[label] for label in labels]


def score(function: Function, logits: list[float]) -> list[float]:
    """Return the scores of one text. For so few numbers Python is faster than NumPy."""
    if function == "none":
        return logits
    return _softmax(logits) if function == "softmax" else [_sigmoid(x) for x in logits]


def ranked(task: Task, logits: list[float], request: Request) -> list[Prediction]:
    """Return labels and scores in descending order of score: at most `top_k`, none below `threshold`."""
    function = "none" if request.raw_scores else request.function or task.function
    scores, labels = score(function, logits), task.labels
    order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)[: request.top_k]
    if request.threshold is not None:
        order = [i for i in order if scores[i] >= request.threshold]
    return [{"label": labels[i], "score": scores[i]} for i in order]


def decisions(task: Task, rows: list[list[float] | None]) -> list[list[str] | None] | None:
    """Return the labels that a multi-label task assigns to each row of logits, by the thresholds of the task.

    None for tasks of another kind.
    """
    if task.kind != "multi":
        return None
    return [None if row is None else _assigned_labels(task, row) for row in rows]


def _assigned_labels(task: Task, logits: list[float]) -> list[str]:
    assigned = task.decide(task.scores(np.array(logits, dtype=np.float32)))
    return [label for label, is_assigned in zip(task.labels, assigned, strict=True) if is_assigned]


def predictions(task: Task, logits: NDArray[np.float32], request: Request) -> list[list[Prediction]]:
    """Return the ranked labels of each row of `logits` (rows, labels)."""
    return [ranked(task, row, request) for row in logits.tolist()]


def _softmax(logits: list[float]) -> list[float]:
    top = max(logits)
    powers = [math.exp(x - top) for x in logits]
    total = sum(powers)
    return [x / total for x in powers]


def _sigmoid(x: float) -> float:
    return 0.5 * (1.0 + math.tanh(0.5 * x))  # this form does not overflow
