"""Malformed requests over gRPC, for `python -m loadtests.malformed --grpc HOST:PORT`: garbled messages, odd tensors.

The messages are written byte by byte, because a library would refuse to make most of them; needs grpcio.
"""

import random
import socket
import struct
from collections.abc import Callable
from typing import Any

SERVICE = "inference.GRPCInferenceService"
METHODS = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")
SECONDS = 15.0  # a request counts as hung if it has no answer after that time
BAD = ("INTERNAL", "UNKNOWN", "UNAVAILABLE", "DEADLINE_EXCEEDED", "DATA_LOSS")  # no malformed request may get these
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
TYPES = ("BYTES", "FP32", "INT64", "BOOL", "STRING", "bytes", "", "BYTES\x00", "B" * 3000)
SHAPES: list[list[int]] = [
    [1], [2], [], [0], [-1], [1, 1], [2**62, 2], [2**63 - 1], [-(2**63)], [1] * 2000, [-1, -1], [3_000_000_000],
]  # fmt: skip
TEXTS = [b"good film", b"", b" ", b"\xff\xfe", b"\x00", "中文 🎬".encode(), b"a" * 5000, b"\xed\xa0\x80"]
NAMES = ("text", "text_pair", "", "TEXT", "\u202e", "text\x00", "n" * 3000)
Request = tuple[str, bytes, tuple[tuple[str, str], ...]]  # method, message, metadata
Generator = Callable[[random.Random], Request]


def varint(value: int) -> bytes:
    """Return a number as protobuf writes it; a negative one takes ten bytes."""
    value %= 2**64
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, *values: int | str | bytes) -> bytes:
    """Return a field of a message, once for each value."""
    parts = []
    for value in values:
        if isinstance(value, int):
            parts.append(varint(number << 3) + varint(value))
        else:
            data = value.encode() if isinstance(value, str) else value
            parts.append(varint(number << 3 | 2) + varint(len(data)) + data)
    return b"".join(parts)


def tensor(
    texts: list[bytes], name: str = "text", datatype: str = "BYTES", shape: list[int] | None = None, kind: int = 8
) -> bytes:
    """Return an input tensor; `kind` is the number of the contents' field, 8 for bytes, -1 for no contents."""
    shape = [len(texts)] if shape is None else shape
    head = field(1, name) + field(2, datatype) + field(3, *shape)
    return head if kind < 0 else head + field(5, field(kind, *texts))


def infer(*inputs: bytes, raw: tuple[bytes, ...] = (), more: bytes = b"", model: str = "prunella") -> bytes:
    """Return a ModelInferRequest."""
    return field(1, model) + field(5, *inputs) + field(7, *raw) + more


def as_raw(texts: list[bytes]) -> bytes:
    """Return texts as Triton's clients write them: each behind its length."""
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def parameter(rng: random.Random, name: str) -> bytes:
    """Return an entry of a map of parameters, with a value of a random kind."""
    value = rng.choice([field(1, 1), field(2, rng.choice([-1, 0, 3, 2**40])), field(3, "x"), field(9, "y"), b""])
    return field(1, name) + field(2, value)


def grpc_valid(rng: random.Random) -> Request:
    """A valid request of every method."""
    method = rng.choice(METHODS)
    message = {"ModelInfer": infer(tensor([b"good film"])), "ModelReady": field(1, "prunella")}
    return method, message.get(method, field(1, "prunella") if method == "ModelMetadata" else b""), ()


def grpc_noise(rng: random.Random) -> Request:
    """Random bytes."""
    return rng.choice(METHODS), rng.randbytes(rng.randint(0, 300)), ()


def grpc_flipped(rng: random.Random) -> Request:
    """A message with some bytes replaced, or its start only."""
    message = bytearray(infer(tensor([b"good film", b"plot"]), more=field(3, "id") + field(6, field(1, "scores"))))
    for _ in range(rng.randint(0, 4)):
        message[rng.randrange(len(message))] = rng.randrange(256)
    return "ModelInfer", bytes(message[: rng.choice([len(message), rng.randrange(len(message))])]), ()


def grpc_tensors(rng: random.Random) -> Request:
    """Tensors of odd names, types, shapes and contents, in odd numbers."""
    inputs = [
        tensor(
            rng.choices(TEXTS, k=rng.randint(0, 3)),
            rng.choice(NAMES), rng.choice(TYPES), rng.choice(SHAPES), rng.choice([8, 8, -1, 20]),
        )
        for _ in range(rng.choice([0, 1, 1, 2, 3, 200]))
    ]  # fmt: skip
    return "ModelInfer", infer(*inputs), ()


def grpc_texts(rng: random.Random) -> Request:
    """A valid tensor with odd texts."""
    texts = rng.choices(TEXTS, k=rng.randint(1, 4))
    if rng.random() < 0.5:
        return "ModelInfer", infer(tensor(texts)), ()
    return "ModelInfer", infer(tensor(texts, kind=-1), raw=(as_raw(texts),)), ()


