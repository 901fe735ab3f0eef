"""Changer: swaps models and restarts workers of a server that is under load."""

import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass

SWAPS, RESTARTS = 10, 3


@dataclass(slots=True)
class Changer:
    """Changes of a running server, and counts of those that were made."""

    url: str
    token: str  # of the admin routes
    bundles: tuple[str, ...]  # loaded in turn
    supervisor: int | None = None  # PID of the process that restarts workers on SIGHUP
    swaps: int = 0
    restarts: int = 0
    failed: int = 0

    def run(self, begin: float, seconds: float) -> None:
        """Spread the changes evenly over `seconds`, starting at `begin` (`time.monotonic`)."""
        changes = ["swap"] * SWAPS
        if self.supervisor is not None:
            for i in range(RESTARTS):
                changes.insert((i + 1) * 4 - 1, "restart")
        pause = seconds / len(changes)
        for i, change in enumerate(changes):
            time.sleep(max(0.0, begin + i * pause - time.monotonic()))
            (self._swap if change == "swap" else self._restart)(i)

    def _swap(self, number: int) -> None:
        body = json.dumps({"bundle": self.bundles[number % len(self.bundles)]}).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"}
        request = urllib.request.Request(f"{self.url.rstrip('/')}/admin/models", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=30):
                self.swaps += 1
        except (urllib.error.URLError, OSError) as error:
            answer = error.read().decode() if isinstance(error, urllib.error.HTTPError) else ""
            sys.stderr.write(f"loadtests: a swap failed: {error} {answer}\n")
            self.failed += 1

    def _restart(self, _: int) -> None:
        assert self.supervisor is not None, "else there are no restarts"
        os.kill(self.supervisor, signal.SIGHUP)
        self.restarts += 1
