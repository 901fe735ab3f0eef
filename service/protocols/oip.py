"""The Open Inference Protocol v2 (KServe, Triton, MLServer), POST /v2/models/{name}[/versions/{version}]/infer.

Inputs are BYTES tensors of texts: `text`, and `text_pair` for pairs. Outputs are `scores` (FP32, texts x labels, in
the order of the model's labels), `label` (BYTES, the best one), for a multi-label model `decisions` (BOOL, texts x
labels, whether each label is assigned by the model's thresholds) and, on request, `logits`. The parameter
`classification` of an output, Triton's, makes scores or logits a BYTES tensor of the best classes: "0.93:2:sports".
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from pydantic import BaseModel, Field, ValidationError

from models.schema import explain
from models.task import Task
from service.protocols import NOT_AN_OBJECT, Answer, BadRequest, Prediction, Request, in_label_order, with_index

OUTPUTS = ("scores", "label", "logits", "decisions")


class Tensor(BaseModel):
    """An input tensor; other keys, such as extensions of the protocol, are ignored."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class OipParameters(BaseModel):
    """Parameters of an output or of a request."""

    binary_data: bool | None = Field(None, description="of an output: whether its data is binary")
    binary_data_output: bool | None = Field(None, description="of a request: the same for outputs that do not say it")
    classification: int | None = Field(
        None, ge=0, description="of the outputs scores and logits, Triton's extension: so many best classes, as text"
    )


class RequestedOutput(BaseModel):
    """A requested output."""

    name: str
    parameters: OipParameters | None = None  # some clients send null for what they leave out


class Wanted(NamedTuple):
    """What a request says about its answer."""

    request_id: str | None
    outputs: tuple[str, ...]  # empty: the default ones of the model
    binary: bool  # whether outputs that do not say it are binary
    binary_by_name: dict[str, bool]
    classes: dict[str, int]  # by the name of the output, for those that are wanted as best classes


class Body(BaseModel):
    """JSON of a request."""

    id: str | None = None
    inputs: list[Tensor] = Field(min_length=1)
    outputs: list[RequestedOutput] | None = None
    parameters: OipParameters | None = None


def read(document: object) -> Request:
    """Convert a parsed JSON document to a request."""
    if not isinstance(document, dict):
        raise BadRequest(400, NOT_AN_OBJECT)
    try:
        body = Body.model_validate(document)
    except ValidationError as problem:
        raise BadRequest(400, explain(problem)) from None
    requested = body.outputs or []
    outputs = tuple(output.name for output in requested)
    parameters = {output.name: output.parameters or OipParameters() for output in requested}
    classes = {name: one.classification for name, one in parameters.items() if one.classification}
    if not classes.keys() <= {"scores", "logits"}:
        raise BadRequest(400, "the parameter 'classification' is for the outputs scores and logits")
    if unknown := [name for name in outputs if name not in OUTPUTS]:
        raise BadRequest(400, f"unknown output {unknown[0]!r}: choose from {', '.join(OUTPUTS)}")
    if {"scores", "logits"} <= set(outputs):
        raise BadRequest(400, "wanted either scores or logits as output, not both")
    texts = {tensor.name: _texts(tensor) for tensor in body.inputs}
    if len(body.inputs) == 1:
        rows: list[tuple[str, ...]] = [(text,) for text in next(iter(texts.values()))]
    elif set(texts) == {"text", "text_pair"}:
        if len(texts["text"]) != len(texts["text_pair"]):
            raise BadRequest(400, "text and text_pair have different lengths")
        rows = list(zip(texts["text"], texts["text_pair"], strict=True))
    else:
        raise BadRequest(400, f"inputs are {', '.join(sorted(texts))}: wanted text, or text and text_pair")
    by_name = {name: one.binary_data for name, one in parameters.items() if one.binary_data is not None}
    binary = body.parameters is not None and body.parameters.binary_data_output is True
    wanted = Wanted(body.id, outputs, binary, by_name, classes)
    return Request(rows, single=False, raw_scores="logits" in outputs, extra=wanted)