def grpc_raw(rng: random.Random) -> Request:
    """Raw contents whose lengths or number are wrong, or that are beside contents."""
    data = as_raw([b"good film", b"plot"])
    data = rng.choice([data, data[: rng.randrange(len(data))], b"\xff" * 7, b"", rng.randbytes(40)])
    raw = (data,) * rng.choice([1, 1, 2, 50])
    return "ModelInfer", infer(tensor([b"a", b"b"], kind=rng.choice([-1, -1, 8])), raw=raw), ()


def grpc_huge(rng: random.Random) -> Request:
    """A huge batch, text or message."""
    texts = rng.choice([[b"a"] * 5000, [b"good film " * 10_000], [b"x" * 3_000_000], [b""] * 100_000])
    return "ModelInfer", infer(tensor(texts)), ()


def grpc_parameters(rng: random.Random) -> Request:
    """Odd parameters of the request, of inputs and of outputs, and odd outputs."""
    names = ("binary_data_output", "binary_data", "classification", "priority", "", "k" * 2000)
    outputs = [
        field(1, rng.choice(["scores", "label", "logits", "decisions", "", "x"]))
        + field(2, parameter(rng, rng.choice(names)))
        for _ in range(rng.choice([0, 1, 2, 300]))
    ]
    more = field(4, *(parameter(rng, rng.choice(names)) for _ in range(rng.randint(0, 3)))) + field(6, *outputs)
    return "ModelInfer", infer(tensor([b"good film"]), more=more + field(3, "i" * rng.choice([0, 1, 9000]))), ()


def grpc_models(rng: random.Random) -> Request:
    """Models and versions that are not served."""
    name, version = rng.choice(["", "other", "prunella ", "p" * 9000, "../x"]), rng.choice(["", "1", "v" * 9000])
    method = rng.choice(["ModelReady", "ModelMetadata", "ModelInfer"])
    return method, field(1, name) + field(2, version), ()


def grpc_metadata(rng: random.Random) -> Request:
    """Odd and large metadata, and methods that do not exist."""
    metadata = rng.choice(
        [
            (("x-cascade", "perhaps"),), (("authorization", "Bearer"),), (("x-api-key", "\x7e" * 1000),),
            (("traceparent", "00-zz-01"),), (("a", "b" * 9000),), tuple((f"key-{i}", "v") for i in range(100)),
        ]
    )  # fmt: skip
    method = rng.choice(["ModelInfer", "ModelInfer", "ModelStreamInfer", "RepositoryIndex", "", "x" * 500])
    return method, infer(tensor([b"good film"])), metadata


GENERATORS: tuple[Generator, ...] = (
    grpc_valid, grpc_noise, grpc_flipped, grpc_tensors, grpc_texts, grpc_raw, grpc_huge, grpc_parameters, grpc_models,
    grpc_metadata,
)  # fmt: skip


class Client:
    """A connection on which malformed requests are sent; the server must keep it for valid ones."""

    def __init__(self, address: str) -> None:
        import grpc  # the extra `grpc`

        self._grpc = grpc
        self._address = address
        self._channel = grpc.insecure_channel(address, [("grpc.max_send_message_length", -1)])

    def send(self, rng: random.Random) -> tuple[str, str]:
        """Send a request, or bytes that are no HTTP/2; return the kind and the status, CLOSED for such bytes."""
        if rng.random() < 0.05:
            return "grpc_bytes", self._send_bytes(rng)
        kind = rng.choice(GENERATORS)
        method, message, metadata = kind(rng)
        return kind.__name__, self.ask(method, message, metadata)

    def ask(self, method: str, message: bytes, metadata: Any = ()) -> str:
        """Return the status of a request."""
        try:
            self._channel.unary_unary(f"/{SERVICE}/{method}")(message, timeout=SECONDS, metadata=metadata)
        except self._grpc.RpcError as error:
            return str(error.code().name)
        return "OK"

    def warm_up(self) -> None:
        """Send some requests of every kind: the memory for the largest ones is no growth."""
        rng = random.Random("warm-up")
        for kind in GENERATORS:
            for _ in range(20):
                self.ask(*kind(rng))

    def is_alive(self) -> bool:
        """Whether the server still answers."""
        return self.ask("ModelInfer", infer(tensor([b"good film"]))) == "OK"

    def _send_bytes(self, rng: random.Random) -> str:
        """Send noise in place of HTTP/2, or behind its first line, and close."""
        host, _, port = self._address.rpartition(":")
        sent = rng.choice([b"", PREFACE]) + rng.randbytes(rng.randint(1, 500))
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS) as connection:
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass
        except TimeoutError:
            return "DEADLINE_EXCEEDED"
        except OSError:
            pass  # it closed the connection while we were sending
        return "CLOSED"
