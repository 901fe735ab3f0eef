"""Requests of every size and in every kind of pieces, sent to a whole server over real sockets."""

import json
import os
from pathlib import Path

import pytest
from raw_http import (
    LIMIT,
    ORIGIN,
    Answers,
    body_of,
    chunked,
    client,
    head_then_body,
    in_one_piece,
    in_pieces,
    request,
    send,
    sending,
)
from test_server_process import PRUNELLA, running

from service.web.connection_limits import MAX_HEAD_BYTES

pytest_plugins = ["serving"]  # the fixture tiny_bundle
ROOT = Path(__file__).resolve().parents[3]
SIZES = [26, 1_000, 16_384, 60_000, 65_000, 65_536, 70_000, 100_000, 131_072, 150_000, 256_000, 300_000, 10**6, LIMIT]


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
