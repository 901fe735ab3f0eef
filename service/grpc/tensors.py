"""Tensors: converts the messages of ModelInfer to the JSON documents of the same protocol over HTTP, and back.

So both have one validation and one form of the answer (service/protocols/oip.py).
"""

from typing import Any

from service.grpc.messages import message
from service.protocols import BadRequest
from service.protocols.oip_binary import bytes_of, texts_of

CONTENTS = {"FP32": "fp32_contents", "BOOL": "bool_contents", "BYTES": "bytes_contents"}


def read(request: Any) -> dict[str, Any]:
    """Return the JSON document of a ModelInferRequest.

    Raises:
        BadRequest: the data of an input is in both forms or in neither, or is not UTF-8.
    """
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise BadRequest(400, f"{len(raw)} raw_input_contents for {len(request.inputs)} inputs")
    if raw and any(tensor.HasField("contents") for tensor in request.inputs):
        raise BadRequest(400, "raw_input_contents and contents exclude each other")
    document: dict[str, Any] = {
        "inputs": [_input(tensor, raw[i] if raw else None) for i, tensor in enumerate(request.inputs)],
        "parameters": _parameters(request.parameters),
    }
    if request.id:
        document["id"] = request.id
    if request.outputs:
        document["outputs"] = [
            {"name": output.name, "parameters": _parameters(output.parameters)} for output in request.outputs
        ]
    return document


def write(document: Any, raw: bool) -> Any:
    """Return the ModelInferResponse of a JSON document; `raw`: with the data as bytes, as that of the request was."""
    response = message("ModelInferResponse")(
        model_name=document["model_name"], model_version=document["model_version"], id=document.get("id", "")
    )
    for tensor in document["outputs"]:
        datatype, values = tensor["datatype"], tensor["data"]
        output = response.outputs.add(name=tensor["name"], datatype=datatype, shape=tensor["shape"])
        if raw:
            response.raw_output_contents.append(bytes_of(datatype, values))
        else:
            encoded = [value.encode() for value in values] if datatype == "BYTES" else values
            getattr(output.contents, CONTENTS[datatype]).extend(encoded)
    return response


def _input(tensor: Any, raw: bytes | None) -> dict[str, Any]:
    head = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
    if tensor.datatype != "BYTES":
        return {**head, "data": []}  # refused by its data type
    if raw is not None:
        return {**head, "data": texts_of(raw)}
    texts: list[str] = []
    for data in tensor.contents.bytes_contents:
        try:
            texts.append(data.decode())
        except UnicodeDecodeError:
            raise BadRequest(400, f"input {tensor.name!r} has an element that is not UTF-8").at(len(texts)) from None
    return {**head, "data": texts}


def _parameters(parameters: Any) -> dict[str, Any]:
    """Return a map of InferParameter as a dictionary."""
    return {
        name: getattr(value, chosen)
        for name, value in parameters.items()
        if (chosen := value.WhichOneof("parameter_choice")) is not None
    }
