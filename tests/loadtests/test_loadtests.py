"""The load test, against small real HTTP servers."""

import contextlib
import itertools
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest

from loadtests import phase as measuring
from loadtests.payloads import payloads
from loadtests.phase import ClientError, Phase, Target, measure
from loadtests.sample_texts import made_up_texts

ROOT = Path(__file__).resolve().parents[2]
KEYS = {"verb", "requests", "failures", "requests_per_second", "p50_ms", "p99_ms", "report", "report_json"}


@contextmanager
def server(status):
    bodies = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            bodies.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}", bodies
        finally:
            running.shutdown()
            thread.join()


@contextmanager
def after_the_first(then):
    """A server that answers one request, the one that asks whether it is there; with the others it does `then`."""
    listener = socket.create_server(("127.0.0.1", 0))
    opened, left, lock = [], [True], threading.Lock()

    def serve(connection):
        with contextlib.suppress(OSError):
            while connection.recv(65536):
                with lock:  # of two connections at the same time only one is the first
                    is_first = bool(left) and left.pop()
                if is_first:
                    connection.sendall(ANSWER)
                else:
                    then(connection)

    def accept():
        with contextlib.suppress(OSError):  # the listener is closed: the end
            while True:
                opened.append(listener.accept()[0])
                threading.Thread(target=serve, args=(opened[-1],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        for one in (listener, *opened):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def hang(_):
    """Never answer."""


def answer_late(connection):
    time.sleep(1.5)
    connection.sendall(ANSWER)


def answer_half(connection):
    connection.sendall(ANSWER[:-1])


def close(connection):
    connection.close()


ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
CLIENTS = {"closed loop": [], "open loop": ["--rate", "20"]}


def loadtest(url, out, *more):
    command = [sys.executable, "-m", "loadtests.loadtest", "--url", url, "--users", "2", "--out", str(out), *more]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_a_server_that_answers(tmp_path):
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "good film"}\n{"text": "dull plot", "label": "x"}\n')
    with server(200) as (url, bodies):
        ended = loadtest(url, tmp_path / "out", "--duration", "1", "--texts", str(texts))
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout.splitlines()[-1])
    assert set(told) >= KEYS
    assert told["failures"] == 0
    assert 1 <= told["seconds"] < 60
    asked = len(bodies) - 1  # one asked whether a server is there
    report = json.loads(Path(told["report_json"]).read_text())
    (phase,) = report["phases"]
    assert told["requests"] == phase["requests"] == phase["codes"]["200"] < asked  # a warm-up came before
    assert told["requests_per_second"] == pytest.approx(told["requests"] / told["duration_s"], rel=0.05)
    assert sum(row["good"] for row in phase["by_second"]) == pytest.approx(told["requests"], abs=4)
    assert 0 < told["p50_ms"] <= told["p95_ms"] <= told["p99_ms"]
    assert report["summary"] == told
    assert "<svg" in Path(told["report"]).read_text()
    assert {(path, *body.values()) for path, body in bodies} == {
        ("/v1/classify", "good film"), ("/v1/classify", "dull plot"),
    }  # fmt: skip


def test_a_server_that_refuses_is_exit_code_1(tmp_path):
    with server(429) as (url, _):
        ended = loadtest(url, tmp_path, "--duration", "1")
    assert ended.returncode == 1
    told = json.loads(ended.stdout.splitlines()[-1])
    assert told["failures"] == told["requests"] > 0
    assert told["requests_per_second"] == 0


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "127.0.0.1", "ftp://"])
def test_no_server_is_exit_code_2_and_one_sentence(tmp_path, url):
    ended = loadtest(url, tmp_path / "out", "--duration", "1")
    assert ended.returncode == 2
    assert "no server answers" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("content", [None, "", "label\nx\n", "text\ngood\n \n", b"text\ncaf\xe9\n"])
def test_texts_that_cannot_be_used_are_exit_code_2(tmp_path, content):
    path = tmp_path / "texts.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    ended = loadtest("http://127.0.0.1:1", tmp_path / "out", "--texts", str(path))
    assert ended.returncode == 2
    assert str(path) in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_batch_has_as_many_texts_as_a_request_may_have():
    path, body = payloads(["a", "b", "c"], "batch")[1]
    texts = json.loads(body)["texts"]
    assert (path, len(texts), texts[:4]) == ("/v1/classify", 32, ["b", "c", "a", "b"])


