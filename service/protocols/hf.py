"""The Hugging Face Inference API, POST /, as `huggingface_hub.InferenceClient` uses it.

`inputs`: "text" | ["text", …] | {"text": "…", "text_pair": "…"} | [{…}, …] | [["text"], ["text", "pair"], …]. The
answer of `text_classification` is a list of lists, also for one text, because clients take the first element. With
`candidate_labels` in `parameters` it is that of `zero_shot_classification`. The keys of transformers' pipelines are
taken where they do not change the answer, or change it as they do there; the others are refused by name.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from models.schema import Record, explain
from models.task import Task
from models.tokenizer import Row
from service.protocols import Answer, BadRequest, Function, Request, StopAtFirst, validated, with_index, zero_shot
from service.protocols.zero_shot import ZeroShot


class Parameters(Record):
    """The score function, the labels in the answer, and truncation."""

    function_to_apply: Function | None = Field(None, description="softmax, sigmoid or none, in any case")
    top_k: int | None = Field(None, ge=1, description="number of best labels in the answer; by default all")
    return_all_scores: bool | None = Field(None, description="older name: true is all labels, false the best one")
    truncation: bool | Literal["longest_first", "only_first", "do_not_truncate"] = Field(
        True, description="whether a long text is cut; if not, it is refused; only_first is for single texts"
    )
    padding: bool | Literal["longest", "max_length", "do_not_pad"] | None = Field(
        None, description="accepted: padding never changes an answer here"
    )
    max_length: int | None = Field(None, ge=1, description="refused if it is less than the model takes")
    candidate_labels: str | Annotated[list[str], StopAtFirst()] | None = Field(
        None, description="labels for zero-shot classification"
    )
    hypothesis_template: str | None = Field(None, description="zero-shot: a sentence with {} for the label")
    multi_label: bool | None = Field(None, description="zero-shot: whether several labels may be true at once")

    @field_validator("function_to_apply", mode="before")
    @classmethod
    def _in_any_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.return_all_scores is not None and self.top_k is not None:
            raise ValueError("return_all_scores and top_k say the same: send one of them")
        if self.candidate_labels is None and (self.hypothesis_template is not None or self.multi_label is not None):
            raise ValueError("hypothesis_template and multi_label need candidate_labels")
        if self.candidate_labels is not None and self.function_to_apply is not None:
            raise ValueError("function_to_apply does not go with candidate_labels")
        return self

    def best(self) -> int | None:
        """Return the number of labels in the answer, None for all."""
        return 1 if self.return_all_scores is False else self.top_k

    def truncates(self) -> bool:
        """Whether a long text is cut."""
        return self.truncation not in (False, "do_not_truncate")

    def zero_shot(self) -> ZeroShot | None:
        """Return the candidate labels, None for the model's own labels."""
        if self.candidate_labels is None:
            return None
        template = {"hypothesis_template": self.hypothesis_template} if self.hypothesis_template is not None else {}
        return ZeroShot(candidate_labels=self.candidate_labels, multi_label=bool(self.multi_label), **template)

    def check(self, task: Task) -> None:
        """Check that `max_length` changes nothing.

        Raises:
            BadRequest: it would.
        """
        if self.max_length is not None and self.max_length < task.max_tokens:
            message = (
                f"max_length {self.max_length} would change the answer: this model takes {task.max_tokens} tokens"
            )
            raise BadRequest(422, f"parameters.{message}; leave it out")


class Pair(Record):
    """A text, or a pair of texts."""

    text: str
    text_pair: str | None = None


# as transformers' pipelines had it, and text-embeddings-inference has it
TextOrPair = Annotated[list[str], StopAtFirst(), Field(min_length=1, max_length=2)]


class HasParameters(BaseModel):
    """JSON of a request with the parameters of a pipeline."""

    parameters: Parameters | None = None


