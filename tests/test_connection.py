"""Requests on real sockets: every size, every way to cut one into pieces, and refusals in their turn.

Most tests run uvicorn with our protocol class over a small application that answers when it is told to; the sizes are
also sent to a whole server.
"""

import asyncio
import contextlib
import json
import os
import socket
import threading
import time
import tomllib
from contextlib import closing, contextmanager
from importlib.metadata import version
from inspect import signature
from pathlib import Path

import pytest
import uvicorn
import uvloop
from packaging.requirements import Requirement
from test_server_process import PRUNELLA, running
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service import connection
from service.connection import MAX_HEAD_BYTES, Connection
from service.dialects import BadRequest
from service.wire import Call, ClientGone, json_reply, refusal

pytest_plugins = ["serving"]  # the fixture tiny_bundle
ROOT = Path(__file__).resolve().parent.parent
LIMIT = 2_000_000  # PRUNELLA_MAX_BODY_BYTES by default
ORIGIN = "https://a.example"
SIZES = [26, 1_000, 16_384, 60_000, 65_000, 65_536, 70_000, 100_000, 131_072, 150_000, 256_000, 300_000, 10**6, LIMIT]


def body_of(size):
    """Return a valid request of `size` bytes: JSON with white space in it."""
    start, end = b'{"text": "good film"', b"}"
    return start + b" " * (size - len(start) - len(end)) + end


