"""python -m loadtests.malformed --url URL: many kinds of requests that are wrong, and what the server makes of them.

Exit code 1 when one got a 5xx, hung, or the server's memory grew; the last line is JSON. The requests are made from a
seed, so that a run can be had again.
"""

import argparse
import gzip
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

from loadtests.measure import read_metrics

PATIENCE_SECONDS = 15.0  # a request that is not answered, nor its connection closed, by then hangs
WAIT_SECONDS = 0.1  # for an answer, before the client says that it sends no more
GROWTH = 0.10  # of memory, at most
PATHS = ("/v1/classify", "/predict", "/", "/v2/models/prunella/infer")
GOOD = {
    "/v1/classify": {"texts": ["good film", "dull plot"], "top_k": 1},
    "/predict": {"inputs": [["good film"], ["dull plot"]], "truncate": True},
    "/": {"inputs": ["good film"], "parameters": {"top_k": 1}},
    "/v2/models/prunella/infer": {
        "id": "1",
        "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good film"]}],
    },
}
ODD_VALUES: list[Any] = [
    None, True, -1, 0, 10**30, -(10**400), 1e308, "", " ", "\x00", "\u202e", "a" * 5000, [], [[]], {}, [None],
    [[["a"]]], {"a": {}}, ["a", 5], "😀" * 200, ["a"] * 40, [["a", "b", "c"]], "\ufffe",
]  # fmt: skip
Maker = Callable[[random.Random, str], bytes]