class Body(Record, HasParameters):
    """JSON of a request."""

    inputs: str | Pair | Annotated[list[str | Pair | TextOrPair], StopAtFirst()] = Field(
        description="a text, a pair, or several"
    )
    options: dict[str, Any] | None = Field(None, description="options of the hosted service; accepted and ignored")


Form = TypeVar("Form", bound=HasParameters)


def read(document: object) -> Request:
    """Convert a parsed JSON document to a request."""
    return read_as(Body, _rows, document)


def read_as(form: type[Form], rows_of: Callable[[Form], tuple[list[Row], bool]], document: object) -> Request:
    """Convert a parsed JSON document to a request with the parameters of a Hugging Face pipeline.

    Args:
        form: the class of the body, which has `parameters`.
        rows_of: returns the rows of the body, and whether the answer is for one text that is in no list.
        document: the JSON.

    Raises:
        BadRequest: the body or its parameters are invalid.
    """
    body = validated(form, document)
    parameters = body.parameters or Parameters()
    try:
        labels = parameters.zero_shot()
    except ValidationError as problem:
        raise BadRequest(422, explain(problem)) from None
    rows, single = rows_of(body)
    return _request(rows, single, parameters, labels)


def _rows(body: Body) -> tuple[list[Row], bool]:
    """Return the rows, and whether there is one that is in no list."""
    if not isinstance(body.inputs, list):
        return [_row(body.inputs)], True
    if not body.inputs:
        raise BadRequest(422, "`inputs` cannot be empty", "Empty")
    return [_row(item) for item in body.inputs], False


def _request(rows: list[Row], single: bool, parameters: Parameters, labels: ZeroShot | None) -> Request:
    if parameters.truncation == "only_first" and any(len(row) > 1 for row in rows):
        raise BadRequest(422, "parameters.truncation: only_first is for single texts, not for pairs")
    if labels is None:
        return Request(
            rows,
            single=single,
            top_k=parameters.best(),
            function=parameters.function_to_apply,
            truncate=parameters.truncates(),
            check=parameters.check if parameters.max_length is not None else None,
        )
    if any(len(row) != 1 for row in rows):
        raise BadRequest(422, "candidate_labels are for single texts, not for pairs")
    texts = [row[0] for row in rows]

    def check(task: Task) -> None:
        zero_shot.needs_entailment(task)
        parameters.check(task)

    return Request(
        zero_shot.rows(texts, labels),
        single=single,
        top_k=None,
        raw_scores=True,
        truncate=parameters.truncates(),
        rows_per_text=len(labels.labels()),
        check=check,
        extra=(texts, labels, parameters.best()),
    )


def _row(item: str | Pair | list[str]) -> Row:
    if isinstance(item, str):
        return (item,)
    if isinstance(item, list):
        return tuple(item)
    return (item.text,) if item.text_pair is None else (item.text, item.text_pair)


def write(answer: Answer, request: Request) -> object:
    """Return the JSON of the answer: a list of labels for each text; of a zero-shot request, labels and scores."""
    if request.extra is None:
        return answer.predictions
    texts, _, _ = request.extra
    documents = [zero_shot.as_sequence(text, row) for text, row in zip(texts, ranked(answer, request), strict=True)]
    return documents[0] if request.single else documents


def write_lists(answer: Answer, request: Request) -> object:
    """Return the same as `write`, with a list of labels and scores for each text of a zero-shot request too."""
    rows = ranked(answer, request)
    return rows[0] if request.extra is not None and request.single else rows


def ranked(answer: Answer, request: Request) -> Any:
    """Return the ranked labels of each text, whichever labels the request is about."""
    if request.extra is None:
        return answer.predictions
    _, labels, best = request.extra
    return [row[:best] for row in zero_shot.classify(answer.predictions, answer.labels, labels)]


def error(problem: BadRequest) -> object:
    """Return the JSON of an error."""
    return with_index({"error": problem.message}, problem)
