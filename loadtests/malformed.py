"""Send many kinds of malformed requests to a server, and count its answers: python -m loadtests.malformed --url URL.

The exit code is 1 if a request got a 5xx or hung, if the memory of the server grew by more than GROWTH, or if its
/metrics cannot be read afterwards. With --grpc HOST:PORT half of the requests are gRPC, which may not get INTERNAL,
UNKNOWN or UNAVAILABLE, and the server must still answer there. The last line of stdout is JSON. The requests are
generated from a seed, so that a run can be repeated.
"""

import argparse
import gzip
import http.client
import json
import random
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from loadtests import malformed_grpc
from loadtests.phase import read_metrics

TIMEOUT_SECONDS = 15.0  # a request counts as hung if it has no answer and an open connection after that time
WAIT_SECONDS = 0.1  # time for an answer before the client closes its sending side
GROWTH = 0.10  # largest growth of memory that is allowed
SAMPLES = 10  # readings of the server's memory: a growth that ends shows as equal readings
VALID: dict[str, Any] = {  # one request for each path, by whose keys the server tells the protocols of a path apart
    "/v1/classify": {"texts": ["good film", "dull plot"], "top_k": 1},
    "/predict": {"inputs": [["good film"], ["dull plot"]], "truncate": True},
    "/": {"inputs": ["good film"], "parameters": {"top_k": 1, "function_to_apply": "SIGMOID", "max_length": 512}},
    "/?": {"inputs": "good film", "parameters": {"candidate_labels": ["film", "plot"], "multi_label": True}},
    "/v2/models/prunella/infer": {
        "id": "1",
        "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good film"]}],
    },
    "/classify": {"input": ["good film", "dull plot"], "truncate_prompt_tokens": 8, "add_special_tokens": False},
    "/classify?": {"texts": ["good film"], "top_k": 1},
    "/v1/classify?": {"input": [[1, 2, 3], [2, 3]], "use_activation": False, "request_id": "r", "priority": 1},
    "/score": {"text_1": "good film", "text_2": ["dull plot", "plot"], "truncate_prompt_tokens": -1},
    "/v1/score": {"queries": ["good film"], "documents": ["dull plot"], "use_activation": False},
    "/rerank": {"query": "good film", "texts": ["dull plot", "plot"], "raw_scores": True, "return_text": True},
    "/v1/rerank": {"query": "good film", "documents": ["dull plot", {"text": "plot"}], "top_n": 1},
    "/v2/rerank": {"query": "good film", "documents": ["dull plot"], "return_documents": False},
    "/v1/models/prunella:predict": {"instances": [{"inputs": "good film", "truncate": True}, {"text": "plot"}]},
    "/tokenize": {"prompt": "good film", "add_special_tokens": True, "return_token_strs": True},
    "/detokenize": {"tokens": [1, 2, 3]},
    "/invocations": {"instances": ["good film", {"text": "dull plot"}], "parameters": {"top_k": 1}},
}
PATHS = tuple(VALID)
ODD_VALUES: list[Any] = [
    None, True, -1, 0, 10**30, -(10**400), 1e308, "", " ", "\x00", "\u202e", "a" * 5000, [], [[]], {}, [None],
    [[["a"]]], {"a": {}}, ["a", 5], "😀" * 200, ["a"] * 40, [["a", "b", "c"]], "\ufffe",
]  # fmt: skip
RequestGenerator = Callable[[random.Random, str], bytes]


