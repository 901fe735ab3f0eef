"""`python -m tools.studies.http_servers PYTHON`: processor time of an HTTP request in uvicorn and in granian.

PYTHON is the interpreter of an environment with uvicorn, httptools, uvloop and granian. Each server runs, on one
core, an application that parses a JSON body and answers with a constant: this is what the server costs. Each of
32 clients sends the next request after an answer. The cost is the server's processor time over the requests, which
other programs on the machine hardly change. The last line on stdout is JSON.
"""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import psutil
import typer

from bench.measure.latency.timing import machine_card

CLIENTS, WARMUP_SECONDS, SECONDS = 32, 1.0, 4.0
UVICORN = ("uvicorn", "app:asgi", "--http", "httptools", "--log-level", "error")
GRANIAN = ("granian", "--log-level", "error", "--runtime-mode")
SERVERS = {
    "uvicorn, httptools": UVICORN,
    "granian, ASGI": (*GRANIAN, "st", "--interface", "asgi", "app:asgi"),
    "granian, RSGI": (*GRANIAN, "st", "--interface", "rsgi", "app:rsgi"),
    "granian, RSGI, several threads": (*GRANIAN, "mt", "--interface", "rsgi", "app:rsgi"),
}
APP = """
import json

BODY = b'{"label":"positive","score":0.98,"scores":{"positive":0.98,"negative":0.02}}'


async def asgi(scope, receive, send):
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    json.loads(body)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})


async def rsgi(scope, protocol):
    json.loads(await protocol())
    protocol.response_bytes(200, [("content-type", "application/json")], BODY)
"""
BODY = b'{"text": "a gripping , well acted film that never lets up ."}'
HEAD = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
REQUEST = HEAD % len(BODY) + BODY


async def ask_again(port: int, deadline: float) -> int:
    """Return the number of requests that one client was answered until the deadline."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answered = 0
    while time.time() < deadline:
        writer.write(REQUEST)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
        answered += 1
    writer.close()
    return answered


async def load(port: int, seconds: float) -> int:
    """Return the number of requests that all clients were answered."""
    deadline = time.time() + seconds
    return sum(await asyncio.gather(*(ask_again(port, deadline) for _ in range(CLIENTS))))


def processor_seconds(process: psutil.Process) -> float:
    """Return the processor time of a server and of its workers."""
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def microseconds(command: list[str], folder: Path, port: int) -> float:
    """Return the processor time of a request."""
    with subprocess.Popen(command, cwd=folder) as server:
        process = psutil.Process(server.pid)
        try:
            for _ in range(100):
                time.sleep(0.1)
                try:
                    asyncio.run(load(port, WARMUP_SECONDS))
                    break
                except OSError:  # not listening yet
                    continue
            before = processor_seconds(process)
            requests = asyncio.run(load(port, SECONDS))
            return (processor_seconds(process) - before) / requests * 1e6
        finally:
            for child in process.children(recursive=True):
                child.kill()
            server.kill()


def main(
    python: Annotated[Path, typer.Argument(help="interpreter of the environment with the servers")],
    rounds: int = 3,
    port: int = 4100,
) -> None:
    """Print the microseconds of a request for each server, in turn."""
    costs: dict[str, list[float]] = {name: [] for name in SERVERS}
    with TemporaryDirectory() as folder:
        (Path(folder) / "app.py").write_text(APP, encoding="utf-8")
        for turn in range(rounds):
            for number, (name, server) in enumerate(SERVERS.items()):
                free = port + turn * len(SERVERS) + number
                options = ["--port", str(free), "--loop", "uvloop", "--no-access-log"]
                command = ["taskset", "-c", "0", str(python), "-m", server[0], *server[1:], *options]
                costs[name].append(round(microseconds(command, Path(folder), free), 1))
                sys.stderr.write(f"{name}: {costs[name][-1]} µs a request\n")
    sys.stdout.write(json.dumps({"microseconds": costs, "machine": machine_card()}) + "\n")


if __name__ == "__main__":
    typer.run(main)