def test_made_up_texts_have_a_spread_of_lengths():
    lengths = sorted(len(text.split()) for text in made_up_texts(2000))
    assert lengths[0] >= 5
    assert lengths[-1] <= 300
    assert 20 <= lengths[1000] <= 30
    assert lengths[1900] > 2.5 * lengths[1000]
    assert made_up_texts() == made_up_texts()


def test_steady_at_a_rate_is_an_open_loop(tmp_path):
    with server(200) as (url, bodies):
        done = loadtest(url, tmp_path, "--rate", "40", "--duration", "1")
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "report.json").read_text())
    assert "40 a second" in json.dumps(told)
    assert len(bodies) > 10


@pytest.mark.parametrize("more", [["--scenario", "ramp"], ["--scenario", "soak"], ["--client", "locust"]])
def test_a_rate_without_effect_is_exit_code_2(tmp_path, more):
    with server(200) as (url, _):
        done = loadtest(url, tmp_path, "--rate", "40", *more)
    assert done.returncode == 2
    assert "--rate" in done.stderr


@pytest.mark.parametrize("load", CLIENTS.values(), ids=CLIENTS)
@pytest.mark.parametrize(
    ("then", "code"),
    [(hang, "unanswered"), (answer_half, "unanswered"), (answer_late, "unanswered"), (close, "broken")],
)
def test_a_request_without_an_answer_is_a_failure(tmp_path, then, code, load):
    """A server that answers late answers a request that was given up; its answer is not the next one's."""
    with after_the_first(then) as url:
        done = loadtest(url, tmp_path, "--duration", "2", "--timeout", "1", *load)
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["failures"] == told["requests"] >= 4
    assert told["requests_per_second"] == 0
    (phase,) = json.loads((tmp_path / "report.json").read_text())["phases"]
    assert phase["codes"] == {code: told["requests"]}
    assert sum(row["failed"] for row in phase["by_second"]) == pytest.approx(told["requests"], abs=3)
    if code == "unanswered":
        assert told["p50_ms"] >= 1000  # each counts with the time until it was given up
        assert not phase["client_was_the_bottleneck"]
    else:
        assert told["p50_ms"] is None


def test_one_hung_request_in_ten_is_in_the_percentiles(tmp_path):
    numbers = itertools.count(1)

    def then(connection):
        if next(numbers) % 10:
            connection.sendall(ANSWER)

    with after_the_first(then) as url:
        done = loadtest(url, tmp_path, "--duration", "2", "--timeout", "1", "--rate", "50")
    told = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 1
    assert 0 < told["failures"] < told["requests"] / 5
    assert told["p50_ms"] < 1000 <= told["p99_ms"]


def test_requests_that_find_no_free_connection_are_counted_too():
    """More are due than connections may be open to a server that hangs: those were never sent, and are failures."""
    with after_the_first(hang) as url:
        urllib.request.urlopen(url, timeout=30).read()  # the first: else /metrics or the load gets it, by chance
        target = Target("x", url, [("/", "{}")], timeout=1.0)
        found = measure(target, Phase("x", 1.0, rate=50), connections=2)
    assert found.requests == found.failures == found.codes["unanswered"] > 20
    assert found.p50_ms >= 1000


def test_a_client_process_that_does_not_end_is_killed_and_named(monkeypatch):
    monkeypatch.setattr(measuring, "START_SECONDS", 0.1)
    monkeypatch.setattr(measuring, "END_SECONDS", 0.5)
    started = []

    def start(*_):
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
        return started[-1], Path()

    monkeypatch.setattr(measuring, "_start", start)
    with server(200) as (url, _), pytest.raises(ClientError, match="did not end within 2 s"):
        measure(Target("x", url, [("/", "{}")], timeout=1.0), Phase("x", 0.5, users=1))
    assert started[0].poll() is not None


def test_a_client_process_that_fails_is_exit_code_1_and_one_sentence(tmp_path):
    with server(200) as (url, _):  # no client can send this head
        done = loadtest(url, tmp_path, "--duration", "1", "--key", "\udcff")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("loadtests: client processes ended with the exit codes")


@pytest.mark.skipif(find_spec("locust") is None, reason="wanted prunella[loadtest]")  # its import changes threads
def test_locust_counts_requests_without_an_answer(tmp_path):
    with after_the_first(hang) as url:
        done = loadtest(url, tmp_path, "--duration", "1", "--timeout", "2", "--client", "locust")
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["failures"] == told["requests"] == 2
    assert told["requests_per_second"] == 0
    assert told["p50_ms"] >= 2000
