"""A real server with three workers, under load, through any sequence of SIGHUP, kill -9, swap, rollback and damage.

TEST_SEQUENCES sets how many random sequences run (default 12), TEST_SEED which ones.
"""

import http.client
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import suppress

import psutil
import pytest
from bundles import copy_with_note
from test_server_process import PRUNELLA, ROOT, running
from watching import wait_until

from models.store.folder import MANIFEST, Manifest

pytest_plugins = ["serving"]  # the fixtures tiny_bundle and pair_bundle
SEQUENCES = int(os.environ.get("TEST_SEQUENCES", "12"))
SEED = int(os.environ.get("TEST_SEED", "21"))
WORKERS, CLIENTS = 3, 4
PACE_SECONDS = 0.005  # between two requests of a client: workers that start need the cores too
BODY = b'{"text": "good film"}'
JSON = {"Content-Type": "application/json"}
ADMIN = {"Authorization": "Bearer admin-token-1", **JSON}


NAMES = {}  # of the bundles, by id


def copy_as(bundle, target, name):
    """Copy a bundle so that it has another id; `name_of` knows it by its name."""
    NAMES[copy_with_note(bundle, target, name)] = name
    return target


def name_of(bundle_id):
    return NAMES.get(bundle_id, bundle_id)


def damage(folder):
    """Alter a file of a bundle in its place, as a broken copy or a full disk does."""
    onnx = folder / "onnx" / "cpu-int8.onnx"
    with onnx.open("r+b") as file:
        file.seek(onnx.stat().st_size // 2)
        file.write(b"\xff" * 64)


class Client(threading.Thread):
    """Asks again and again over one connection, and keeps what went wrong with the port that it had then."""

    def __init__(self, port, stop):
        super().__init__(daemon=True)
        self.port, self.stop = port, stop
        self.models, self.failures = Counter(), []

    def run(self):
        connection, local = None, None
        while not self.stop.wait(PACE_SECONDS):
            try:
                if connection is None or connection.sock is None:
                    connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
                    connection.connect()
                    local = connection.sock.getsockname()[1]
                connection.request("POST", "/v1/classify", BODY, JSON)
                answer = connection.getresponse()
                body = answer.read()
                if answer.status == 200:
                    self.models[name_of(json.loads(body)["model"])] += 1
                else:
                    self.failures.append((local, f"{answer.status} {body!r}"))
            except (OSError, http.client.HTTPException) as error:
                self.failures.append((local, repr(error)))
                connection.close()
                connection = None


class Load:
    """Several clients."""

    def __init__(self, url):
        self.stop = threading.Event()
        self.clients = [Client(int(url.rsplit(":", 1)[1]), self.stop) for _ in range(CLIENTS)]

    def __enter__(self):
        for client in self.clients:
            client.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for client in self.clients:
            client.join(timeout=90)
            assert not client.is_alive(), "a request hangs"

    @property
    def answered(self):
        return sum(client.models.total() for client in self.clients)

    @property
    def failures(self):
        return [failure for client in self.clients for failure in client.failures]


class Served:
    """A running server, and what is done to it."""

    def __init__(self, process, url, current):
        self.process, self.url, self.current = process, url, current
        self.lost_ports = set()  # of clients whose connection was with a process that was killed

    def workers(self):
        with suppress(psutil.NoSuchProcess):
            found = psutil.Process(self.process.pid).children()
            return {p.pid for p in found if "service.process.worker" in " ".join(_command(p))}
        return set()

    def hang_up(self):
        self.process.send_signal(signal.SIGHUP)

    def kill(self, pid):
        """kill -9, after noting which clients had a connection with the process: it is stopped meanwhile."""
        with suppress(psutil.NoSuchProcess):
            victim = psutil.Process(pid)
            victim.suspend()
            while victim.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
                time.sleep(0.001)
            with suppress(psutil.AccessDenied):
                self.lost_ports |= {one.raddr.port for one in victim.net_connections("tcp") if one.raddr}
            victim.kill()

    def move(self, folder):
        """Let the symlink that the server was started with point to another folder."""
        new = self.current.with_name("new")
        new.symlink_to(folder)
        new.replace(self.current)

    def ask(self, path, body=None):
        """Return status and document; None where the worker that was asked was killed."""
        data = json.dumps(body).encode() if body is not None else b""
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, data, ADMIN), timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except (OSError, http.client.HTTPException):
            return None

    def get(self, path):
        with urllib.request.urlopen(urllib.request.Request(self.url + path, headers=ADMIN), timeout=60) as answer:
            return answer.read().decode()

    def metric(self, name):
        lines = [line for line in self.get("/metrics").splitlines() if line.startswith(name)]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}

    def at_rest(self, model=None):
        """Whether exactly the configured number of workers serve one model, by /metrics of all of them."""
        if len(self.workers()) != WORKERS:
            return False
        try:
            models, workers = self.metric("prunella_model_info"), self.metric("prunella_workers")
        except (OSError, http.client.HTTPException):
            return False  # the worker that was asked ended meanwhile
        served = [name_of(series.partition('id="')[2].partition('"')[0]) for series in models]
        return list(workers.values()) == [WORKERS] and len(served) == 1 and model in (None, served[0])

    def come_to_rest(self, model=None, seconds=60):
        wait_until(lambda: self.at_rest(model), seconds)


