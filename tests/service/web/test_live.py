"""One real server for all of these: what reaches it before an application does, its clients, and how it ends."""

import contextlib
import gzip
import http.client
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import closing
from pathlib import Path

import huggingface_hub.constants
import pytest
from huggingface_hub import InferenceClient
from test_server_process import PRUNELLA, answers, descendants, running
from watching import wait_until

from loadtests.malformed import ODD_VALUES, VALID

pytest_plugins = ["serving"]  # the fixture tiny_bundle
ROOT = Path(__file__).resolve().parents[3]
BODY = b'{"text": "good film"}'
HEAD = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
REQUEST = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


@pytest.fixture(scope="module")
def server(tiny_bundle, tmp_path_factory):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PRUNELLA_", "BENTOML_"))}
    timeouts = {"PRUNELLA_HEADER_TIMEOUT_S": "0.5", "PRUNELLA_BODY_TIMEOUT_S": "0.5"}
    environment = {**kept, **timeouts, "PYTHONPATH": str(ROOT), "PRUNELLA_ACCESS_LOG": "1"}
    log = tmp_path_factory.mktemp("live") / "log"
    with running([*PRUNELLA, "serve", str(tiny_bundle), "--device", "cpu"], environment, log) as (process, url):
        yield process, url, log


def connect(url):
    host, port = url.removeprefix("http://").split(":")
    return closing(socket.create_connection((host, int(port)), timeout=10))


def everything(connection):
    """Return what comes until the server closes the connection."""
    found = b""
    with contextlib.suppress(ConnectionResetError):  # it closed while we were still sending
        while part := connection.recv(65536):
            found += part
    return found


@pytest.mark.parametrize("path", ["/classify", "/v1/classify"])
@pytest.mark.parametrize("late", ["body", "continue"])
def test_a_refusal_does_not_wait_for_a_body_that_does_not_come(server, path, late):
    """Then the path alone says the form of the error."""
    expect = b"Expect: 100-continue\r\n" if late == "continue" else b""
    with connect(server[1]) as connection:
        head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n%sContent-Length: 9\r\n\r\n"
        connection.sendall(head % (path.encode(), expect))
        status, _, rest = connection.recv(65536).partition(b"\r\n")
        assert status == b"HTTP/1.1 415 Unsupported Media Type"
        assert (b'{"error":{"message":' in rest) == (path == "/classify")


def test_the_errors_of_bentoml_are_bentomls_or_in_the_native_form(server):
    def ask(method, body=None, kind="application/json"):
        connection = http.client.HTTPConnection(server[1].removeprefix("http://"), timeout=60)
        with closing(connection):
            connection.request(method, "/classify", body, {"Content-Type": kind})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    assert ask("POST", b'{"texts": ["good film"]}')[0] == 200
    assert ask("POST", b'\xef\xbb\xbf{"texts": ["good film"]}')[0] == 200  # with a byte order mark
    status, document = ask("POST", b'{"texts": [5]}')
    assert (status, document.keys()) == (400, {"error", "detail"})
    status, document = ask("POST", b'{"texts": ["good film"]}', "text/plain")
    assert (status, document.keys()) == (415, {"error", "kind"})
    status, document = ask("POST", b'{"texts": ["good film"]}' + b" " * 2_000_000)
    assert (status, document.keys()) == (413, {"error", "kind"})
    status, document = ask("POST", b'{"input": ["good film"]}' + b" " * 2_000_000)
    assert (status, document["error"]["code"]) == (413, 413)
    status, document = ask("GET")
    assert (status, document["error"]["code"]) == (405, 405)


def test_the_client_of_hugging_face(server, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # the command line switches it off
    found = InferenceClient(model=server[1]).text_classification("good film", top_k=1)
    assert [(one.label, 0 < one.score < 1) for one in found] == [("negative", True)]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", b"408"),
        (HEAD, b"408"),
        (HEAD + b"Content-Length: 100\r\n\r\n{", b"408"),
        (HEAD + b"X-Long: " + b"a" * 70_000, b"431"),
        (HEAD + b"Content-Length: 2000001\r\n\r\n", b"413"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"10000\r\n%s\r\n" % (b"a" * 65536) * 40, b"413"),
        (HEAD + b"Content-Encoding: gzip\r\nContent-Length: 60\r\n\r\n" + gzip.compress(b"a" * 10**6)[:60], b"415"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"400"),
        (b"GET /\xff HTTP/1.1\r\n\r\n", b"400"),
    ],
    ids=["nothing", "half a head", "half a body", "endless head", "announced", "chunked", "gzip", "TLS", "path"],
)
def test_what_comes_before_an_application_is_bounded(server, sent, status):
    with connect(server[1]) as connection:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):  # refused while we were still sending
            connection.sendall(sent)
        found = everything(connection)
    assert found.split(b"\r\n")[0].split(b" ")[1] == status, found[:200]
    assert b"Traceback" not in found


