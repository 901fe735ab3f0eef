"""What waits for the tokenizer is admitted, counted and dropped as what waits for the model is."""

import asyncio
import gc
import http.client
import json
import os
import threading
import time
import tracemalloc
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from test_server_process import PRUNELLA, running

from service.inference.inference_service import InferenceService
from service.inference.request_context import RequestContext
from service.inference.tokenizer_queue import (
    INLINE_CHARS,
    SHORT_CHARS,
    client_gone_error,
    count_chars,
    expired_error,
    late_error,
    pieces_of,
    shutting_down_error,
)
from service.model.bundle import Bundle
from service.model.engine import Engine
from service.model.session import RuntimeSettings
from service.protocols import BadRequest, Request
from service.settings import Settings

pytest_plugins = ["serving"]  # the fixture tiny_bundle
ROOT = Path(__file__).resolve().parents[3]
SHORT = "good film " * 500  # 5,000 characters
LONG = "good film " * 5000


@pytest.fixture(scope="module")
def engine(tiny_bundle):
    return Engine.open(Bundle.open(tiny_bundle), RuntimeSettings(device="cpu"))


class Gate:
    """An engine whose tokenizer waits at a gate with long texts, and notes what it was given."""

    def __init__(self, engine, closed_from=SHORT_CHARS + 1):
        self._engine, self.closed_from = engine, closed_from
        self.open, self.reached, self.given = threading.Event(), threading.Event(), []

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def tokenize(self, rows, cut):
        self.given.append(rows)
        if count_chars(rows) >= self.closed_from:
            self.reached.set()
            self.open.wait(30)
        return self._engine.tokenize(rows, cut)


@asynccontextmanager
async def serving(engine, **settings):
    inference = InferenceService(engine, Settings(device="cpu", **settings))
    await inference.start()
    try:
        yield inference
    finally:
        engine.open.set()
        await inference.stop()


def ask(inference, text, seconds=60.0, gone=lambda: False, **options):
    now = time.perf_counter()
    request = Request([(text,)], single=True, **options)
    return asyncio.ensure_future(inference.answer(request, RequestContext(now, now + seconds, gone)))


async def blocked(inference, engine, **options):
    """Return a request that the long lane is busy with."""
    first = ask(inference, LONG, **options)
    assert await asyncio.to_thread(engine.reached.wait, 30)
    return first


async def problem_of(task):
    with pytest.raises(BadRequest) as problem:
        await task
    return problem.value


def test_short_requests_do_not_wait_for_long_ones(engine):
    async def go():
        gate = Gate(engine)
        async with serving(gate) as inference:
            first = await blocked(inference, gate)
            for text in ("good film", SHORT):
                answer = await asyncio.wait_for(ask(inference, text), 30)
                assert len(answer.predictions[0]) == 2
            assert not first.done()
            gate.open.set()
            assert len((await first).predictions[0]) == 2

    asyncio.run(go())


def test_what_waits_counts_and_too_much_is_refused(engine):
    async def go():
        gate = Gate(engine)
        async with serving(gate, free_queue=2, max_wait_ms=0.01) as inference:
            first = await blocked(inference, gate)
            waiting = [ask(inference, LONG) for _ in range(2)]
            await asyncio.sleep(0)
            inference.queue.set_gauges()
            page = inference.telemetry.page().decode()
            assert "prunella_queue_depth 2.0" in page
            wait = next(x for x in page.splitlines() if x.startswith("prunella_predicted_wait_seconds "))
            assert float(wait.split()[-1]) > 0
            refused = await problem_of(ask(inference, LONG))
            assert (refused.status, refused.kind) == (429, "Overloaded")
            assert refused.retry_after > 0
            assert (await asyncio.wait_for(ask(inference, "good film"), 30)).predictions  # a small one is not
            gate.open.set()
            assert all([(await one).predictions for one in (first, *waiting)])
            assert len(gate.given) == 4  # the refused one cost nothing
            inference.queue.set_gauges()
            assert "prunella_queue_depth 0.0" in inference.telemetry.page().decode()

    asyncio.run(go())


def test_a_full_queue_is_refused_whatever_the_wait(engine):
    async def go():
        gate = Gate(engine)
        async with serving(gate, max_queue=1, max_wait_ms=10**6) as inference:
            first = await blocked(inference, gate)
            second = ask(inference, LONG)
            await asyncio.sleep(0)
            refused = await problem_of(ask(inference, LONG))
            assert (refused.status, "full" in refused.message) == (429, True)
            gate.open.set()
            await asyncio.gather(first, second)

    asyncio.run(go())


def test_a_request_that_would_be_late_is_refused_at_once(engine):
    async def go():
        gate = Gate(engine)
        gate.rate = type("Slow", (), {"expect": lambda _, chars: 100.0, "note": lambda *_: None})()
        async with serving(gate) as inference:
            first = await blocked(inference, gate, seconds=10_000)
            refused = await problem_of(ask(inference, LONG, seconds=50))
            assert (refused.status, "deadline" in refused.message) == (429, True)
            gate.open.set()
            await first

    asyncio.run(go())


