"""The lifecycle of workers on a simulated machine: every order of events ends with the right workers and model."""

import random
from collections import deque
from dataclasses import dataclass, field

import pytest

from service.process.actions import Discard, Kill, Log, Model, Ready, Send, Stage, Start, State, Terminate
from service.process.lifecycle import CHANGE_SECONDS, COMMIT_SECONDS, FAILED_STARTS, Lifecycle

WHOLE, REFUSED, CRASHES = "whole", "refused by its workers", "kills its workers"


@dataclass
class Process:
    pid: int
    model: Model
    orders: deque = field(default_factory=deque)  # that it has not read
    loaded: bool = False
    prepared: Model | None = None


class Machine:
    """Performs actions; what happens next is chosen by chance among what may happen."""

    def __init__(self, count=3, seed=0):
        self.chance, self.now = random.Random(seed), 0.0
        self.fleet = Lifecycle(count, "spec", grace_seconds=10)
        self.bundles = {"spec": ("first", WHOLE)}  # what a folder or tag names: id, and what becomes of it
        self.models, self.stagings = {}, deque()
        self.workers = {}
        self.serving, self.answers, self.logs, self.forgotten, self.discarded = set(), [], [], set(), []
        self.ready = self.pids = 0
        self.terminated = set()
        self.fleet.begin(self.now)
        self.perform()

    def perform(self):
        for action in self.fleet.take_actions():
            match action:
                case Stage():
                    self.stagings.append(action)
                case Start(key, _, model):
                    assert model not in self.discarded, "a worker is started with a copy that is gone"
                    self.pids += 1
                    self.workers[key] = Process(self.pids, model)
                case Send(key, message) if key in self.workers:
                    self.workers[key].orders.append(message)
                case Terminate(key) if key in self.workers:
                    self.check_successor(key)
                    self.terminated.add(key)
                case Kill(key) if key in self.workers:
                    self.die(key, -9)
                case Discard(model):
                    self.discarded.append(model)
                case Log():
                    self.logs.append(action)
                case Ready():
                    self.ready += 1

    def check_successor(self, key):
        """What serves is told to end only when the server ends or another worker of its slot serves."""
        if key in self.serving and not self.fleet.ending:
            slot = self.slots[key]
            assert [k for k in self.serving - self.terminated - {key} if self.slots[k] == slot]

    @property
    def slots(self):
        return {key: worker.slot for key, worker in self.fleet.workers.items()}

    def may_happen(self):
        events = [self.staging] * bool(self.stagings)
        for key, worker in self.workers.items():
            if key in self.terminated:
                events.append(lambda key=key: self.die(key, 0 if key in self.serving else -15))
            elif not worker.loaded:
                events.append(lambda key=key: self.load(key))
            if worker.orders:
                events.append(lambda key=key: self.obey(key))
        return events

    def staging(self):
        action = self.stagings.popleft()
        mark = self.bundles.get("spec", ("", ""))[0]
        spec = action.bundle or (action.known is not None and mark != action.known and "spec") or None
        self.now += 0.1
        needed = action.bundle or ("spec" if action.known is not None else None)
        if needed and needed not in self.bundles:
            self.fleet.not_staged(action.number, f"{needed} is damaged", 2, self.now)
        else:
            model = Model(f"copy-{action.number}", spec, self.bundles[spec][0]) if spec else None
            self.models[model] = self.bundles[spec][1] if spec else None
            self.fleet.staged(action.number, model, mark, self.now)

    def load(self, key):
        worker = self.workers[key]
        fate = self.models[worker.model]
        if fate == REFUSED:
            self.die(key, 1)
        elif fate == CRASHES:
            self.die(key, -11)
        else:
            worker.loaded = True
            self.fleet.message_received(key, {"is": "loaded"}, self.now)

    def obey(self, key):
        worker = self.workers[key]
        order = worker.orders.popleft()
        match order["do"]:
            case "serve":
                assert (
                    key in self.terminated
                    or worker.model is self.fleet.changes.accepted
                    or self.fleet.changes.current
                )
                self.serving.add(key)
                self.fleet.message_received(key, {"is": "ready"}, self.now)
            case "prepare":
                (model,) = [m for m in self.models if m and m.folder == order["folder"]]
                if self.models[model] == CRASHES:
                    self.die(key, -9)
                    return
                what = "refused" if self.models[model] == REFUSED else "prepared"
                told = {"reason": "golden texts", "status": 409} if what == "refused" else {}
                worker.prepared = model
                self.fleet.message_received(key, {"is": what, "change": order["change"], **told}, self.now)
            case "commit":
                worker.model = worker.prepared
                self.fleet.message_received(key, {"is": "committed", "change": order["change"]}, self.now)
            case "forget":
                self.forgotten |= set(order["pids"])
                self.fleet.message_received(key, {"is": "forgot", "pids": order["pids"]}, self.now)
            case "answer":
                self.answers.append(order)

    def die(self, key, code):
        pid = self.workers.pop(key).pid
        self.serving.discard(key)
        self.terminated.discard(key)
        self.fleet.died(key, code, pid, self.now)

    def step(self):
        events = self.may_happen()
        if events:
            self.chance.choice(events)()
        self.now += 0.05
        self.fleet.tick(self.now)
        self.perform()
        return bool(events or self.may_happen())

    def settle(self, steps=2000):
        """Let everything happen that may, and time pass."""
        for _ in range(steps):
            stay = [worker for worker in self.fleet.workers.values() if not worker.replaced]
            if not self.step() and (self.fleet.ending or len(stay) == self.fleet.count):  # else a pause goes on
                return self
        raise AssertionError("it does not come to rest")

    def ask(self, kind, bundle=None):
        asker = self.chance.choice(sorted(self.serving))
        message = {"is": "asked", "request": 7, "kind": kind, "bundle": bundle, "other_labels": False}
        self.fleet.message_received(asker, message, self.now)
        self.perform()

    def hang_up(self):
        self.fleet.hang_up(self.now)
        self.perform()

    def check(self, model=None):
        """Exactly one worker a slot serves, the accepted model, and nothing else runs."""
        assert self.serving == set(self.workers)
        assert sorted(self.slots.values()) == list(range(self.fleet.count))
        assert {worker.model for worker in self.workers.values()} == {self.fleet.changes.accepted}
        assert {worker.model for worker in self.fleet.workers.values()} == {self.fleet.changes.accepted}
        assert {worker.state for worker in self.fleet.workers.values()} == {State.SERVING}
        if model is not None:
            assert self.fleet.changes.accepted.id == model