def test_pipelined_requests_are_answered_in_order(server):
    with connect(server[1]) as connection:
        connection.sendall(REQUEST * 3 + REQUEST.replace(b"good film", b"").replace(b"%d" % len(BODY), b"12", 1))
        found = b""
        while found.count(b"HTTP/1.1") < 4 or not found.endswith(b"}"):
            found += connection.recv(65536)
    assert [part[1:4] for part in found.split(b"HTTP/1.1")[1:]] == [b"200", b"200", b"200", b"422"]


def test_malformed_requests_of_every_kind(server):
    command = [
        sys.executable,
        "-m",
        "loadtests.malformed",
        "--url",
        server[1],
        "--requests",
        "280",
        "--threads",
        "28",
    ]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    told = json.loads(ended.stdout.splitlines()[-1])
    assert told["bad"] == {}
    assert {"200", "400", "415", "422"} <= set(told["codes"])


@pytest.mark.parametrize("path", VALID)
def test_no_odd_value_of_a_key_makes_the_server_fail(server, path):
    host, headers = server[1].removeprefix("http://"), {"Content-Type": "application/json"}
    with closing(http.client.HTTPConnection(host, timeout=60)) as connection:
        for key, value in itertools.product(VALID[path], ODD_VALUES):
            connection.request("POST", path, json.dumps(VALID[path] | {key: value}), headers)
            answer = connection.getresponse()
            assert answer.status < 500, (key, value, answer.read())
            answer.read()


@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
def test_every_path_answers_methods_that_it_does_not_have_with_405(server, kind):
    host = server[1].removeprefix("http://")
    with closing(http.client.HTTPConnection(host, timeout=60)) as connection:

        def ask(method, path):
            connection.request(method, path, b"{}", {"Content-Type": kind})
            answer = connection.getresponse()
            return answer.status, answer.getheader("allow"), answer.read()

        paths = json.loads(ask("GET", "/openapi.json")[2])["paths"]
        for path, operations in paths.items():
            for method in {"get", "post", "put", "delete", "patch", "trace", "options"} - operations.keys():
                status, allow, _ = ask(method.upper(), path.replace("{name}", "prunella"))
                assert status == 405, (method, path)
                assert {one.strip().lower() for one in allow.split(",")} - {"head"} == operations.keys() - {
                    "parameters"
                }


def test_a_client_that_leaves_is_no_trouble(server):
    for _ in range(20):
        with connect(server[1]) as connection:
            connection.sendall(REQUEST)
    assert answers(f"{server[1]}/readyz")


class Load:
    """Two clients that ask again and again, each over one connection, and count what goes wrong."""

    def __init__(self, url):
        self.host, port = url.removeprefix("http://").split(":")
        self.port, self.stop, self.codes, self.failures = int(port), threading.Event(), [], []
        self.refused = 0
        self.threads = [threading.Thread(target=self._ask) for _ in range(2)]

    def _ask(self):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
        while not self.stop.is_set():
            try:
                if connection.sock is None:
                    connection.connect()
            except ConnectionRefusedError:
                self.refused += 1
                time.sleep(0.01)
                continue
            try:
                connection.request("POST", "/v1/classify", BODY, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
                self.codes.append(answer.status)
            except OSError as error:
                self.failures.append(error)
                connection.close()

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join()


def test_workers_are_replaced_and_the_end_answers_all(server):
    """One after the other: kill -9 of the worker, SIGHUP under load, SIGTERM under load."""
    process, url, log = server
    (worker,) = descendants(process.pid)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: descendants(process.pid) not in ([], [worker]) and answers(f"{url}/readyz"), 60)

    (worker,) = descendants(process.pid)
    with Load(url) as load:
        os.kill(process.pid, signal.SIGHUP)
        wait_until(lambda: worker not in descendants(process.pid), 60)
    assert set(load.codes) == {200}
    assert (load.failures, load.refused) == ([], 0)

    with Load(url) as load:
        wait_until(lambda: len(load.codes) > 20, 60)
        process.terminate()
        assert process.wait(timeout=60) == 0
        wait_until(lambda: load.refused > 2, 20)
    assert set(load.codes) == {200}
    assert load.failures == []
    told = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert any("died and is replaced" in line.get("message", "") for line in told)
    assert any(line.get("dialect") == "native" and line.get("code") == 200 for line in told)
    assert "Traceback" not in log.read_text()


def test_a_full_disk_for_logs_stops_nothing(tiny_bundle, tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PRUNELLA_ACCESS_LOG": "1",
        "PRUNELLA_BUNDLE": str(tiny_bundle),
    }
    command = [sys.executable, "-m", "service.process.launch"]
    with running(command, environment, Path("/dev/full")) as (_, url):
        request = urllib.request.Request(f"{url}/v1/classify", BODY, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            assert answer.status == 200
        with urllib.request.urlopen(f"{url}/metrics", timeout=5) as answer:
            lost = next(
                x for x in answer.read().decode().splitlines() if x.startswith("prunella_log_lines_dropped_t")
            )
    assert float(lost.split()[-1]) >= 1
