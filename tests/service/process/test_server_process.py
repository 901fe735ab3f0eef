"""`prunella serve` and `bentoml serve` as real processes, asked over real HTTP."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import bentoml
import psutil
import pytest
from bundles import copy_with_note, copy_with_other_golden_logits
from container_steps import check
from watching import wait_until

from models.store.folder import MANIFEST, Manifest

pytest_plugins = ["serving"]  # the fixtures tiny_bundle and pair_bundle
ROOT = Path(__file__).resolve().parents[3]
PRUNELLA = [sys.executable, "-c", "from prunella.cli.main import main; main()"]
UV = Path(sys.executable).with_name("uv")
BENTOML = [sys.executable, "-m", "bentoml"]


@pytest.fixture
def environment(tmp_path):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PRUNELLA_", "BENTOML_"))}
    return {**kept, "BENTOML_HOME": str(tmp_path / "bentoml"), "PYTHONPATH": str(ROOT)}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running(command, environment, log):
    """Start a server on a free port, in a process group of its own; give process and URL once it is ready."""
    port = free_port()
    with log.open("w") as written:
        server = subprocess.Popen(
            [*command, "--port", str(port)], cwd=ROOT, env=environment, stdout=written, stderr=written,
            start_new_session=True,
        )  # fmt: skip
    try:
        wait_until(lambda: server.poll() is not None or answers(f"http://127.0.0.1:{port}/readyz"), 60)
        assert server.poll() is None, log.read_text() if log.is_file() else "it ended"  # /dev/full has no end
        yield server, f"http://127.0.0.1:{port}"
    finally:
        server.terminate()  # SIGKILL would leave BentoML's workers behind
        server.wait(timeout=20)


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def descendants(pid):
    """Return the processes that `pid` started, and theirs: BentoML puts its workers into groups of their own."""
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def run(command, environment):
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("to_whom", ["the process", "the group, as Ctrl-C does"])
def test_prunella_serve(tiny_bundle, environment, tmp_path, to_whom):
    command = [*PRUNELLA, "serve", str(tiny_bundle), "--device", "cpu"]
    with running(command, environment, tmp_path / "log") as (server, url):
        check(url, tiny_bundle)
        started = descendants(server.pid)
        assert len(started) == 1, "wanted one worker"
        with pytest.raises(urllib.error.HTTPError) as missing:
            urllib.request.urlopen(f"{url}/nope", timeout=5)
        assert json.load(missing.value)["error"].startswith("Not Found")
        if to_whom == "the process":
            server.terminate()
        else:
            os.killpg(server.pid, signal.SIGINT)
        assert server.wait(timeout=20) == 0
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started), 5)
        assert "Traceback" not in (tmp_path / "log").read_text()


def test_published_bundle_is_served_by_bentoml(tiny_bundle, environment, tmp_path):
    published = run([*PRUNELLA, "publish", str(tiny_bundle)], environment)
    assert published.returncode == 0, published.stderr
    again = run([*PRUNELLA, "publish", str(tiny_bundle)], environment)
    first, second = json.loads(published.stdout), json.loads(again.stdout)
    assert first.pop("seconds") > 0 < second.pop("seconds")
    assert first == second
    inside = {**environment, "BENTOML_CONTAINERIZED": "true"}  # where BentoML's own parent replaces no worker
    with running([*BENTOML, "serve", "--host", "127.0.0.1"], inside, tmp_path / "log") as (server, url):
        check(url, tiny_bundle)
        (worker,) = descendants(server.pid)
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: descendants(server.pid) not in ([], [worker]) and answers(f"{url}/readyz"), 60)
        with bentoml.SyncHTTPClient(url, timeout=60) as client:
            assert len(client.classify(texts=["good film"], top_k=1)["predictions"][0]) == 1


@pytest.mark.parametrize(
    "command", [[*PRUNELLA, "serve", "prunella:latest"], [*BENTOML, "serve", "--host", "127.0.0.1"]],
    ids=["prunella", "bentoml"],
)  # fmt: skip
def test_a_sighup_takes_the_model_that_a_tag_names_now(tiny_bundle, environment, tmp_path, command):
    other = tmp_path / "other"
    new_id, manifest = copy_with_note(tiny_bundle, other, "another"), Manifest.read(tiny_bundle / MANIFEST)
    assert run([*PRUNELLA, "publish", str(tiny_bundle)], environment).returncode == 0
    with running(command, environment, tmp_path / "log") as (server, url):
        assert served_id(url) == manifest.id
        (worker,) = descendants(server.pid)
        assert run([*PRUNELLA, "publish", str(other)], environment).returncode == 0
        os.kill(worker, signal.SIGKILL)  # a crash is no reason to take another model
        wait_until(lambda: descendants(server.pid) not in ([], [worker]) and answers(f"{url}/readyz"), 60)
        assert served_id(url) == manifest.id
        server.send_signal(signal.SIGHUP)
        wait_until(lambda: served_id(url) == new_id, 60)
        wait_until(lambda: len(descendants(server.pid)) == 1, 60)


def served_id(url):
    with urllib.request.urlopen(f"{url}/info", timeout=60) as answer:
        return json.load(answer)["id"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ([*PRUNELLA, "serve", "prunella:latest"], "neither a bundle folder nor a tag"),
        ([*PRUNELLA, "serve", "."], "manifest.json"),
        ([*BENTOML, "serve"], "neither a bundle folder nor a tag"),
    ],
)
def test_nothing_to_serve_is_one_sentence(environment, command, said):
    ended = run([*command, "--port", str(free_port())], environment)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_a_device_that_nobody_knows_is_one_sentence(tiny_bundle, environment):
    ended = run([*PRUNELLA, "serve", str(tiny_bundle), "--device", "abacus", "--port", str(free_port())], environment)
    assert ended.returncode == 2
    assert "device" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_a_taken_port_is_one_sentence(tiny_bundle, environment):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = run([*PRUNELLA, "serve", str(tiny_bundle), "--port", port], environment)
    assert ended.returncode == 2
    assert f"port {port}" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_a_failed_self_check_ends_the_server(tiny_bundle, environment, tmp_path):
    spoiled = copy_with_other_golden_logits(tiny_bundle, tmp_path / "spoiled")
    ended = run([*PRUNELLA, "serve", str(spoiled), "--device", "cpu", "--port", str(free_port())], environment)
    assert ended.returncode == 1
    assert "golden texts" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_a_required_device_that_is_not_there_ends_the_server(tiny_bundle, environment):
    # the tiny bundle has no variant for a GPU, so that this holds on every machine
    command = [*PRUNELLA, "serve", str(tiny_bundle), "--device", "cuda", "--port", str(free_port())]
    ended = run(command, {**environment, "PRUNELLA_REQUIRE_DEVICE": "1"})
    assert ended.returncode == 2
    assert "device cuda was required" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


@pytest.mark.skipif(shutil.which("uv") is None and not UV.is_file(), reason="`bentoml build` needs uv")
def test_a_built_bento_serves_the_bundle_that_it_was_built_with(tiny_bundle, pair_bundle, environment, tmp_path):
    assert run([*PRUNELLA, "publish", str(tiny_bundle)], environment).returncode == 0
    built = run([*BENTOML, "build", "--output", "tag"], environment)
    assert built.returncode == 0, built.stderr
    assert run([*PRUNELLA, "publish", str(pair_bundle)], environment).returncode == 0  # newer than the bento
    tag = built.stdout.split("__tag__:")[1].strip()
    with running([*BENTOML, "serve", tag, "--host", "127.0.0.1"], environment, tmp_path / "log") as (_, url):
        check(url, tiny_bundle)
