"""Servers are restarted one after the other under load: one that drains loses no request, another does."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from watching import wait_until

from loadtests.rolling.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
SERVER = """
import signal, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

draining = False

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(503 if draining and self.path == "/readyz" else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    do_GET = do_POST = answer
    def log_message(self, *_):
        pass

class Server(ThreadingHTTPServer):
    daemon_threads = True

server = Server(("127.0.0.1", int(sys.argv[1])), Handler)

def end(*_):
    global draining
    draining = True
    threading.Timer(float(sys.argv[2]), server.shutdown).start()

signal.signal(signal.SIGTERM, end)
threading.Thread(target=server.serve_forever).start()
"""


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


def rolling(capsys, command, port):
    code = main([command, "--port", str(port), "--requests", "50", "--rate", "100"])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.fixture
def command(tmp_path):
    script = Path(tmp_path) / "server.py"
    script.write_text(SERVER)
    return f"{sys.executable} {script} {{port}}"


def test_servers_that_drain_are_restarted_without_a_failed_request(capsys, command, port):
    code, result = rolling(capsys, f"{command} 2", port)
    assert (code, result["failed"], list(result["codes"])) == (0, 0, ["200"])
    assert result["restarts"] >= 2
    assert result["requests"] >= 50


def test_a_server_that_ends_at_once_loses_requests_which_are_counted(capsys, command, port):
    code, result = rolling(capsys, f"{command} 0", port)
    assert code == 1
    assert result["failed"] == result["requests"] - result["codes"]["200"] > 0


def test_the_servers_end_with_a_run_that_is_ended(command, port):
    arguments = [sys.executable, "-m", "loadtests.rolling", f"{command} 0", "--port", str(port), "--rate", "50"]
    with subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE) as process:
        wait_until(lambda: all(listens(port + i) for i in range(2)), 60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 1
        assert b"ended by SIGTERM" in process.stderr.read()
    assert not any(listens(port + i) for i in range(2))


def listens(port):
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def test_a_server_that_does_not_start_is_one_sentence(capsys, port):
    assert main([f"{sys.executable} -c pass", "--port", str(port)]) == 1
    assert "did not get ready" in capsys.readouterr().err
