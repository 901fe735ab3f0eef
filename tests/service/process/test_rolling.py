"""Two servers behind a round-robin client; one after another is replaced, and no request fails."""

import os
from contextlib import ExitStack
from itertools import count

from rolling import failures, rolling_restart
from test_server_process import PRUNELLA, environment, running

pytest_plugins = ["serving"]  # the fixture tiny_bundle
__all__ = ["environment"]
REQUESTS = int(os.environ.get("TEST_ROLLING_REQUESTS", "300"))


class Process:
    """A server that runs as a process of its own."""

    def __init__(self, process, url):
        self.process, self.port = process, int(url.rpartition(":")[2])

    def stop(self):
        self.process.terminate()
        return self.process.wait(timeout=30)


def test_a_rolling_restart_fails_no_request(tiny_bundle, environment, tmp_path):
    command = [*PRUNELLA, "serve", str(tiny_bundle), "--device", "cpu"]
    variables, numbers = environment | {"PRUNELLA_DRAIN_DELAY_S": "1"}, count()
    with ExitStack() as stack:

        def start():
            return Process(*stack.enter_context(running(command, variables, tmp_path / f"log{next(numbers)}")))

        outcomes, replaced, rate = rolling_restart(start, REQUESTS)
    failed = failures(outcomes)
    assert not failed, f"failed: {failed} of {outcomes.total()}, {replaced} servers replaced at {rate:.0f} requests/s"
    assert replaced >= 1
    assert outcomes["200"] > REQUESTS / 2