def _post(path: str, body: bytes, *lines: str, kind: str = "application/json") -> bytes:
    head = [f"POST {path} HTTP/1.1", "Host: x", "Connection: close", f"Content-Type: {kind}"]
    head += [f"Content-Length: {len(body)}", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def _good(path: str) -> bytes:
    return json.dumps(GOOD[path]).encode()


def truncated(chance: random.Random, path: str) -> bytes:
    """JSON that ends early."""
    body = _good(path)
    return _post(path, body[: chance.randrange(len(body))])


def flipped(chance: random.Random, path: str) -> bytes:
    """JSON with other bytes in it: invalid UTF-8 too."""
    body = bytearray(_good(path))
    for _ in range(chance.randint(1, 5)):
        body[chance.randrange(len(body))] = chance.randrange(256)
    return _post(path, bytes(body))


def odd_value(chance: random.Random, path: str) -> bytes:
    """A known key with a value that is no such thing, or an unknown key."""
    document = json.loads(_good(path))
    document[chance.choice([*document, "unknown"])] = chance.choice(ODD_VALUES)
    return _post(path, json.dumps(document).encode())


def nested(chance: random.Random, path: str) -> bytes:
    """Lists or objects in one another."""
    depth = chance.choice([10, 200, 1000, 20_000])
    opening, closing = chance.choice([(b"[", b"]"), (b'{"a":', b"}")])
    return _post(path, b'{"texts": ' + opening * depth + b"1" + closing * depth + b"}")


def numbers(chance: random.Random, path: str) -> bytes:
    """Numbers that are none, or very large."""
    value = chance.choice([b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 400, b"-0", b"1.", b"0x10", b"+1"])
    return _post(path, b'{"text": "a", "inputs": "a", "top_k": ' + value + b"}")


def surrogate(chance: random.Random, path: str) -> bytes:
    """Escapes that stand for no character."""
    escape = chance.choice([rb"\ud800", rb"\udfff\ud800", rb"\u12", rb"\x41", rb"\u0000"])
    return _post(path, b'{"text": "' + escape + b'", "inputs": "' + escape + b'"}')


def compressed(chance: random.Random, path: str) -> bytes:
    """A small body that holds a very large one."""
    return _post(path, gzip.compress(b" " * 10**6), f"Content-Encoding: {chance.choice(['gzip', 'deflate', 'br'])}")


def lengths(chance: random.Random, path: str) -> bytes:
    """A Content-Length that is wrong, and the connection's end after it."""
    told = chance.choice(["-1", "abc", "99999999999999999999", "0", "1", "1e3", "", "5, 5", "2000001"])
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {told}\r\n\r\n".encode() + _good(path)


def chunks(chance: random.Random, path: str) -> bytes:
    """Chunks that are wrong, or never end."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    tail = chance.choice(
        [b"zz\r\na\r\n", b'5\r\n{"a":\r\n', b"ffffffffffffffff\r\n", b"2\r\n{}\r\n0\r\n\r\n", b"1\r\nab\r\n"]
    )
    return head.encode() + tail


def heads(chance: random.Random, path: str) -> bytes:
    """A head that is long, or none."""
    count = chance.choice([1, 100, 3000])
    line = f"X-{chance.randrange(10**6)}: {'a' * chance.choice([1, 20, 5000])}\r\n"
    start = chance.choice(
        [f"POST {path} HTTP/1.1", f"POST {path} HTTP/9.9", "GARBAGE", f"P\x00ST {path} HTTP/1.1", ""]
    )
    return f"{start}\r\nHost: x\r\n{line * count}\r\n".encode()[:200_000]


def methods(chance: random.Random, path: str) -> bytes:
    """Methods and paths that there are not."""
    method = chance.choice(["GET", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "OPTIONS", "HEAD", "BREW"])
    where = chance.choice(
        [path, path + "/", "/%00", "/..%2f..%2fetc/passwd", "//", "/é", "*", "/" + "a" * 3000, "http://["]
    )
    return f"{method} {where} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def types(chance: random.Random, path: str) -> bytes:
    """Bodies of another type."""
    kind = chance.choice(
        ["text/plain", "multipart/form-data; boundary=x", "application/json; charset=utf-16", "", "a" * 500]
    )
    return _post(path, _good(path), kind=kind)


def pipelined(chance: random.Random, path: str) -> bytes:
    """Several at once, the last of them cut off."""
    one = _post(path, _good(path)).replace(b"Connection: close\r\n", b"")
    return one * chance.randint(2, 20) + one[: chance.randrange(len(one))]


def noise(chance: random.Random, path: str) -> bytes:  # noqa: ARG001
    """Bytes."""
    return chance.randbytes(chance.randint(1, 300))


KINDS: tuple[Maker, ...] = (
    truncated, flipped, odd_value, nested, numbers, surrogate, compressed, lengths, chunks, heads, methods, types,
    pipelined, noise,
)  # fmt: skip


def ask(address: tuple[str, int], request: bytes) -> list[int]:
    """Send bytes and return the codes of the answers: [0] when there is none, [-1] when the server hangs."""
    found = bytearray()
    try:
        with socket.create_connection(address, timeout=PATIENCE_SECONDS) as connection:
            connection.settimeout(WAIT_SECONDS)
            connection.sendall(request)
            try:
                _read(connection, found)
            except TimeoutError:  # it waits for more, and is told that no more comes
                connection.settimeout(PATIENCE_SECONDS)
                connection.shutdown(socket.SHUT_WR)
                _read(connection, found)
    except TimeoutError:
        return [-1]
    except OSError:
        return [0]  # refused while we were still sending
    return [int(part[1:4]) for part in bytes(found).split(b"HTTP/1.1")[1:] if part[1:4].isdigit()] or [0]


def _read(connection: socket.socket, found: bytearray) -> None:
    while part := connection.recv(65536):
        found += part


def main() -> int:
    """Ask and count."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.malformed", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--url", required=True)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    parts = urlsplit(options.url)
    address = (parts.hostname or "127.0.0.1", parts.port or 80)
    counts: Counter[tuple[str, int]] = Counter()
    lock = threading.Lock()

    def work(number: int) -> None:
        chance = random.Random(f"{options.seed}-{number}")
        for _ in range(options.requests // options.threads):
            kind = chance.choice(KINDS)
            codes = ask(address, kind(chance, chance.choice(PATHS)))
            with lock:
                counts.update((kind.__name__, code) for code in codes)

    begun = time.monotonic()
    before = read_metrics(options.url).get("memory_bytes")
    threads = [threading.Thread(target=work, args=(i,)) for i in range(options.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = read_metrics(options.url).get("memory_bytes")
    codes: Counter[int] = Counter()
    for (_, code), count in counts.items():
        codes[code] += count
    bad = {f"{kind} {code}": n for (kind, code), n in sorted(counts.items()) if code >= 500 or code < 0}
    growth = round(after / before - 1, 4) if before and after else None
    told = {
        "verb": "malformed", "requests": options.requests // options.threads * options.threads,
        "codes": {("closed" if code == 0 else str(code)): n for code, n in sorted(codes.items())}, "bad": bad,
        "memory_growth": growth, "seconds": round(time.monotonic() - begun, 1),
    }  # fmt: skip
    sys.stdout.write(json.dumps(told) + "\n")
    return 1 if bad or after is None or (growth or 0.0) > GROWTH else 0


if __name__ == "__main__":
    sys.exit(main())
