"""Our protocol class in uvicorn, over a small application that answers when it is let go: refusals in their turn."""

import asyncio
import select
import socket
import threading
import tomllib
from contextlib import contextmanager
from importlib.metadata import version
from inspect import signature
from pathlib import Path

import pytest
import uvicorn
import uvloop
from packaging.requirements import Requirement
from raw_http import LIMIT, ORIGIN, Answers, body_of, chunked, client, in_one_piece, in_pieces, request, send, sending
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from watching import wait_until

from service.protocols import BadRequest
from service.web import connection_limits as connection
from service.web.connection_limits import Connection
from service.web.http import Call, ClientGone, json_reply, refusal

ROOT = Path(__file__).resolve().parents[3]


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
    """Serve in this process; give the URL, a function that calls `check_time`, and the connections."""
    config = uvicorn.Config(
        application, http=protocol, loop="uvloop", ws="none", interface="asgi3", log_config=None, log_level="critical"
    )
    running = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(running.serve([listener])))
    thread.start()
    try:
        wait_until(lambda: running.started, 20)

        def sweep(*seconds):
            async def check():
                for one in list(running.server_state.connections):
                    one.check_time(*seconds)

            asyncio.run_coroutine_threadsafe(check(), loop).result(10)

        yield f"http://127.0.0.1:{listener.getsockname()[1]}", sweep, running.server_state.connections
    finally:
        running.should_exit = True
        thread.join(30)
        loop.close()


@pytest.fixture
def gate():
    application = Gate()
    with serving(application) as (application.url, application.sweep, application.connections):
        yield application
        application.let_go.set()


WAIT = request(b"{}", path="/wait")
REFUSED = {
    "garbage": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", 400),
    "an impossible path": (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
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
            assert not select.select([opened], [], [], 0.3)[0]
            gate.let_go.set()
            assert [answers.status() for _ in range(3)] == [200, 200, status]
            assert answers.is_over()


def test_a_slow_head_is_refused_in_its_turn(gate):
    with client(gate.url) as opened:
        send(opened, [WAIT])
        assert gate.waiting.wait(10)
        send(opened, [b"GET / HTTP/1.1\r\n"])

        def refused():
            gate.sweep(-1, -1)
            return [one.refusal is not None for one in gate.connections] == [True]

        wait_until(refused, 10)
        assert not select.select([opened], [], [], 0.1)[0]
        gate.let_go.set()
        answers = Answers(opened)
        assert [answers.status(), answers.status()] == [200, 408]
        assert answers.is_over()


def test_a_slow_body_is_refused_in_its_turn(gate):
    with client(gate.url) as opened:
        send(opened, [WAIT + request(b"{}", path="/slow")[:-1]])
        gate.let_go.set()
        answers = Answers(opened)
        assert answers.status() == 200

        def refused():
            gate.sweep(-1, -1)
            return select.select([opened], [], [], 0)[0]

        wait_until(refused, 10)
        assert answers.status() == 408
        assert answers.is_over()
    assert gate.gone == ["/slow"]


def test_a_body_that_the_server_does_not_read_is_not_slow(gate):
    """Its request waits in the line, and uvicorn stops reading."""
    with client(gate.url) as opened, sending(opened, [WAIT + request(body_of(500_000))]) as answers:
        assert gate.waiting.wait(10)
        wait_until(lambda: [one.flow.read_paused for one in gate.connections] == [True], 10)
        for _ in range(3):
            gate.sweep(-1, -1)
        gate.let_go.set()
        assert [answers.status(), answers.status()] == [200, 200]


def test_a_request_that_was_answered_early_gets_no_second_answer(gate):
    with client(gate.url) as opened:
        send(opened, [request(body_of(1000), path="/early")[:-1]])
        answers = Answers(opened)
        assert answers.status() == 200
        gate.sweep(-1, -1)
        assert answers.is_over()


def test_a_client_that_leaves_ends_the_request_that_it_was_sending(gate):
    with client(gate.url) as opened:
        send(opened, [request(b"{}", path="/slow")[:-1]])
    wait_until(lambda: gate.gone == ["/slow"], 10)


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
