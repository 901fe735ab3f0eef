"""Build the image from a tiny bundle and probe real containers: `make test-container`.

The containers run as a platform would run them: an arbitrary user, a read-only root file system, no capabilities, no
new privileges. Exit code 3: there is no container engine here, nothing was tested.
"""

import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from container_steps import ask, assert_same, check  # noqa: E402
from rolling import failures, is_ready, rolling_restart  # noqa: E402

BIN = Path(sys.executable).parent
LOCKED = ["--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges", "--user", "1000790000:0"]
LIMITS = ["--memory", "512m", "--cpus", "0.5"]
MOST_BYTES = 450_000_000
TRAINING = ("torch", "transformers", "optimum", "onnx", "sklearn", "huggingface_hub")
PROGRAMS = ("gcc", "cc", "g++", "make", "git", "pip", "pip3", "uv")
TEXTS = ["good film", "a dull story of the plot"]
ROLLING_REQUESTS = int(os.environ.get("TEST_ROLLING_REQUESTS", "2000"))
SOAK_REQUESTS = int(os.environ.get("TEST_SOAK_REQUESTS", "0"))  # 0: no soak


def say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


class Engine:
    """docker or podman."""

    def __init__(self) -> None:
        name = os.environ.get("BENTOML_CONTAINERIZE_BACKEND")
        if name is None and shutil.which("docker") and _succeeds("docker", "info"):
            name = "docker"
        if name is None and shutil.which("podman"):
            name = "podman"
        if name is None:
            say("NOT RUN: the container test needs a running docker, or podman; neither was there")
            raise SystemExit(3)
        self.name = name

    def __call__(self, *arguments: str) -> str:
        """Run a command of the engine and return its output."""
        done = subprocess.run([self.name, *arguments], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{self.name} {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout.strip()


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0


class Container:
    """A running container of the image, removed at the end of the `with` block."""

    def __init__(
        self, engine: Engine, image: str, *options: str, tmp: bool = True, bentoml: bool = False, **settings: str
    ) -> None:
        self.engine, self.port = engine, _free_port()
        self.name, self.url = f"prunella-test-{self.port}", f"http://127.0.0.1:{self.port}"
        variables = [f"--env=PRUNELLA_{name.upper()}={value}" for name, value in settings.items()]
        if tmp:
            options = (*options, "--tmpfs", "/tmp")
        elif engine.name == "podman":
            options = (*options, "--read-only-tmpfs=false")
        command = ["serve"] if bentoml else ["python", "-m", "service.process.launch"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        start = time.perf_counter()
        engine("run", "--detach", "--name", self.name, "--network", "host", *LOCKED, *options, *variables, image,
               *command)  # fmt: skip
        self.wait_until_ready(start)

    def wait_until_ready(self, start: float) -> None:
        """Wait until /readyz answers 200 and note how long that took."""
        while not is_ready(self.port):
            if time.perf_counter() - start > 60:
                raise RuntimeError(f"the container is not ready after 60 s: {self.logs()}")
            time.sleep(0.01)
        self.seconds_to_ready = time.perf_counter() - start

    def __enter__(self) -> "Container":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(RuntimeError):
            self.engine("rm", "--force", "--time=1" if self.engine.name == "podman" else "--volumes", self.name)

    def logs(self) -> str:
        """Return what the server printed."""
        done = subprocess.run([self.engine.name, "logs", self.name], capture_output=True, text=True)
        return done.stdout + done.stderr

    def python(self, code: str) -> str:
        """Run Python code in the container and return its output."""
        return self.engine("exec", self.name, "python", "-c", code)

    def metric(self, name: str) -> float:
        """Return the value of a metric without labels."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as answer:
            return float(re.findall(rf"^{name} (\S+)$", answer.read().decode(), re.MULTILINE)[0])

    def stop(self) -> int:
        """Send SIGTERM, wait for the end, and return the exit code."""
        self.engine("stop", "--time", "20", self.name)
        return int(self.engine("inspect", "--format", "{{.State.ExitCode}}", self.name))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def status(url: str, document: object) -> int:
    """Return the status code of the answer to a POST request."""
    try:
        ask(url, document)
    except urllib.error.HTTPError as error:
        return error.code
    return 200


@contextlib.contextmanager
def built(engine: Engine, work: Path) -> Iterator[tuple[str, Path]]:
    """Build the image from a tiny bundle; yield the image's name and the bundle."""
    from bundles import make_tiny_bundle

    image = f"localhost/prunella-test-{os.getpid()}:latest"  # without a registry podman asks which one is meant
    bundle = make_tiny_bundle(work / "store")
    variables = {**os.environ, "BENTOML_HOME": str(work / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}
    variables["PYTHONPATH"] = str(ROOT)
    (work / "bentoml").mkdir()

    def step(*command: str | Path) -> str:
        return subprocess.run(command, env=variables, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout

    step(sys.executable, "-m", "prunella", "publish", bundle)
    tag = step(BIN / "bentoml", "build", "--output", "tag").split("__tag__:")[1].split()[0]
    step(BIN / "bentoml", "containerize", tag, "--backend", engine.name, "--image-tag", image)
    try:
        yield image, bundle
    finally:
        subprocess.run([engine.name, "rmi", "--force", image], capture_output=True)


def probe_contents(engine: Engine, image: str) -> int:
    """Check the size, and that nothing is in the image that only training, building or downloading needs."""
    size = int(engine("image", "inspect", "--format", "{{.Size}}", image))
    assert size <= MOST_BYTES, f"the image has {size:,} bytes, wanted at most {MOST_BYTES:,}"
    code = (
        "import importlib.util, json, os, shutil; "
        f"print(json.dumps([[n for n in {TRAINING} if importlib.util.find_spec(n)], "
        f"[n for n in {PROGRAMS} if shutil.which(n)], os.getuid(), os.access('/app', os.W_OK)]))"
    )
    answer = engine("run", "--rm", "--network", "host", *LOCKED, image, "python", "-c", code)
    assert json.loads(answer) == [[], [], 1000790000, False], answer
    default = engine("image", "inspect", "--format", "{{.Config.User}}", image)
    assert default not in ("", "0", "root"), f"the image runs as {default!r}"
    return size


def probe_protocols(server: Container, bundle: Path) -> None:
    """Compare the answers of every protocol with each other and with those of this process."""
    check(server.url, bundle)
    native = ask(f"{server.url}/v1/classify", {"texts": TEXTS})["predictions"]  # type: ignore[index]
    assert_same(ask(f"{server.url}/predict", {"inputs": [[text] for text in TEXTS]}), native)
    assert_same(ask(f"{server.url}/", {"inputs": TEXTS}), native)
    assert_same(ask(f"{server.url}/classify", {"texts": TEXTS})["predictions"], native)  # type: ignore[index]
    tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "data": TEXTS}
    outputs = ask(f"{server.url}/v2/models/prunella/infer", {"inputs": [tensor]})["outputs"]  # type: ignore[index]
    best = next(output["data"] for output in outputs if output["name"] == "label")
    assert best == [row[0]["label"] for row in native], best


def probe_limits(server: Container) -> None:
    """Check that the image has the limits that `prunella serve` has by default."""
    from service.settings import Settings

    limits = Settings()
    native = f"{server.url}/v1/classify"
    assert status(native, {"texts": ["good"] * limits.max_batch}) == 200
    assert status(native, {"texts": ["good"] * (limits.max_batch + 1)}) == 413
    long = {"text": "x" * (limits.max_text_chars + 1)}
    assert status(native, long) == 200  # cut
    assert status(native, long | {"truncate": False}) == 413
    assert status(native, {"text": ""}) == 422
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.putrequest("POST", "/v1/classify")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(limits.max_body_bytes + 1))
    connection.endheaders()
    assert connection.getresponse().status == 413


def probe_worker_death(server: Container) -> None:
    """Kill the worker and wait for the answer of the next one."""
    code = (
        "import os, pathlib\n"
        "for entry in pathlib.Path('/proc').glob('[0-9]*/cmdline'):\n"
        "    if b'service.process.worker' + bytes(1) in entry.read_bytes(): {}"  # not this command itself
    )
    before = server.python(code.format("print(entry.parent.name)"))
    server.python(code.format("os.kill(int(entry.parent.name), 9)"))
    assert status(f"{server.url}/v1/classify", {"text": "good"}) == 200  # waits in the kernel's queue until then
    server.wait_until_ready(time.perf_counter())
    after = server.python(code.format("print(entry.parent.name)"))
    assert before != after, f"worker {before} is still there"


def probe_drain(server: Container) -> Counter[str]:
    """Stop the container under load: each request is answered, or its connection is refused before it was sent."""
    outcomes: Counter[str] = Counter()

    def client() -> None:
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
                connection.connect()
            except ConnectionRefusedError:
                return
            try:
                connection.request(
                    "POST", "/v1/classify", '{"text": "good film"}', {"Content-Type": "application/json"}
                )
                outcomes[str(connection.getresponse().status)] += 1
            except (OSError, http.client.HTTPException) as error:
                outcomes[type(error).__name__] += 1
            finally:
                connection.close()

    clients = [threading.Thread(target=client) for _ in range(8)]
    for thread in clients:
        thread.start()
    time.sleep(1)
    code = server.stop()
    for thread in clients:
        thread.join()
    assert code == 0, f"the container ended with exit code {code}: {server.logs()}"
    assert outcomes["200"] > 20, outcomes
    failed = failures(outcomes)
    assert not failed, f"requests failed while the container stopped: {failed} of {outcomes.total()}"
    return outcomes


def probe_rolling_restart(engine: Engine, image: str) -> dict[str, object]:
    """Replace two containers in turn under load: no request fails."""
    with contextlib.ExitStack() as stack:

        def start() -> Container:
            return stack.enter_context(Container(engine, image, drain_delay_s="1"))

        outcomes, replaced, rate = rolling_restart(start, ROLLING_REQUESTS)
    failed = failures(outcomes)
    assert not failed, f"requests failed in a rolling restart: {failed} of {outcomes.total()}"
    return {"outcomes": dict(outcomes), "replaced": replaced, "requests_per_second": round(rate)}


def probe_memory(server: Container) -> list[float]:
    """Return the megabytes of the worker after a hundredth of a long load, and after each tenth of it."""
    command = [sys.executable, "-m", "prunella", "loadtest", "--url", server.url, "--users", "16", "--requests"]

    def megabytes(requests: int) -> float:
        subprocess.run(
            [*command, str(requests), "--scenario", "soak"], check=True, stdout=subprocess.DEVNULL, cwd=ROOT
        )
        return round(server.metric("process_resident_memory_bytes") / 1e6, 1)

    sizes = [megabytes(SOAK_REQUESTS // 100), *[megabytes(SOAK_REQUESTS // 10) for _ in range(10)]]
    assert sizes[-1] < 1.05 * sizes[0], f"memory grew: {sizes} MB"
    return sizes


def limits_work(engine: Engine, image: str) -> str | None:
    """Return None if the engine can limit memory and CPU here, else why not."""
    code = (
        "from pathlib import Path; "
        "names = ['memory.max', 'memory/memory.limit_in_bytes', 'cpu.max', 'cpu/cpu.cfs_quota_us']; "
        "paths = [Path('/sys/fs/cgroup', name) for name in names]; "
        "print(*[path.read_text().split()[0] for path in paths if path.exists()])"
    )
    try:
        answer = engine("run", "--rm", "--network", "host", *LOCKED, *LIMITS, image, "python", "-c", code)
    except RuntimeError as error:
        return str(error)
    if answer.split() == [str(512 * 1024**2), "50000"]:  # bytes, and microseconds of each tenth of a second
        return None
    return f"the limits are not in the container's control group, which has {answer!r}"


def main() -> int:
    """Build, start, probe and stop; print one line for each probe, and the measurements as JSON."""
    engine = Engine()
    measured: dict[str, object] = {"engine": engine.name}
    with tempfile.TemporaryDirectory() as work, built(engine, Path(work)) as (image, bundle):
        measured["image_bytes"] = probe_contents(engine, image)
        say(f"passed: contents; {measured['image_bytes']:,} bytes")
        with Container(engine, image, drain_delay_s="1") as server:
            probe_protocols(server, bundle)
            say("passed: the protocols answer as this process does")
            probe_limits(server)
            say("passed: the limits are those of `prunella serve`")
            probe_worker_death(server)
            say("passed: a killed worker was replaced")
            say(f"passed: stopped under load: {dict(probe_drain(server))}")
        with Container(engine, image, tmp=False) as server:
            check(server.url, bundle)
            assert server.stop() == 0
        say("passed: a file system without any place to write")
        with Container(engine, image, bentoml=True) as server:
            check(server.url, bundle)
            assert server.stop() == 0
            measured["bentoml_seconds_to_ready"] = round(server.seconds_to_ready, 2)
        say("passed: `bentoml serve` in the image")
        if reason := limits_work(engine, image):
            say(f"NOT RUN: 512 MB and half a core: {reason}")
        else:
            with Container(engine, image, *LIMITS) as server:
                check(server.url, bundle)
                measured["limited_seconds_to_ready"] = round(server.seconds_to_ready, 2)
                load(server, 500)
                measured["limited_worker_bytes"] = server.metric("process_resident_memory_bytes")
                assert server.stop() == 0
            say("passed: 512 MB and half a core")
        measured["rolling_restart"] = probe_rolling_restart(engine, image)
        say(f"passed: a rolling restart of two containers: {measured['rolling_restart']}")
        if SOAK_REQUESTS:
            with Container(engine, image) as server:
                measured["soak_megabytes"] = probe_memory(server)
            say(f"passed: {SOAK_REQUESTS:,} requests: {measured['soak_megabytes']} MB")
        seconds = []
        for _ in range(3):
            with Container(engine, image) as server:
                seconds.append(server.seconds_to_ready)
                measured["worker_bytes"] = server.metric("process_resident_memory_bytes")
        measured["seconds_to_ready"] = round(statistics.median(seconds), 2)
        say(f"start to ready: median {measured['seconds_to_ready']} s of {[round(s, 2) for s in seconds]}")
    print(json.dumps(measured))  # noqa: T201
    return 0


def load(server: Container, requests: int) -> None:
    """Send requests one after another; each must be answered."""
    for _ in range(requests):
        assert status(f"{server.url}/v1/classify", {"texts": TEXTS}) == 200


if __name__ == "__main__":
    sys.exit(main())