def _post(path: str, body: bytes, *lines: str, kind: str = "application/json") -> bytes:
    head = [f"POST {path} HTTP/1.1", "Host: x", "Connection: close", f"Content-Type: {kind}"]
    head += [f"Content-Length: {len(body)}", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def _valid(path: str) -> bytes:
    return json.dumps(VALID[path]).encode()


def truncated(rng: random.Random, path: str) -> bytes:
    """Truncated JSON."""
    body = _valid(path)
    return _post(path, body[: rng.randrange(len(body))])


def flipped(rng: random.Random, path: str) -> bytes:
    """JSON with some bytes replaced, which includes invalid UTF-8."""
    body = bytearray(_valid(path))
    for _ in range(rng.randint(1, 5)):
        body[rng.randrange(len(body))] = rng.randrange(256)
    return _post(path, bytes(body))


def odd_value(rng: random.Random, path: str) -> bytes:
    """A known key with a value of the wrong type or size, or an unknown key."""
    document = json.loads(_valid(path))
    document[rng.choice([*document, "unknown"])] = rng.choice(ODD_VALUES)
    return _post(path, json.dumps(document).encode())


def nested(rng: random.Random, path: str) -> bytes:
    """Deeply nested lists or objects."""
    depth = rng.choice([10, 200, 1000, 20_000])
    opening, closing = rng.choice([(b"[", b"]"), (b'{"a":', b"}")])
    return _post(path, b'{"texts": ' + opening * depth + b"1" + closing * depth + b"}")


def numbers(rng: random.Random, path: str) -> bytes:
    """Invalid or very large numbers."""
    value = rng.choice([b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 400, b"-0", b"1.", b"0x10", b"+1"])
    key = rng.choice([b"top_k", b"top_n", b"truncate_prompt_tokens", b"priority"])
    rest = b'"text": "a", "inputs": "a", "input": [1, ' + value + b'], "query": "a", "documents": ["a"]'
    return _post(path, b"{" + rest + b', "tokens": [' + value + b'], "' + key + b'": ' + value + b"}")


def surrogate(rng: random.Random, path: str) -> bytes:
    """Escape sequences that are no valid character."""
    escape = rng.choice([rb"\ud800", rb"\udfff\ud800", rb"\u12", rb"\x41", rb"\u0000"])
    keys = (b"text", b"inputs", b"input", b"prompt", b"query", b"text_1", b"text_2")
    return _post(path, b"{" + b", ".join(b'"%s": "%s"' % (key, escape) for key in keys) + b"}")


def compressed(rng: random.Random, path: str) -> bytes:
    """A small compressed body that expands to a very large one."""
    return _post(path, gzip.compress(b" " * 10**6), f"Content-Encoding: {rng.choice(['gzip', 'deflate', 'br'])}")


def lengths(rng: random.Random, path: str) -> bytes:
    """A wrong Content-Length; the client then closes its sending side."""
    length = rng.choice(["-1", "abc", "99999999999999999999", "0", "1", "1e3", "", "5, 5", "2000001"])
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode() + _valid(path)


def chunks(rng: random.Random, path: str) -> bytes:
    """Invalid chunks, or a chunked body that never ends."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    tail = rng.choice(
        [b"zz\r\na\r\n", b'5\r\n{"a":\r\n', b"ffffffffffffffff\r\n", b"2\r\n{}\r\n0\r\n\r\n", b"1\r\nab\r\n"]
    )
    return head.encode() + tail


def heads(rng: random.Random, path: str) -> bytes:
    """A very long request head, or an invalid one."""
    count = rng.choice([1, 100, 3000])
    line = f"X-{rng.randrange(10**6)}: {'a' * rng.choice([1, 20, 5000])}\r\n"
    start = rng.choice([f"POST {path} HTTP/1.1", f"POST {path} HTTP/9.9", "GARBAGE", f"P\x00ST {path} HTTP/1.1", ""])
    return f"{start}\r\nHost: x\r\n{line * count}\r\n".encode()[:200_000]


def methods(rng: random.Random, path: str) -> bytes:
    """Unknown methods and paths."""
    method = rng.choice(["GET", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "OPTIONS", "HEAD", "BREW"])
    path = path.rstrip("?")
    target = rng.choice(
        [
            path,
            path + "/",
            "/ping",
            "/v1/models",
            "/%00",
            "/..%2f..%2fetc/passwd",
            "//",
            "/é",
            "*",
            "/" + "a" * 3000,
            "http://[",
        ]
    )
    return f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def types(rng: random.Random, path: str) -> bytes:
    """Bodies of another content type."""
    kind = rng.choice(
        ["text/plain", "multipart/form-data; boundary=x", "application/json; charset=utf-16", "", "a" * 500]
    )
    return _post(path, _valid(path), kind=kind)


def binary(rng: random.Random, path: str) -> bytes:  # noqa: ARG001
    """The binary tensor extension of the Open Inference Protocol, with wrong sizes."""
    data = b"".join(len(text).to_bytes(4, "little") + text for text in (b"good film", rng.randbytes(5)))
    size = rng.choice([len(data), 0, -1, 3, len(data) + 1, 10**30, "9", None, [1]])
    tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    length = rng.choice([len(head), 0, -1, 10**30, len(head) - 1, "x"])
    body = head + data[: rng.choice([len(data), 3, 0])]
    return _post("/v2/models/prunella/infer", body, f"Inference-Header-Content-Length: {length}")


def pipelined(rng: random.Random, path: str) -> bytes:
    """Several pipelined requests, the last of them truncated."""
    request = _post(path, _valid(path)).replace(b"Connection: close\r\n", b"")
    return request * rng.randint(2, 20) + request[: rng.randrange(len(request))]


def noise(rng: random.Random, path: str) -> bytes:  # noqa: ARG001
    """Random bytes."""
    return rng.randbytes(rng.randint(1, 300))


KINDS: tuple[RequestGenerator, ...] = (
    truncated, flipped, odd_value, nested, numbers, surrogate, compressed, lengths, chunks, heads, methods, types,
    binary, pipelined, noise,
)  # fmt: skip


def send(address: tuple[str, int], request: bytes) -> list[int]:
    """Send bytes and return the status codes of the answers: [0] if there is none, [-1] if the server hangs."""
    answers = bytearray()
    try:
        with socket.create_connection(address, timeout=TIMEOUT_SECONDS) as connection:
            connection.settimeout(WAIT_SECONDS)
            connection.sendall(request)
            try:
                _read(connection, answers)
            except TimeoutError:  # the server waits for more data: close the sending side
                connection.settimeout(TIMEOUT_SECONDS)
                connection.shutdown(socket.SHUT_WR)
                _read(connection, answers)
    except TimeoutError:
        return [-1]
    except OSError:
        return [0]  # the server closed the connection while the request was being sent
    return [int(part[1:4]) for part in bytes(answers).split(b"HTTP/1.1")[1:] if part[1:4].isdigit()] or [0]


def _read(connection: socket.socket, answers: bytearray) -> None:
    while part := connection.recv(65536):
        answers += part


def _is_bad(code: int | str) -> bool:
    """Whether no malformed request may get this status over HTTP, or this one over gRPC."""
    return code in malformed_grpc.BAD if isinstance(code, str) else code >= 500 or code < 0


def _warm_up(address: tuple[str, int]) -> None:
    """Send a valid request to every path: what the first request to a path loads is no growth of the memory."""
    connection = http.client.HTTPConnection(*address, timeout=60)
    for path in PATHS:
        connection.request("POST", path, _valid(path), {"Content-Type": "application/json"})
        connection.getresponse().read()
    connection.close()


def _sample(url: str, threads: list[threading.Thread], requests: int, done: Callable[[], int]) -> list[float | None]:
    """Wait for the threads, and return the server's memory after each tenth of the requests."""
    readings: list[float | None] = []
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.05)
        if done() * SAMPLES >= requests * (len(readings) + 1) and len(readings) < SAMPLES - 1:
            readings.append(read_metrics(url).get("memory_bytes"))
    return readings


