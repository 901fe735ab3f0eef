"""Vertex AI's prediction request: {"instances": [instance, …], "parameters"?} → {"predictions": [labels, …]}.

An instance is a text, or an object with `inputs` or `text` (and `text_pair`); `parameters` are those of POST /.
"""

from typing import Annotated, Any

from pydantic import Field

from models.schema import Record
from models.tokenizer import Row
from service.protocols import Answer, BadRequest, Request, StopAtFirst, hf
from service.protocols.hf import HasParameters


class Instance(Record):
    """A text, or a pair of texts."""

    inputs: str | None = Field(None, description="the text; the same as `text`")
    text: str | None = None
    text_pair: str | None = None
    truncate: bool | None = Field(None, description="text-embeddings-inference's; the same in every instance")
    raw_scores: bool | None = Field(None, description="text-embeddings-inference's; the same in every instance")

    def row(self) -> Row | None:
        """Return the texts, None if there is not one of `inputs` and `text`."""
        text = self.text if self.inputs is None else self.inputs
        if text is None or None not in (self.text, self.inputs):
            return None
        return (text,) if self.text_pair is None else (text, self.text_pair)


class Body(HasParameters):
    """JSON of a request."""

    instances: Annotated[list[str | Instance], StopAtFirst()] = Field(
        min_length=1, description="texts, or objects with `inputs` or `text`"
    )


def read(document: object) -> Request:
    """Convert a parsed JSON document to a request."""
    request = hf.read_as(Body, _rows, document)
    instances: list[Any] = document["instances"]  # type: ignore[index]  # it has been validated
    request.truncate = request.truncate and _of_all(instances, "truncate") is not False
    request.raw_scores = request.raw_scores or _of_all(instances, "raw_scores") is True
    return request


def _of_all(instances: list[Any], key: str) -> bool | None:
    """Return what all instances say, None if they do not have the key.

    Raises:
        BadRequest: they say different things; the error names the first instance that differs from the one before it.
    """
    values = [bool(one[key]) if isinstance(one, dict) and one.get(key) is not None else None for one in instances]
    for i, value in enumerate(values):
        if value is not values[0]:
            raise BadRequest(422, f"the instances of a request must have the same {key}").at(i)
    return values[0]


def _rows(body: Body) -> tuple[list[Row], bool]:
    """Return the rows; the answer is always a list."""
    rows: list[Row] = []
    for i, instance in enumerate(body.instances):
        row = (instance,) if isinstance(instance, str) else instance.row()
        if row is None:
            raise BadRequest(422, "an instance has one of `inputs` and `text`").at(i)
        rows.append(row)
    return rows, False


def write(answer: Answer, request: Request) -> dict[str, Any]:
    """Return the JSON of the answer: the ranked labels of each instance."""
    return {"predictions": hf.ranked(answer, request)}


error = hf.error
