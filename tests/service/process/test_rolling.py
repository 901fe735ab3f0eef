"""Two servers behind a round-robin client; one after another is replaced, and no request fails."""

import os
import subprocess
import time

from rolling import is_ready, rolling_restart
from test_server_process import PRUNELLA, ROOT, environment, free_port

pytest_plugins = ["serving"]  # the fixture tiny_bundle
__all__ = ["environment"]
REQUESTS = int(os.environ.get("TEST_ROLLING_REQUESTS", "300"))


class Process:
    """A server as a process of its own."""

    def __init__(self, command, variables, log):
        self.port = free_port()
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port)], cwd=ROOT, env=variables, stdout=log, stderr=log
        )
        deadline = time.monotonic() + 60
        while not is_ready(self.port):
            assert self.process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server is not ready"
            time.sleep(0.05)

    def stop(self):
        self.process.terminate()
        return self.process.wait(timeout=30)


def test_a_rolling_restart_fails_no_request(tiny_bundle, environment, tmp_path):
    command = [*PRUNELLA, "serve", str(tiny_bundle), "--device", "cpu"]
    variables = environment | {"PRUNELLA_DRAIN_DELAY_S": "1"}
    with (tmp_path / "log").open("w") as log:
        outcomes, replaced, rate = rolling_restart(lambda: Process(command, variables, log), REQUESTS)
    failed = {name: count for name, count in outcomes.items() if name not in ("200", "429")}
    assert not failed, f"failed: {failed} of {outcomes.total()}, {replaced} servers replaced at {rate:.0f} requests/s"
    assert replaced >= 1
    assert outcomes["200"] > REQUESTS / 2
