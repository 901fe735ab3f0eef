"""The Open Inference Protocol v2 (KServe, Triton, MLServer), POST /v2/models/{name}[/versions/{version}]/infer.

Inputs are BYTES tensors of texts: `text`, and `text_pair` for pairs. Outputs are `scores` (FP32, texts x labels, in
the order of the model's labels), `label` (BYTES, the best one), of a multi-label model `decisions` (BOOL, texts x
labels: which it gives, by its thresholds) and, when asked for, `logits`.
"""

from typing import Any

from pydantic import BaseModel, Field, ValidationError

from models.record import explain
from models.task import Task
from service.dialects import Answer, BadRequest, Request

OUTPUTS = ("scores", "label", "logits", "decisions")


class Tensor(BaseModel):
    """An input tensor; further keys are the extensions of others."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class Wanted(BaseModel):
    """An output that is asked for."""

    name: str


class Body(BaseModel):
    """The request's JSON."""

    id: str | None = None
    inputs: list[Tensor] = Field(min_length=1)
    outputs: list[Wanted] | None = None


def read(document: object) -> Request:
    """Return the request in a parsed JSON document."""
    try:
        body = Body.model_validate(document)
    except ValidationError as problem:
        raise BadRequest(400, explain(problem)) from None
    wanted = tuple(output.name for output in body.outputs or ())  # none: those that the model has
    if unknown := [name for name in wanted if name not in OUTPUTS]:
        raise BadRequest(400, f"output {unknown[0]!r} is unknown: there are {', '.join(OUTPUTS)}")
    if {"scores", "logits"} <= set(wanted):
        raise BadRequest(400, "wanted either scores or logits as output, not both")
    named = {tensor.name: _texts(tensor) for tensor in body.inputs}
    if len(body.inputs) == 1:
        rows: list[tuple[str, ...]] = [(one,) for one in next(iter(named.values()))]
    elif set(named) == {"text", "text_pair"}:
        if len(named["text"]) != len(named["text_pair"]):
            raise BadRequest(400, "text and text_pair have different lengths")
        rows = list(zip(named["text"], named["text_pair"], strict=True))
    else:
        raise BadRequest(400, f"inputs are {', '.join(sorted(named))}: wanted text, or text and text_pair")
    return Request(rows, single=False, raw_scores="logits" in wanted, extra=(body.id, wanted))


def _texts(tensor: Tensor) -> list[str]:
    if tensor.datatype != "BYTES":
        raise BadRequest(400, f"input {tensor.name!r} is {tensor.datatype}, wanted BYTES")
    flat = [one for row in tensor.data for one in (row if isinstance(row, list) else [row])]
    if not flat or not all(isinstance(one, str) for one in flat):
        raise BadRequest(400, f"input {tensor.name!r} has no texts, or something that is none")
    size = 1
    for n in tensor.shape:
        size *= n
    if size != len(flat):
        raise BadRequest(400, f"input {tensor.name!r} has {len(flat)} texts and the shape {tensor.shape}")
    return flat


def write(answer: Answer, request: Request) -> object:
    """Return the answer's JSON, with tensors in row-major order."""
    request_id, wanted = request.extra
    rows = [row or [] for row in answer.predictions]
    count, labels = len(rows), answer.labels
    by_label = [[{p["label"]: p["score"] for p in row}[label] for label in labels] for row in rows]
    flat = [score for row in by_label for score in row]
    made: dict[str, dict[str, Any]] = {
        "scores": {"datatype": "FP32", "shape": [count, len(labels)], "data": flat},
        "logits": {"datatype": "FP32", "shape": [count, len(labels)], "data": flat},
        "label": {"datatype": "BYTES", "shape": [count], "data": [row[0]["label"] for row in rows]},
    }
    usual = ["scores", "label"]
    if answer.decisions is not None:
        given = [label in row for row in answer.decisions if row is not None for label in labels]
        made["decisions"] = {"datatype": "BOOL", "shape": [count, len(labels)], "data": given}
        usual.append("decisions")
    elif "decisions" in wanted:
        raise BadRequest(400, "output 'decisions' is of multi-label models, and this is none: take label")
    told: dict[str, Any] = {"model_name": answer.name, "model_version": answer.model}
    told |= {"outputs": [{"name": name, **made[name]} for name in wanted or usual]}
    return told | ({"id": request_id} if request_id is not None else {})


def error(problem: BadRequest) -> object:
    """Return the JSON of an error."""
    return {"error": problem.message}


def metadata(task: Task, name: str, version: str) -> object:
    """Return what GET /v2/models/{name} says."""
    inputs = ["text", "text_pair"] if task.pair else ["text"]
    types = {"scores": "FP32", "logits": "FP32", "label": "BYTES"}
    if task.kind == "multi":
        types["decisions"] = "BOOL"
    return {
        "name": name,
        "versions": [version],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": one, "datatype": "BYTES", "shape": [-1]} for one in inputs],
        "outputs": [
            {"name": one, "datatype": kind, "shape": [-1] if one == "label" else [-1, len(task.labels)]}
            for one, kind in types.items()
        ],
    }