def main() -> int:
    """Send the requests, print the counts, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.malformed", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--url", required=True)
    parser.add_argument("--grpc", metavar="HOST:PORT", help="the server's port for gRPC")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    parts = urlsplit(options.url)
    address = (parts.hostname or "127.0.0.1", parts.port or 80)
    counts: Counter[tuple[str, int | str]] = Counter()
    lock = threading.Lock()

    def work(number: int) -> None:
        rng = random.Random(f"{options.seed}-{number}")
        over_grpc = malformed_grpc.Client(options.grpc) if options.grpc else None
        for _ in range(options.requests // options.threads):
            statuses: list[tuple[str, int | str]]
            if over_grpc is not None and rng.random() < 0.5:
                statuses = [over_grpc.send(rng)]
            else:
                kind = rng.choice(KINDS)
                statuses = [(kind.__name__, code) for code in send(address, kind(rng, rng.choice(PATHS)))]
            with lock:
                counts.update(statuses)

    start = time.monotonic()
    _warm_up(address)
    if options.grpc:
        malformed_grpc.Client(options.grpc).warm_up()
    before = read_metrics(options.url).get("memory_bytes")
    threads = [threading.Thread(target=work, args=(i,)) for i in range(options.threads)]
    for thread in threads:
        thread.start()
    memory = _sample(options.url, threads, options.requests, lambda: sum(counts.values()))
    after = read_metrics(options.url).get("memory_bytes")
    memory = [round(value / 1e6, 1) for value in (before, *memory, after) if value]
    codes: Counter[str] = Counter()
    for (_, code), count in counts.items():
        codes["closed" if code == 0 else str(code)] += count
    bad = {f"{kind} {code}": n for (kind, code), n in sorted(counts.items(), key=str) if _is_bad(code)}
    if options.grpc and not malformed_grpc.Client(options.grpc).is_alive():
        bad["the server does not answer over gRPC"] = 1
    growth = round(after / before - 1, 4) if before and after else None
    result = {
        "verb": "malformed", "requests": options.requests // options.threads * options.threads,
        "codes": dict(sorted(codes.items())), "bad": bad,
        "memory_growth": growth, "memory_mb": memory, "seconds": round(time.monotonic() - start, 1),
    }  # fmt: skip
    sys.stdout.write(json.dumps(result) + "\n")
    return 1 if bad or after is None or (growth or 0.0) > GROWTH else 0


if __name__ == "__main__":
    sys.exit(main())
