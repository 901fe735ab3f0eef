"""A server in another process starts in time or is an error with its log, and it always ends."""

import os
import sys
import urllib.request

import pytest

from bench.capacity import server_process as module
from bench.capacity.server_process import server_process
from models.errors import CheckError

SERVER = """
import signal, socketserver, sys, http.server
signal.signal(signal.SIGTERM, signal.SIG_IGN)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(204)
        self.end_headers()
socketserver.TCPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def run_instead(monkeypatch, program):
    monkeypatch.setattr(module, "_command", lambda port: [sys.executable, "-S", "-c", program, str(port)])


def test_a_server_that_ends_is_an_error_with_the_last_lines_of_its_log(monkeypatch, tmp_path):
    run_instead(monkeypatch, "[print('line', n) for n in range(30)]; raise SystemExit(3)")
    with pytest.raises(CheckError, match="exit code 3") as caught, server_process(tmp_path):
        pass
    lines = str(caught.value).splitlines()
    assert (lines[1], lines[-1]) == ("line 10", "line 29")


def test_a_server_that_is_not_ready_in_time_is_an_error_and_is_stopped(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "START_SECONDS", 0.1)
    run_instead(monkeypatch, "import time; time.sleep(60)")
    with pytest.raises(CheckError, match=r"not ready after 0\.1 s"), server_process(tmp_path):
        pass


def test_a_server_that_does_not_stop_is_killed(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "STOP_SECONDS", 0.1)
    run_instead(monkeypatch, SERVER)
    with server_process(tmp_path) as server, urllib.request.urlopen(server.url, timeout=30) as answer:
        assert answer.status == 204
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)


def test_settings_of_this_process_are_not_those_of_the_server(monkeypatch, tmp_path):
    monkeypatch.setenv("PRUNELLA_RUNNERS", "7")
    run_instead(monkeypatch, "import os; print(sorted(n for n in os.environ if n.startswith('PRUNELLA')))")
    names = "'PRUNELLA_BUNDLE', 'PRUNELLA_LOG', 'PRUNELLA_WORKERS'"
    with pytest.raises(CheckError, match=names), server_process(tmp_path, {"PRUNELLA_WORKERS": "2"}):
        pass
