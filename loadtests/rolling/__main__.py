"""python -m loadtests.rolling."""

import argparse
import asyncio
import json
import shlex
import signal
import sys
import time
from collections.abc import Sequence

import numpy as np

from loadtests import rolling
from loadtests.client import ClientJob
from loadtests.rolling.round_robin import RoundRobin
from loadtests.rolling.server import Server, ServerError
from loadtests.sample_texts import made_up_texts

KNEE_SECONDS, KNEE_USERS = 4.0, 16  # of the closed loop that finds what one server answers
CALM_SECONDS = 1.0  # between two restarts


async def _restart(servers: Sequence[Server], client: RoundRobin, requests: int, stop: asyncio.Event) -> int:
    """Restart one server after the other until so many requests were answered; return the number of restarts."""
    restarts = 0
    try:
        while sum(client.codes.values()) < requests or restarts < len(servers):
            await asyncio.sleep(CALM_SECONDS)
            server = servers[restarts % len(servers)]
            await server.stop()
            server.ready = False
            await server.start()
            restarts += 1
        await asyncio.sleep(CALM_SECONDS)
    finally:
        stop.set()
    return restarts


async def _run(options: argparse.Namespace) -> dict[str, object]:
    running = asyncio.current_task()
    assert running is not None, "called by asyncio.run"
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)  # the servers must not outlive us
    servers = [Server(shlex.split(options.command), options.port + i) for i in range(options.servers)]
    body = [("/v1/classify", json.dumps({"text": text})) for text in made_up_texts(200)]
    requests = ClientJob("http://127.0.0.1", body, 0.0, 0.0).requests()
    watching = [asyncio.create_task(server.watch()) for server in servers]
    try:
        for server in servers:
            await server.start()
        knee = 0.0
        if not options.rate:
            knee = await RoundRobin(servers[:1], requests, 0).closed_loop(KNEE_SECONDS, KNEE_USERS)
        rate = options.rate or options.load * knee
        client, stop = RoundRobin(servers, requests, 1), asyncio.Event()
        start = time.monotonic()
        load = asyncio.create_task(client.open_loop(rate, stop))
        restarts = await _restart(servers, client, options.requests, stop)
        await load
        seconds = time.monotonic() - start
    finally:
        for task in watching:
            task.cancel()
        await asyncio.gather(*(server.stop() for server in servers))
    p50, p99 = np.percentile(np.array(client.seconds) * 1e3, [50, 99])
    total = sum(client.codes.values())
    return {
        "verb": "rolling", "requests": total, "failed": total - client.codes[200],
        "codes": {str(code): count for code, count in sorted(client.codes.items())}, "restarts": restarts,
        "one_server_requests_per_second": round(knee, 1) or None, "rate": round(rate, 1),
        "p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2), "seconds": round(seconds, 1),
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the restarts under load, print the counts, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.rolling", description=(rolling.__doc__ or "").splitlines()[0]
    )
    parser.add_argument("command", help="starts a server on {port}")
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--port", type=int, default=3851, help="of the first server; the others have the next ones")
    parser.add_argument("--requests", type=int, default=20_000, help="restart until so many were answered")
    parser.add_argument("--load", type=float, default=0.7, help="of what one server answers in closed loop")
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second, in place of --load")
    try:
        result = asyncio.run(_run(parser.parse_args(arguments)))
    except asyncio.CancelledError:
        sys.stderr.write("loadtests: ended by SIGTERM, with the servers\n")
        return 1
    except ServerError as error:
        sys.stderr.write(f"loadtests: {error}\n")
        return 1
    sys.stdout.write(json.dumps(result) + "\n")
    return 1 if result["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
