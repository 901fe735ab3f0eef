"""The binary tensor extension of the Open Inference Protocol, which Triton's clients use by default.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md: the body is JSON
and, behind it, the data of the tensors that have `binary_data_size` in their parameters, in order. An element of a
BYTES tensor is its length, as four bytes (little-endian), and its bytes.
"""

import struct
from typing import Any

import numpy as np
import orjson

from service.protocols import BadRequest

LENGTH = struct.Struct("<I")


def join_inputs(header: Any, data: bytes) -> Any:
    """Return the JSON document of a request with the texts of its binary tensors as `data`.

    Args:
        header: the JSON part of the body.
        data: the bytes behind it.

    Raises:
        BadRequest: the sizes do not fit, or a tensor is not of BYTES or has an element that is not UTF-8.
    """
    inputs = header.get("inputs") if isinstance(header, dict) else None
    if not isinstance(inputs, list):
        return header  # not a request of the protocol, as its model will say
    start = 0
    for tensor in inputs:
        parameters = tensor.get("parameters") if isinstance(tensor, dict) else None
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        if size is None:
            continue
        if type(size) is not int or not 0 <= size <= len(data) - start:
            raise BadRequest(400, f"binary_data_size is {size!r}, and {len(data) - start} bytes are left")
        if tensor.get("datatype") != "BYTES":
            raise BadRequest(400, f"binary data of {str(tensor.get('datatype'))[:20]}: wanted BYTES")
        tensor["data"] = texts_of(data[start : start + size])
        start += size
    if start != len(data):
        raise BadRequest(400, f"{len(data) - start} bytes behind the last binary tensor")
    return header


def texts_of(data: bytes) -> list[str]:
    """Return the texts of the data of a BYTES tensor.

    Raises:
        BadRequest: the data ends inside an element, or an element is not UTF-8; the error has its index.
    """
    texts: list[str] = []
    start = 0
    while start < len(data):
        if len(data) - start < LENGTH.size:
            raise BadRequest(400, "a binary tensor ends inside the length of an element").at(len(texts))
        (length,) = LENGTH.unpack_from(data, start)
        start += LENGTH.size
        if length > len(data) - start:
            raise BadRequest(400, "an element of a binary tensor is longer than the tensor").at(len(texts))
        try:
            texts.append(data[start : start + length].decode())
        except UnicodeDecodeError:
            raise BadRequest(400, "an element of a binary tensor is not UTF-8").at(len(texts)) from None
        start += length
    return texts


def split_outputs(document: Any, is_binary: Any) -> tuple[bytes, int | None]:
    """Return the body of an answer, and the length of its JSON part, None if it has no binary tensor.

    Args:
        document: the JSON of the answer; its binary tensors are changed.
        is_binary: says of the name of an output whether its data is binary.
    """
    parts: list[bytes] = []
    for tensor in document["outputs"]:
        if is_binary(tensor["name"]):
            data = bytes_of(tensor["datatype"], tensor.pop("data"))
            tensor["parameters"] = {"binary_data_size": len(data)}
            parts.append(data)
    header = orjson.dumps(document)
    return b"".join([header, *parts]), len(header) if parts else None


def bytes_of(datatype: str, values: list[Any]) -> bytes:
    """Return the elements of an output tensor, little-endian."""
    if datatype == "BYTES":
        encoded = [value.encode() for value in values]
        return b"".join(LENGTH.pack(len(value)) + value for value in encoded)
    return np.array(values, dtype="<f4" if datatype == "FP32" else np.bool_).tobytes()