def request(body, *lines, path="/v1/classify", method="POST"):
    head = [f"{method} {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *lines]
    return "\r\n".join([*head, f"Content-Length: {len(body)}"]).encode() + b"\r\n\r\n" + body


def chunked(body, size, trailers=b""):
    head = (
        b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
    )
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return head + b"\r\n" + chunks + b"0\r\n" + trailers + b"\r\n"


def in_one_piece(sent):
    return [sent]


def in_pieces(size):
    return lambda sent: [sent[i : i + size] for i in range(0, len(sent), size)]


def head_then_body(sent):
    head, end, body = sent.partition(b"\r\n\r\n")
    return [head + end, body]


@contextmanager
def client(url):
    host, port = url.removeprefix("http://").split(":")
    with closing(socket.create_connection((host, int(port)), timeout=20)) as opened:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield opened


class Answers:
    """Reads answers from a socket, one after the other."""

    def __init__(self, opened):
        self.socket, self.buffer = opened, b""

    def _more(self):
        part = self.socket.recv(65536)
        assert part, f"the server closed the connection after {self.buffer[:200]!r}"
        self.buffer += part

    def next(self):
        """Return (status, headers, body) of the next answer that is no 100 Continue."""
        while b"\r\n\r\n" not in self.buffer:
            self._more()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        if status.split()[1] == "100":
            return self.next()
        headers = dict(line.lower().split(": ", 1) for line in lines)
        length = int(headers["content-length"])
        while len(self.buffer) < length:
            self._more()
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        return int(status.split()[1]), headers, body

    def status(self):
        return self.next()[0]

    def is_over(self):
        """Whether the server closes the connection without another answer."""
        return not self.buffer and not self.socket.recv(1)


def send(opened, pieces):
    for piece in pieces:
        opened.sendall(piece)


@contextmanager
def sending(opened, pieces):
    """Send meanwhile, because a server may answer before everything was sent; a refusal may cut it short."""

    def work():
        with contextlib.suppress(OSError):
            send(opened, pieces)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield Answers(opened)
    finally:
        with contextlib.suppress(OSError):
            opened.shutdown(socket.SHUT_RDWR)
        thread.join()


# a whole server


@pytest.fixture(scope="module")
def server(tiny_bundle, tmp_path_factory):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PRUNELLA_", "BENTOML_"))}
    slow = {"PRUNELLA_BODY_TIMEOUT_S": "300", "PRUNELLA_HEADER_TIMEOUT_S": "300"}  # so does a busy machine send
    environment = {**kept, **slow, "PYTHONPATH": str(ROOT), "PRUNELLA_CORS_ORIGINS": ORIGIN}
    log = tmp_path_factory.mktemp("live") / "log"
    with running([*PRUNELLA, "serve", str(tiny_bundle), "--device", "cpu"], environment, log) as (_, url):
        yield url


@pytest.mark.parametrize(
    ("cut", "sizes"),
    [
        (in_one_piece, SIZES), (head_then_body, SIZES), (in_pieces(1000), SIZES), (in_pieces(65_537), SIZES),
        (in_pieces(1), SIZES[:3]),
    ],
    ids=["one piece", "head then body", "pieces of 1,000 bytes", "pieces of 65,537 bytes", "byte by byte"],
)  # fmt: skip
def test_every_size_is_answered_over_one_connection_and_over_many(server, cut, sizes):
    with client(server) as kept:
        answers = Answers(kept)
        for size in sizes:
            send(kept, cut(request(body_of(size))))
            assert answers.status() == 200, size
            with client(server) as fresh:
                send(fresh, cut(request(body_of(size))))
                assert Answers(fresh).status() == 200, size


@pytest.mark.parametrize("cut", [in_one_piece, in_pieces(1000)], ids=["one piece", "pieces"])
@pytest.mark.parametrize("chunk", [1, 7, 4096, 65_536, 100_000, LIMIT])
def test_every_size_of_chunks_is_answered(server, chunk, cut):
    with client(server) as opened:
        answers = Answers(opened)
        for size in [s for s in SIZES if s <= max(100_000, chunk * 50)]:
            send(opened, cut(chunked(body_of(size), chunk, b"X-Checksum: 1\r\n")))
            assert answers.status() == 200, size


def test_texts_that_fill_a_body_are_answered(server):
    for size in (1, 1_000, 60_000):
        with client(server) as opened:
            body = json.dumps({"texts": ["a" * size] * 32}).encode()
            send(opened, in_one_piece(request(body)))
            assert Answers(opened).status() == 200, size


def test_pipelined_requests_of_every_size_are_answered_in_order(server):
    requests = [request(body_of(size)) for size in SIZES] + [request(b"", path="/v2", method="GET")] * 200
    for cut in (in_one_piece, in_pieces(65_537), in_pieces(1000)):
        with client(server) as opened, sending(opened, cut(b"".join(requests))) as answers:
            found = [answers.next() for _ in requests]
        assert [status for status, _, _ in found] == [200] * len(requests)
        assert [b"predictions" in body for _, _, body in found] == [True] * len(SIZES) + [False] * 200


@pytest.mark.parametrize("line", ["Expect: 100-continue", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c"])
def test_clients_that_ask_for_more_than_an_answer_get_it(server, line):
    """What curl sends with large bodies, and Java's client with every request over plain HTTP."""
    for cut in (in_one_piece, head_then_body, in_pieces(1)):
        with client(server) as opened:
            answers = Answers(opened)
            send(opened, cut(request(body_of(5000), line)))
            assert answers.status() == 200
            send(opened, cut(request(body_of(5000))))
            assert answers.status() == 200


@pytest.mark.parametrize("form", ["announced", "chunked"])
@pytest.mark.parametrize("size", [LIMIT + 1, 2 * LIMIT, 10 * LIMIT])
def test_a_body_over_the_limit_is_413_and_the_client_can_read_why(server, size, form):
    sent = request(body_of(size), f"Origin: {ORIGIN}") if form == "announced" else chunked(body_of(size), 60_000)
    with client(server) as opened, sending(opened, [sent]) as answers:
        status, headers, body = answers.next()
        assert (status, headers["connection"]) == (413, "close")
        assert b"2000000" in body
        assert (headers.get("access-control-allow-origin") == ORIGIN) == (form == "announced")


def head_of(size, lines=1):
    """Return a request whose head has `size` bytes: `lines` long lines."""
    start = f"GET /v2 HTTP/1.1\r\nHost: x\r\nOrigin: {ORIGIN}\r\n"
    length = (size - len(start) - 2) // lines
    first = size - len(start) - 2 - length * (lines - 1)
    return (start + "".join(f"X-{'a' * (n - 6)}: \r\n" for n in [first] + [length] * (lines - 1))).encode() + b"\r\n"


@pytest.mark.parametrize("lines", [1, 20])
@pytest.mark.parametrize("cut", [in_one_piece, in_pieces(1000), in_pieces(1)], ids=["one piece", "pieces", "bytes"])
def test_the_size_of_a_head_decides_and_not_the_pieces_it_came_in(server, cut, lines):
    with client(server) as opened:
        answers = Answers(opened)
        for _ in range(3):  # each has its own limit
            send(opened, cut(head_of(MAX_HEAD_BYTES, lines)))
            assert answers.status() == 200
    with client(server) as opened, sending(opened, cut(head_of(MAX_HEAD_BYTES + 1, lines))) as answers:
        status, headers, _ = answers.next()
        assert (status, headers["connection"]) == (431, "close")
        assert headers["access-control-allow-origin"] == ORIGIN


@pytest.mark.parametrize("size", [70_000, 400_000, 2_000_000])
@pytest.mark.parametrize("where", ["header", "headers", "URL", "trailer", "trailers", "chunk size"])
def test_what_has_no_end_before_or_after_a_body_is_431(server, where, size):
    size = max(size, 400_000) if where in ("trailer", "chunk size") else size  # one read of the socket is not counted
    some = b"".join(b"X-%d: %s\r\n" % (i, b"a" * 50) for i in range(size // 50))
    sent = {
        "header": b"GET /v2 HTTP/1.1\r\nX: " + b"a" * size,
        "headers": b"GET /v2 HTTP/1.1\r\n" + some,
        "URL": b"GET /" + b"a" * size + b" HTTP/1.1\r\n\r\n",
        "trailer": chunked(b"{}", 2)[:-2] + b"X: " + b"a" * size,
        "trailers": chunked(b"{}", 2)[:-2] + some,
        "chunk size": chunked(b"{}", 2)[: -len(b"0\r\n\r\n")] + b"2;a=" + b"a" * size,
    }[where]
    for cut in (in_one_piece, in_pieces(5000)):
        with client(server) as opened, sending(opened, [request(body_of(70_000)), *cut(sent)]) as answers:
            assert answers.status() == 200
            assert answers.status() == 431
            assert answers.is_over()


# a small application


class Gate:
    """An application that reads the body, and answers `/wait` when it is let go."""

    def __init__(self):
        self.let_go, self.gone, self.waiting = threading.Event(), [], threading.Event()

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            scope["state"]["cors_origins"] = frozenset({ORIGIN})
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        call = Call(scope, receive)
        try:
            if call.path == "/early":  # answered before the body is read
                await call.send(json_reply({}), send)
                return
            body = await call.body(LIMIT)
        except ClientGone:
            self.gone.append(call.path)
            return
        except BadRequest as problem:
            await call.send(refusal(problem, {}), send)
            return
        if call.path == "/wait":
            self.waiting.set()
            await asyncio.to_thread(self.let_go.wait, 30)
        await call.send(json_reply({"size": len(body)}), send)


@contextmanager
def serving(application, protocol=Connection):
    """Serve in this process; give the URL, and a function that lets `check_time` run."""
    config = uvicorn.Config(
        application, http=protocol, loop="uvloop", ws="none", interface="asgi3", log_config=None, log_level="critical"
    )
    running = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(running.serve([listener])))
    thread.start()
    try:
        while not running.started:
            assert thread.is_alive()
            time.sleep(0.01)

        def sweep(*seconds):
            async def check():
                for one in list(running.server_state.connections):
                    one.check_time(*seconds)

            asyncio.run_coroutine_threadsafe(check(), loop).result(10)

        yield f"http://127.0.0.1:{listener.getsockname()[1]}", sweep
    finally:
        running.should_exit = True
        thread.join(30)
        loop.close()


@pytest.fixture
def gate():
    application = Gate()
    with serving(application) as (url, sweep):
        application.url, application.sweep = url, sweep
        yield application
        application.let_go.set()


WAIT = request(b"{}", path="/wait")
REFUSED = {
    "garbage": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", 400),
    "an impossible path": (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
    "a chunk that is none": (chunked(b"{}", 2)[:-5] + b"zz\r\n", 400),
    "a large head": (b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", 431),
    "a head without end": (b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000, 431),
}


@pytest.mark.parametrize("cut", [in_one_piece, in_pieces(1000)], ids=["one piece", "pieces"])
@pytest.mark.parametrize("kind", REFUSED)
def test_a_refusal_waits_for_the_answers_before_it(gate, kind, cut):
    """Else a client would take it for the answer to its first request."""
    sent, status = REFUSED[kind]
    with client(gate.url) as opened:
        send(opened, [WAIT])
        assert gate.waiting.wait(10)  # so that all of the rest comes while the first is being answered
        with sending(opened, cut(request(b"[]") + sent + request(b"[]"))) as answers:
            opened.settimeout(0.3)
            with pytest.raises(TimeoutError):
                answers.status()
            opened.settimeout(30)
            gate.let_go.set()
            assert [answers.status() for _ in range(3)] == [200, 200, status]
            assert answers.is_over()


def test_a_slow_head_and_a_slow_body_are_refused_in_their_turn(gate):
    for rest in (b"GET / HTTP/1.1\r\n", request(b"{}", path="/slow")[:-1]):
        gate.let_go.clear()
        gate.waiting.clear()
        with client(gate.url) as opened:
            answers = Answers(opened)
            send(opened, [WAIT])
            assert gate.waiting.wait(10)
            send(opened, [rest])
            time.sleep(0.2)  # until it has arrived; were it later, the test would be none, but right
            gate.sweep(0, 0)
            gate.let_go.set()
            assert answers.status() == 200
            while not (gate.sweep(0, 0)):  # a body that was not read meanwhile has its time from now on
                opened.settimeout(0.1)
                with contextlib.suppress(TimeoutError):
                    assert answers.status() == 408
                    break
            assert answers.is_over()
    assert gate.gone == ["/slow"]


def test_a_body_that_the_server_does_not_read_is_not_slow(gate):
    with client(gate.url) as opened:
        body = body_of(500_000)
        with sending(opened, [WAIT + request(body)]) as answers:
            assert gate.waiting.wait(10)
            for _ in range(20):  # its request waits in the line, and uvicorn stops reading
                gate.sweep(0.1, 0.1)
                time.sleep(0.02)
            gate.let_go.set()
            assert [answers.status(), answers.status()] == [200, 200]


def test_a_request_that_was_answered_early_gets_no_second_answer(gate):
    with client(gate.url) as opened:
        send(opened, [request(body_of(1000), path="/early")[:-1]])
        answers = Answers(opened)
        assert answers.status() == 200
        gate.sweep(0, 0)
        assert answers.is_over()


def test_a_client_that_leaves_ends_every_request_that_it_has_sent(gate):
    with client(gate.url) as opened:
        send(opened, [request(b"{}", path="/slow")[:-1]])
        time.sleep(0.1)
    deadline = time.monotonic() + 10
    while gate.gone != ["/slow"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_more_pipelined_requests_than_may_wait_are_refused_after_the_answers(gate, monkeypatch):
    monkeypatch.setattr(connection, "MAX_PIPELINED", 5)
    with client(gate.url) as opened:
        send(opened, [WAIT])
        assert gate.waiting.wait(10)
        with sending(opened, [request(b"{}") * 10]) as answers:
            gate.let_go.set()
            found = []
            while 429 not in found:
                found.append(answers.status())
            assert set(found[:-1]) == {200}
            assert len(found) >= 6
            assert answers.is_over()


def test_answers_have_a_date_also_those_that_no_application_made(gate):
    with client(gate.url) as opened:
        answers = Answers(opened)
        send(opened, [request(b"{}"), b"garbage\r\n\r\n"])
        for _ in range(2):
            assert answers.next()[1]["date"].endswith("gmt")


# uvicorn


def test_uvicorn_still_has_what_our_protocol_overrides_and_reads():
    """Fails when a release renames one; `Connection` then has to follow, and pyproject.toml to name the release."""
    overridden = {name for name in vars(Connection) if not name.startswith("__")}
    ours = {"is_gone", "is_alone", "abandon", "check_time", "refuse", "_stop_parsing", "_error", "_send_refusal",
            "_parse", "_ignore_upgrade", "_left", "_head_bytes"}  # fmt: skip
    for name in overridden - ours:
        theirs, here = (signature(getattr(one, name)).parameters for one in (HttpToolsProtocol, Connection))
        assert list(theirs) == list(here), name
    assert {"connection_made", "data_received", "on_header", "on_headers_complete", "on_message_complete",
            "on_response_complete", "connection_lost"} <= overridden - ours  # fmt: skip
    read = {"app_state", "cycle", "flow", "headers", "loop", "parser", "server_state", "tasks", "transport", "url"}
    assert read <= set(HttpToolsProtocol.__init__.__code__.co_names) | set(
        HttpToolsProtocol.on_message_begin.__code__.co_names
    )
    cycle = {"disconnected", "message_event", "response_complete", "response_started"}
    assert cycle <= set(RequestResponseCycle.__init__.__code__.co_names)
    assert hasattr(FlowControl, "resume_reading")
    assert hasattr(HttpToolsProtocol, "_unset_keepalive_if_required")


def test_the_installed_uvicorn_is_one_that_was_tested():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (wanted,) = (one for one in map(Requirement, project["dependencies"]) if one.name == "uvicorn")
    assert wanted.specifier.contains(version("uvicorn"))
    assert any(one.operator == "<" for one in wanted.specifier), "wanted an upper bound"