def test_deadlines_hold_while_a_request_waits_and_while_it_is_tokenized(engine):
    async def go():
        gate = Gate(engine)
        async with serving(gate) as inference:
            first = await blocked(inference, gate, seconds=0.3)
            second = ask(inference, LONG, seconds=0.3)
            assert (await asyncio.wait_for(problem_of(second), 20)).status == 429
            assert (await asyncio.wait_for(problem_of(first), 20)).status == 504
            assert not gate.open.is_set()  # both were told while the tokenizer was busy
            third = ask(inference, LONG)
            gate.open.set()
            await third
            assert len(gate.given) == 2  # the first and the third

    asyncio.run(go())


def test_a_client_that_has_gone_costs_no_tokenizing(engine):
    async def go():
        gate = Gate(engine)
        async with serving(gate) as inference:
            first = await blocked(inference, gate)
            left = ask(inference, LONG, gone=lambda: True)
            last = ask(inference, LONG)
            gate.open.set()
            await asyncio.gather(first, last)
            assert (await problem_of(left)).status == 499
            assert len(gate.given) == 2

    asyncio.run(go())


def test_the_rest_of_a_request_that_is_late_is_not_tokenized(engine):
    async def go():
        gate = Gate(engine)
        async with serving(gate) as inference:
            now = time.perf_counter()
            rows = [(LONG,)] * 8
            late = asyncio.ensure_future(
                inference.answer(Request(rows, single=False), RequestContext(now, now + 0.2, lambda: False))
            )
            assert (await asyncio.wait_for(problem_of(late), 20)).status == 504
            gate.open.set()
            await ask(inference, LONG)
            assert len(gate.given) == 2

    asyncio.run(go())


@pytest.mark.parametrize("what", ["tokenizer", "model"])
def test_every_admitted_request_is_answered_at_the_end(engine, what):
    async def go():
        gate = Gate(engine)
        inference = InferenceService(gate, Settings(device="cpu", runners=1))
        await inference.start()
        if what == "tokenizer":
            waiting = [await blocked(inference, gate), *(ask(inference, LONG) for _ in range(3))]
        else:
            hold, entered = threading.Event(), threading.Event()
            gate.infer = lambda encoded: (entered.set(), hold.wait(30), engine.infer(encoded))[2]
            waiting = [ask(inference, "good film") for _ in range(3)]
            assert await asyncio.to_thread(entered.wait, 30)
            asyncio.get_running_loop().call_later(0.1, hold.set)
        asyncio.get_running_loop().call_later(0.1, gate.open.set)
        await asyncio.sleep(0)
        await inference.stop()
        for one in await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 30):
            assert not isinstance(one, BaseException) or one.status == 503
        assert (await problem_of(ask(inference, "good film"))).status == 503  # and what comes after it too
        assert (await problem_of(ask(inference, LONG))).status == 503

    asyncio.run(go())


def test_a_runner_that_is_told_to_end_hands_over_what_it_dropped(engine):
    """Its last take may hold texts that are late or whose clients left, and no batch."""
    from service.inference.runners import Runners
    from service.inference.scheduler import Job

    handed, entered, hold = [], threading.Event(), threading.Event()

    class Held(Gate):
        def infer(self, encoded):
            entered.set()
            hold.wait(30)
            return engine.infer(encoded)

    model = Held(engine)
    runners = Runners(Settings(device="cpu", runners=1).rules(), handed.append)
    runners.start()
    one = engine.probe

    def job(gone):
        return Job(model, one, len(one.ids), 0.0, time.perf_counter(), time.perf_counter() + 60, lambda: gone)

    runners.put([job(False)])
    assert entered.wait(30)
    left = job(True)
    runners.put([left])
    ended = threading.Thread(target=lambda: handed.append(runners.close()))
    with runners._condition:
        runners._closed = True  # as `close` does, before the runner looks again
    hold.set()
    runners._threads[0].join(30)
    ended.start()
    ended.join(30)
    gone = [job for outcome in handed if not isinstance(outcome, list) for job in outcome.dispatch.gone]
    assert gone == [left]