def started(count=3, seed=0):
    machine = Machine(count, seed).settle()
    machine.check("first")
    assert machine.ready == 1
    return machine


@pytest.mark.parametrize("seed", range(200))
def test_any_order_of_events_ends_with_the_right_workers_and_model(seed):
    machine = started(count=seed % 4 + 1, seed=seed)
    chance = machine.chance

    def moved(fate):
        machine.bundles["spec"] = (f"moved-{chance.random()}", fate)
        machine.hang_up()

    def swap(fate):
        machine.bundles["other"] = (f"swapped-{chance.random()}", fate)
        machine.ask("swap", "other")

    events = [
        machine.hang_up, machine.hang_up, lambda: machine.ask("rollback"), lambda: machine.ask("swap", "nowhere"),
        lambda: machine.bundles.pop("spec", None), lambda: moved(WHOLE), lambda: moved(REFUSED),
        lambda: moved(CRASHES), lambda: swap(WHOLE), lambda: swap(WHOLE), lambda: swap(REFUSED),
        lambda: swap(CRASHES), *[lambda: machine.die(chance.choice(sorted(machine.workers)), -9)] * 4,
    ]  # fmt: skip
    for _ in range(40):
        if machine.serving - machine.terminated and machine.workers:
            chance.choice(events)()
            machine.perform()
        for _ in range(chance.randrange(12)):
            machine.step()
    assert not machine.fleet.ending
    machine.settle().check()
    living = {worker.pid for worker in machine.workers.values()}
    assert machine.forgotten == set(range(1, machine.pids + 1)) - living
    before = machine.fleet.changes.accepted
    machine.bundles["spec"] = ("last", WHOLE)
    machine.hang_up()
    machine.settle().check("last")
    assert machine.fleet.changes.previous is before
    machine.fleet.stop(machine.now)
    machine.perform()
    machine.settle()
    assert machine.fleet.done


def test_three_signals_at_once_leave_the_configured_number():
    machine = started(count=1)
    for _ in range(3):
        machine.hang_up()
    machine.settle().check("first")


@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("fate", [REFUSED, CRASHES, None])
def test_a_restart_with_a_damaged_bundle_leaves_every_worker_alone(count, fate):
    machine = started(count)
    before = set(machine.workers)
    if fate is None:
        del machine.bundles["spec"]
    else:
        machine.bundles["spec"] = ("damaged", fate)
    machine.hang_up()
    machine.settle().check("first")
    assert set(machine.workers) == before
    assert [log for log in machine.logs if log.level == "error" and "the workers stay" in log.message]


def test_a_restart_that_nothing_moved_keeps_the_swapped_model_and_replaces_every_process():
    machine = started()
    machine.bundles["other"] = ("swapped", WHOLE)
    machine.ask("swap", "other")
    machine.settle().check("swapped")
    before = set(machine.workers)
    machine.hang_up()
    machine.settle().check("swapped")
    assert not before & set(machine.workers)
    for key in list(machine.workers):  # a crash, the watchdog, a lack of memory
        machine.die(key, -9)
    machine.perform()
    machine.settle().check("swapped")


def test_what_was_decided_last_wins():
    machine = started()
    machine.bundles |= {"spec": ("moved before", WHOLE), "other": ("swapped", WHOLE)}
    machine.ask("swap", "other")
    machine.settle()
    machine.hang_up()
    machine.settle().check("swapped")  # the tag had been moved before the swap
    machine.bundles["spec"] = ("moved after", WHOLE)
    machine.settle().check("swapped")
    machine.hang_up()
    machine.settle().check("moved after")
    machine.ask("rollback")
    machine.settle().check("swapped")
    machine.hang_up()
    machine.settle().check("swapped")