def _command(process):
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


@pytest.fixture(scope="module")
def bundles(tiny_bundle, tmp_path_factory):
    """Bundles that may be served, by name."""
    home = tmp_path_factory.mktemp("bundles")
    return {name: copy_as(tiny_bundle, home / name, name) for name in ("aaaa", "bbbb", "cccc")}


@pytest.fixture
def served(bundles, tmp_path):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PRUNELLA_", "BENTOML_"))}
    ours = {
        "PRUNELLA_WORKERS": str(WORKERS), "PRUNELLA_RUNNERS": "1", "PRUNELLA_ADMIN_TOKEN": "admin-token-1",
        "PRUNELLA_REQUEST_TIMEOUT_MS": "60000", "PRUNELLA_DRAIN_S": "60", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    current = tmp_path / "current"
    current.symlink_to(bundles["aaaa"])
    command = [*PRUNELLA, "serve", str(current), "--device", "cpu"]
    with running(command, {**kept, **ours}, tmp_path / "log") as (process, url):
        found = Served(process, url, current)
        found.log = tmp_path / "log"
        found.come_to_rest("aaaa")
        yield found


def check(served, load, refused=False):
    """No request failed but those of a connection with a process that was killed; `refused`: it has ended."""
    others = [failure for failure in load.failures if failure[0] not in served.lost_ports]
    if refused:
        others = [failure for failure in others if "ConnectionRefused" not in failure[1]]
    assert not others, others


class Events:
    """What may happen to a server, by chance; keeps which models may be the one accepted last."""

    def __init__(self, served, bundles, pair_bundle, home, seed):
        self.served, self.bundles, self.home = served, bundles, home
        self.chance, self.outcomes = random.Random(seed), Counter()
        self.folders = {name: home / name for name in bundles}
        self.repair()
        broken = home / "broken"
        shutil.copytree(bundles["bbbb"], broken)
        damage(broken)
        self.refused = [broken, pair_bundle, home / "nowhere"]
        self.accepted, self.restarting = {"aaaa"}, False
        self.all = [
            self.hang_up, self.hang_up, self.kill, self.kill, self.swap, self.swap, self.bad_swap, self.roll_back,
            self.move, self.damage, self.pause,
        ]  # fmt: skip

    def any_folder(self):
        return self.folders[self.chance.choice(sorted(self.folders))]

    def repair(self):
        for name, folder in self.folders.items():
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(self.bundles[name], folder)

    def hang_up(self):
        self.restarting = True
        self.accepted.add(self.named())
        self.served.hang_up()

    def named(self):
        return name_of(Manifest.read(self.served.current / MANIFEST).id)

    def kill(self):
        if workers := self.served.workers():
            self.served.kill(self.chance.choice(sorted(workers)))

    def swap(self):
        self.change("/admin/models", {"bundle": str(self.any_folder())})

    def bad_swap(self):
        status = self.change("/admin/models", {"bundle": str(self.chance.choice(self.refused))})
        assert status != 200

    def roll_back(self):
        self.change("/admin/rollback")

    def change(self, path, body=None):
        answer = self.served.ask(path, body)
        self.outcomes[f"{path.rpartition('/')[2]} {answer and answer[0]}"] += 1
        if answer and answer[0] == 200:
            self.accepted, self.restarting = (
                {name_of(answer[1]["id"])},
                False,
            )  # none is accepted while a restart is under way
        return answer and answer[0]

    def move(self):
        self.served.move(self.any_folder())
        if self.restarting:
            self.accepted.add(self.named())  # if it has not been read before

    def damage(self):
        damage(self.any_folder())

    def pause(self):
        time.sleep(self.chance.random() / 2)

    def rest(self):
        """All workers serve one model, which is one that may have been accepted last."""
        wait_until(
            lambda: self.change("/admin/models", {"bundle": "nowhere"}) == 422, 60
        )  # refused when no restart is under way
        self.served.come_to_rest()
        (series,) = self.served.metric("prunella_model_info")
        model = name_of(series.partition('id="')[2].partition('"')[0])
        assert model in self.accepted
        self.accepted, self.restarting = {model}, False

    def decide(self, number):
        """Whatever came before, a swap or a moved symlink is accepted now."""
        self.repair()
        name = self.chance.choice(sorted(self.bundles))
        fresh = self.home / f"fresh-{number}"
        shutil.copytree(self.bundles[name], fresh)
        if self.chance.random() < 0.5:
            assert self.change("/admin/models", {"bundle": str(fresh)}) == 200
        else:
            self.served.move(fresh)
            self.served.hang_up()
        self.served.come_to_rest(name)
        self.accepted = {name}


def test_random_sequences_under_load(served, bundles, pair_bundle, tmp_path):
    (tmp_path / "home").mkdir()
    events = Events(served, bundles, pair_bundle, tmp_path / "home", SEED)
    with Load(served.url) as load:
        for number in range(SEQUENCES):
            for event in [events.chance.choice(events.all) for _ in range(events.chance.randrange(1, 6))]:
                event()
            events.rest()
            check(served, load)
            if number % 5 == 4:
                events.decide(number)
        before = load.answered
        wait_until(lambda: load.answered > before + 20, 60)
    check(served, load)
    told = f"seed {SEED}: {SEQUENCES} sequences, {dict(events.outcomes)}; {load.answered} requests answered"
    sys.stderr.write(f"{told}, {len(load.failures)} lost with a killed worker\n")


def test_a_swap_changes_every_worker_and_survives_their_deaths(served, bundles):
    before = served.workers()
    with Load(served.url) as load:
        assert name_of(served.ask("/admin/models", {"bundle": str(bundles["bbbb"])})[1]["id"]) == "bbbb"
        served.come_to_rest("bbbb")
        assert served.workers() == before
        for pid in before:
            served.kill(pid)
        served.come_to_rest("bbbb")
        assert not served.workers() & before
        told = json.loads(served.get("/admin/models"))
        assert (name_of(told["current"]["id"]), name_of(told["previous"]["id"])) == ("bbbb", "aaaa")
        before = served.workers()
        served.hang_up()
        wait_until(lambda: not served.workers() & before, 60)
        served.come_to_rest("bbbb")  # the symlink was not moved
        assert name_of(served.ask("/admin/rollback")[1]["id"]) == "aaaa"
        served.come_to_rest("aaaa")
    check(served, load)


def test_a_refused_swap_changes_no_worker_and_says_why(served, bundles, pair_bundle, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(bundles["bbbb"], broken)
    damage(broken)
    for folder, said in [(broken, f"{broken.resolve()}/onnx"), (pair_bundle, "other_labels"), ("gone", "neither")]:
        status, document = served.ask("/admin/models", {"bundle": str(folder)})
        assert status == 422
        assert said in document["error"]
    assert served.ask("/admin/rollback")[0] == 422
    served.come_to_rest("aaaa")


def test_a_sighup_takes_a_moved_symlink_and_what_was_decided_last_wins(served, bundles):
    with Load(served.url) as load:
        served.move(bundles["bbbb"])
        served.hang_up()
        served.come_to_rest("bbbb")
        served.move(bundles["cccc"])
        assert served.ask("/admin/models", {"bundle": str(bundles["aaaa"])})[0] == 200
        before = served.workers()
        served.hang_up()
        wait_until(lambda: not served.workers() & before, 60)
        served.come_to_rest("aaaa")  # swapped after the symlink was moved
        served.move(bundles["bbbb"])
        served.hang_up()
        served.come_to_rest("bbbb")
        assert name_of(served.ask("/admin/rollback")[1]["id"]) == "aaaa"
    check(served, load)
    assert set().union(*(client.models for client in load.clients)) <= {"aaaa", "bbbb"}


def test_a_damaged_bundle_ends_no_worker_and_is_not_needed_by_the_next(served, bundles, tmp_path):
    mine = tmp_path / "mine"
    shutil.copytree(bundles["bbbb"], mine)
    served.move(mine)
    served.hang_up()
    served.come_to_rest("bbbb")
    before = served.workers()
    damage(mine)
    with Load(served.url) as load:
        served.hang_up()
        wait_until(lambda: "the workers stay as they were" in served.log.read_text(), 60)
        assert served.workers() == before
        for pid in sorted(before)[:2]:
            served.kill(pid)
        wait_until(lambda: len(served.workers() - before) == 2, 60)
        served.come_to_rest("bbbb")  # from the copy that was accepted
        shutil.rmtree(mine)
        served.hang_up()
        served.come_to_rest("bbbb")
    check(served, load)
    assert "altered" in served.log.read_text()


def test_three_signals_and_a_death_meanwhile_leave_three_workers(served):
    with Load(served.url) as load:
        before = served.workers()
        for _ in range(3):
            served.hang_up()
            time.sleep(0.1)
        wait_until(lambda: served.workers() - before, 60)
        for pid in before:
            served.kill(pid)
        wait_until(lambda: not served.workers() & before, 60)
        served.come_to_rest("aaaa")
    check(served, load)


def test_workers_end_when_their_supervisor_is_killed(served):
    workers = served.workers()
    with Load(served.url) as load:
        wait_until(lambda: load.answered > 20, 60)
        served.process.kill()
        wait_until(lambda: not any(psutil.pid_exists(pid) for pid in workers), 60)
        load.stop.set()
    check(served, load, refused=True)


def test_metrics_are_those_of_the_living_and_add_up(served, bundles):
    asked = 12
    for _ in range(asked):
        request = urllib.request.Request(served.url + "/v1/classify", BODY, JSON)
        urllib.request.urlopen(request, timeout=60).close()
    (resident,) = served.metric("process_resident_memory_bytes").values()
    one = min(psutil.Process(pid).memory_info().rss for pid in served.workers())
    assert resident > 2 * one
    assert served.ask("/admin/models", {"bundle": str(bundles["bbbb"])})[0] == 200
    before = served.workers()
    for pid in before:
        served.kill(pid)
    wait_until(lambda: len(served.workers() - before) == WORKERS, 60)
    served.come_to_rest("bbbb")
    (answered,) = served.metric('prunella_requests_total{code="200",dialect="native"}').values()
    assert answered == asked  # what the dead have counted stays
    assert list(served.metric("prunella_model_info").values()) == [1.0]
    (fresh,) = served.metric("process_resident_memory_bytes").values()
    assert fresh < 1.5 * resident
    assert all(seconds > 0 for seconds in served.metric("process_cpu_seconds_total").values())