def test_token_ids_that_become_text_wait_and_are_refused_as_texts_are(engine):
    async def go():
        gate = Gate(engine)
        ids = engine.encode([("good film",)])[0].ids
        many, text = ids * 10_000, engine.tokenizer.decode(ids)
        rate = engine.rate.expect(1000)
        async with serving(gate, free_queue=2, max_wait_ms=0.01) as inference:

            def turn(ids, seconds=60.0):
                now = time.perf_counter()
                context = RequestContext(now, now + seconds, lambda: False)
                return asyncio.ensure_future(inference.detokenize(gate, ids, context))

            first = await blocked(inference, gate)
            assert await asyncio.wait_for(turn(ids), 30) == text  # few ids do not wait
            late = turn(many, seconds=0.3)
            assert (await asyncio.wait_for(problem_of(late), 30)).status == 429
            waiting = [turn(many) for _ in range(2)]
            await asyncio.sleep(0)
            assert inference.queue.waiting() == 2
            refused = await problem_of(turn(many))
            assert (refused.status, refused.kind) == (429, "Overloaded")
            gate.open.set()
            assert [len(one) for one in await asyncio.gather(*waiting)] == [len(engine.tokenizer.decode(many))] * 2
            await first
        assert engine.rate.expect(1000) != rate  # the first request's
        noted = engine.rate.expect(1000)
        async with serving(gate) as inference:
            await turn_of(inference, gate, many)
        assert engine.rate.expect(1000) == noted  # the rate is that of tokenizing

    async def turn_of(inference, gate, ids):
        now = time.perf_counter()
        return await inference.detokenize(gate, ids, RequestContext(now, now + 60, lambda: False))

    asyncio.run(go())


@pytest.mark.parametrize("make", [expired_error, late_error, client_gone_error, shutting_down_error])
def test_no_two_requests_share_an_error(make):
    """Each await that raises an error adds its frames to it, and they keep the texts of the request alive."""
    assert make() is not make()


def test_memory_stays_flat_however_many_requests_expire(engine):
    """An error that requests share keeps the frames, and so the texts, of every request that it answered."""
    rounds, each = int(os.environ.get("TEST_EXPIRED", "10000")) // 1000, 1000

    class Stuck(Gate):
        def infer(self, encoded):
            self.open.wait(600)
            return engine.infer(encoded)

    async def go():
        gate = Stuck(engine)
        gate.given = deque(maxlen=0)
        gate.latency = type("Free", (), {"expect": lambda *_: 0.0, "note": lambda *_: None})()  # nothing is refused
        async with serving(gate, runners=1, max_queue=10**6, free_queue=10**6, inline_ms=0) as inference:
            first = ask(inference, "good film", seconds=10_000)
            await asyncio.sleep(0.05)

            async def one_round(number):
                late = [ask(inference, f"good film {number} {i}", seconds=0.001) for i in range(each)]
                found = await asyncio.gather(*late, return_exceptions=True)
                assert {(one.status, one.kind) for one in found} == {(429, "Timeout")}
                assert len({id(one) for one in found}) == each

            tracemalloc.start()
            try:
                await one_round(0)
                gc.collect()
                before = tracemalloc.get_traced_memory()[0]
                for number in range(rounds):
                    await one_round(number)
                gc.collect()
                grown = tracemalloc.get_traced_memory()[0] - before
            finally:
                tracemalloc.stop()
            assert grown < 20 * rounds * each + 200_000, f"{grown / rounds / each:.0f} bytes a request"
            gate.open.set()
            await first

    asyncio.run(go())


def test_large_bodies_are_shed_and_small_requests_pass(tiny_bundle, tmp_path):
    """Over real sockets: bodies of 2 MB that must be tokenized whole, and small requests meanwhile."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PRUNELLA_")}
    environment |= {"PYTHONPATH": str(ROOT), "PRUNELLA_REQUEST_TIMEOUT_MS": "600000"}
    environment |= {"PRUNELLA_MAX_QUEUE": "64"}  # the other rules are lenient with a server that has just started
    large = json.dumps({"texts": ["good film " * 6000] * 32, "truncation_direction": "left"})
    with running([*PRUNELLA, "serve", str(tiny_bundle), "--device", "cpu"], environment, tmp_path / "log") as (
        _,
        url,
    ):
        host, port = url.removeprefix("http://").split(":")

        def post(body):
            connection = http.client.HTTPConnection(host, int(port), timeout=600)
            connection.request("POST", "/v1/classify", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.getheader("Retry-After"), answer.read()

        with ThreadPoolExecutor(12) as pool:
            sent = [pool.submit(post, large) for _ in range(12)]
            small = []
            while not all(one.done() for one in sent):
                small.append(post('{"text": "good film"}')[0])
            answers = [one.result() for one in sent]
    assert set(small) == {200}
    assert {status for status, _, _ in answers} == {200, 429}, answers
    assert all(after is not None for status, after, _ in answers if status == 429)


def test_pieces_are_bounded_and_lose_no_row():
    rows = [("a" * n,) for n in (10, SHORT_CHARS, 5, SHORT_CHARS + 5, 1, 1)]
    pieces = list(pieces_of(rows))
    assert [row for piece in pieces for row in piece] == rows
    assert all(count_chars(piece) <= SHORT_CHARS or len(piece) == 1 for piece in pieces)
    assert INLINE_CHARS < SHORT_CHARS