@pytest.mark.parametrize("fate", [REFUSED, CRASHES, None])
def test_a_refused_swap_changes_no_worker_and_says_why(fate):
    machine = started()
    if fate:
        machine.bundles["other"] = ("swapped", fate)
    machine.ask("swap", "other")
    machine.settle().check("first")
    if fate is CRASHES:  # the client is answered unless its own worker was the first that died
        assert all("ended with code -9" in answer["reason"] for answer in machine.answers)
    else:
        (answer,) = machine.answers
        assert answer["request"] == 7
        assert "golden texts" in answer["reason"] or "damaged" in answer["reason"]


def test_a_second_change_meanwhile_is_refused():
    machine = started()
    machine.bundles["other"] = ("swapped", WHOLE)
    machine.ask("swap", "other")
    machine.ask("swap", "other")
    machine.settle().check("swapped")
    assert [("reason" in answer, answer.get("id")) for answer in machine.answers] == [
        (True, None),
        (False, "swapped"),
    ]
    assert not machine.ask("rollback")
    machine.settle().check("first")


def test_a_change_during_a_restart_comes_after_it():
    machine = started()
    machine.bundles |= {"spec": ("moved", WHOLE), "other": ("swapped", WHOLE)}
    machine.hang_up()
    machine.ask("swap", "other")
    machine.settle().check("swapped")
    assert [answer["id"] for answer in machine.answers] in ([], ["swapped"])  # none: its worker had been replaced
    assert machine.fleet.changes.previous.id == "moved"


def test_a_client_that_waits_for_a_restart_is_told_of_the_end():
    machine = started()
    machine.hang_up()
    machine.ask("swap", "other")
    machine.fleet.stop(machine.now)
    machine.perform()
    while machine.may_happen():
        for key in list(machine.workers):
            while key in machine.workers and machine.workers[key].orders:
                machine.obey(key)
        machine.step()
    assert "ending" in machine.answers[0]["reason"]


def test_one_worker_that_cannot_start_does_not_end_the_others():
    machine = started()
    machine.models[machine.fleet.changes.accepted] = REFUSED
    lost = next(key for key in machine.workers if machine.slots[key] == 1)
    machine.die(lost, -9)
    for _ in range(20):  # five attempts and more, with pauses of up to a minute
        machine.now += 100
        machine.fleet.tick(machine.now)
        machine.perform()
        while machine.step():
            pass
    assert not machine.fleet.ending
    assert machine.fleet._roster.failures[1] > FAILED_STARTS
    assert len(machine.serving) == 2
    machine.models[machine.fleet.changes.accepted] = WHOLE
    machine.settle().check("first")


def test_a_server_with_no_worker_left_that_cannot_start_ends():
    machine = started(count=2)
    machine.models[machine.fleet.changes.accepted] = REFUSED
    for key in list(machine.workers):
        machine.die(key, -9)
    machine.perform()
    machine.settle()
    assert machine.fleet.done
    assert machine.fleet.exit_code == 1


@pytest.mark.parametrize(("fate", "code"), [(REFUSED, 1), (CRASHES, 1), (None, 2)])
def test_a_server_that_cannot_start_ends_at_once(fate, code):
    machine = Machine(3)
    machine.bundles = {"spec": ("first", fate)} if fate else {}
    machine.settle()
    assert (machine.fleet.done, machine.fleet.exit_code, machine.ready) == (True, code, 0)


def test_an_old_worker_that_dies_while_it_is_replaced_leaves_the_right_number():
    machine = started()
    old = set(machine.workers)
    machine.hang_up()
    machine.staging()
    machine.perform()
    assert len(machine.workers) == 6
    for key in old:
        machine.die(key, -9)
    machine.settle().check("first")


def test_a_change_that_does_not_come_back_is_given_up_and_a_stuck_worker_killed():
    machine = started()
    machine.bundles["other"] = ("swapped", WHOLE)
    machine.ask("swap", "other")
    machine.staging()
    machine.perform()
    machine.now += CHANGE_SECONDS + 1  # no worker has read its order
    machine.fleet.tick(machine.now)
    machine.perform()
    machine.settle().check("first")
    assert "took longer" in machine.answers[0]["reason"]
    machine.ask("swap", "other")
    machine.staging()
    machine.perform()
    for key in list(machine.workers):
        machine.obey(key)
    machine.perform()
    machine.now += COMMIT_SECONDS + 1  # all are told to commit, none has read it
    machine.fleet.tick(machine.now)
    machine.perform()
    machine.settle().check("swapped")


def test_a_worker_that_does_not_end_is_killed():
    machine = started()
    machine.hang_up()
    machine.staging()
    machine.perform()
    stuck = min(machine.workers)
    while machine.fleet.workers[stuck].state is not State.ENDING:
        machine.step()
        if stuck not in machine.workers:  # it ended by itself: chance
            return
    machine.now += 11
    machine.fleet.tick(machine.now)
    machine.perform()
    assert stuck not in machine.workers
    machine.settle().check("first")
