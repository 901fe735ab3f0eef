"""The messages of `inference.GRPCInferenceService`, the gRPC form of the Open Inference Protocol.

https://github.com/open-inference/open-inference-protocol: the names and numbers of the fields are those of the
protocol, so every client of it can be used. The classes are in a descriptor pool of their own: another package in the
same process may have compiled the same protocol, as Triton's and KServe's clients have, and the default pool takes
each name once.
"""

from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

PACKAGE = "inference"
PARAMETERS, MANY = "map<InferParameter>", "repeated "
Fields = dict[str, tuple[int, str]]  # name → number and type
NO_FIELDS: Fields = {}
MODEL: Fields = {"name": (1, "string"), "version": (2, "string")}
TENSOR: Fields = {"name": (1, "string"), "datatype": (2, "string"), "shape": (3, MANY + "int64")}
TENSOR_WITH_DATA: Fields = {**TENSOR, "parameters": (4, PARAMETERS), "contents": (5, "InferTensorContents")}
# a message inside another one has a name with a dot
MESSAGES: dict[str, Fields] = {
    "ServerLiveRequest": NO_FIELDS,
    "ServerLiveResponse": {"live": (1, "bool")},
    "ServerReadyRequest": NO_FIELDS,
    "ServerReadyResponse": {"ready": (1, "bool")},
    "ModelReadyRequest": MODEL,
    "ModelReadyResponse": {"ready": (1, "bool")},
    "ServerMetadataRequest": NO_FIELDS,
    "ServerMetadataResponse": {
        "name": (1, "string"),
        "version": (2, "string"),
        "extensions": (3, MANY + "string"),
    },
    "ModelMetadataRequest": MODEL,
    "ModelMetadataResponse": {
        "name": (1, "string"),
        "versions": (2, MANY + "string"),
        "platform": (3, "string"),
        "inputs": (4, MANY + "ModelMetadataResponse.TensorMetadata"),
        "outputs": (5, MANY + "ModelMetadataResponse.TensorMetadata"),
    },
    "ModelMetadataResponse.TensorMetadata": TENSOR,
    "ModelInferRequest": {
        "model_name": (1, "string"),
        "model_version": (2, "string"),
        "id": (3, "string"),
        "parameters": (4, PARAMETERS),
        "inputs": (5, MANY + "ModelInferRequest.InferInputTensor"),
        "outputs": (6, MANY + "ModelInferRequest.InferRequestedOutputTensor"),
        "raw_input_contents": (7, MANY + "bytes"),
    },
    "ModelInferRequest.InferInputTensor": TENSOR_WITH_DATA,
    "ModelInferRequest.InferRequestedOutputTensor": {"name": (1, "string"), "parameters": (2, PARAMETERS)},
    "ModelInferResponse": {
        "model_name": (1, "string"),
        "model_version": (2, "string"),
        "id": (3, "string"),
        "parameters": (4, PARAMETERS),
        "outputs": (5, MANY + "ModelInferResponse.InferOutputTensor"),
        "raw_output_contents": (6, MANY + "bytes"),
    },
    "ModelInferResponse.InferOutputTensor": TENSOR_WITH_DATA,
    "InferParameter": {"bool_param": (1, "bool"), "int64_param": (2, "int64"), "string_param": (3, "string")},
    "InferTensorContents": {
        "bool_contents": (1, MANY + "bool"),
        "int_contents": (2, MANY + "int32"),
        "int64_contents": (3, MANY + "int64"),
        "uint_contents": (4, MANY + "uint32"),
        "uint64_contents": (5, MANY + "uint64"),
        "fp32_contents": (6, MANY + "float"),
        "fp64_contents": (7, MANY + "double"),
        "bytes_contents": (8, MANY + "bytes"),
    },
}
ONE_OF = {"InferParameter": "parameter_choice"}  # messages of which only one field is set, and the name of the choice


def _file() -> FileDescriptorProto:
    """Return the description of all messages."""
    file = FileDescriptorProto(name="prunella/open_inference.proto", package=PACKAGE, syntax="proto3")
    outer: dict[str, DescriptorProto] = {}
    for full_name, fields in MESSAGES.items():
        parent, _, name = full_name.rpartition(".")
        message = outer[parent].nested_type.add(name=name) if parent else file.message_type.add(name=name)
        outer[full_name] = message
        if full_name in ONE_OF:
            message.oneof_decl.add(name=ONE_OF[full_name])
        for field, (number, kind) in fields.items():
            _add_field(message, full_name, field, number, kind)
    return file


def _add_field(message: DescriptorProto, full_name: str, name: str, number: int, kind: str) -> None:
    repeated = kind.startswith((MANY, "map<"))
    label = FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL
    field = message.field.add(name=name, number=number, label=label)
    if full_name in ONE_OF:
        field.oneof_index = 0
    if kind == PARAMETERS:  # on the wire, a map is a repeated message of key and value
        entry = message.nested_type.add(name="ParametersEntry")
        entry.options.map_entry = True
        _add_field(entry, "", "key", 1, "string")
        _add_field(entry, "", "value", 2, "InferParameter")
        kind = f"{full_name}.ParametersEntry"
    kind = kind.removeprefix(MANY)
    scalar = getattr(FieldDescriptorProto, f"TYPE_{kind.upper()}", None)
    if scalar is None:
        field.type, field.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
    else:
        field.type = scalar


POOL = DescriptorPool()
POOL.AddSerializedFile(_file().SerializeToString())


def message(name: str) -> Any:
    """Return the class of a message by its name in the protocol, such as `ModelInferRequest`."""
    return GetMessageClass(POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))