def wants_binary(request: Request) -> bool:
    """Whether an output of the answer may be binary."""
    wanted: Wanted = request.extra
    return wanted.binary or True in wanted.binary_by_name.values()


def is_binary(request: Request) -> Callable[[str], bool]:
    """Return a function that says of the name of an output whether its data is binary."""
    wanted: Wanted = request.extra
    return lambda name: wanted.binary_by_name.get(name, wanted.binary)


def _texts(tensor: Tensor) -> list[str]:
    """Return the texts of a tensor, whose data may be flat or nested one level."""
    if tensor.datatype != "BYTES":
        raise BadRequest(400, f"input {tensor.name!r} is {tensor.datatype}, wanted BYTES")
    flat = [item for row in tensor.data for item in (row if isinstance(row, list) else [row])]
    if not flat:
        raise BadRequest(400, f"input {tensor.name!r} is empty")
    for i, item in enumerate(flat):
        if not isinstance(item, str):
            raise BadRequest(400, f"input {tensor.name!r} has an element that is not a string").at(i)
    size = 1
    for n in tensor.shape:
        size *= n
    if size != len(flat) or min(tensor.shape, default=1) < 0:
        raise BadRequest(400, f"input {tensor.name!r} has {len(flat)} texts and the shape {tensor.shape}")
    return flat


def write(answer: Answer, request: Request) -> object:
    """Return the JSON of the answer, with tensors in row-major order."""
    request_id, requested, _, _, classes = request.extra
    rows = [row or [] for row in answer.predictions]
    count, labels = len(rows), answer.labels
    flat = [score for row in rows for score in in_label_order(row, labels)]
    tensors: dict[str, dict[str, Any]] = {
        "scores": {"datatype": "FP32", "shape": [count, len(labels)], "data": flat},
        "logits": {"datatype": "FP32", "shape": [count, len(labels)], "data": flat},
        "label": {"datatype": "BYTES", "shape": [count], "data": [row[0]["label"] for row in rows]},
    }
    default = ["scores", "label"]
    if answer.decisions is not None:
        assigned = [label in row for row in answer.decisions if row is not None for label in labels]
        tensors["decisions"] = {"datatype": "BOOL", "shape": [count, len(labels)], "data": assigned}
        default.append("decisions")
    elif "decisions" in requested:
        raise BadRequest(400, "only multi-label models have the output 'decisions': use 'label'")
    for name, most in classes.items():
        best = [text for row in rows for text in _classes(row[:most], labels)]
        tensors[name] = {"datatype": "BYTES", "shape": [count, min(most, len(labels))], "data": best}
    outputs = [{"name": name, **tensors[name]} for name in requested or default]
    document: dict[str, Any] = {"model_name": answer.name, "model_version": answer.model, "outputs": outputs}
    return document | ({"id": request_id} if request_id is not None else {})


def _classes(row: list[Prediction], labels: tuple[str, ...]) -> list[str]:
    """Return ranked labels as Triton writes classes: value, index and label."""
    return [f"{one['score']:f}:{labels.index(one['label'])}:{one['label']}" for one in row]


def error(problem: BadRequest) -> object:
    """Return the JSON of an error."""
    return with_index({"error": problem.message}, problem)


def metadata(task: Task, name: str, version: str) -> dict[str, Any]:
    """Return the JSON of GET /v2/models/{name}."""
    inputs = ["text", "text_pair"] if task.pair else ["text"]
    types = {"scores": "FP32", "logits": "FP32", "label": "BYTES"}
    if task.kind == "multi":
        types["decisions"] = "BOOL"
    return {
        "name": name,
        "versions": [version],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": tensor, "datatype": "BYTES", "shape": [-1]} for tensor in inputs],
        "outputs": [
            {"name": tensor, "datatype": datatype, "shape": [-1] if tensor == "label" else [-1, len(task.labels)]}
            for tensor, datatype in types.items()
        ],
    }
