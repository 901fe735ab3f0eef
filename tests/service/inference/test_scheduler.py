"""The rules of the line, without threads and with made-up clocks."""

import math
import random
from types import SimpleNamespace

import pytest

from service.inference.scheduler import Job, Overloaded, QueuedAhead, Rules, Scheduler
from service.model.latency_estimator import LatencyEstimator, TokenizerRate

TOGETHER, ALONE = SimpleNamespace(serial=1, single_row_only=False), SimpleNamespace(serial=2, single_row_only=True)
RULES = Rules(items=4, tokens=64, bucket=8, age_limit=1.0, max_queue=20, free_queue=5, max_wait=0.5, runners=1)


def job(tokens, arrived=0.0, deadline=math.inf, model=TOGETHER, cost=0.1, gone=False):
    return Job(model, None, tokens, cost, arrived, deadline, lambda: gone)


def admit(scheduler, jobs, now):
    scheduler.check(len(jobs), jobs[0].deadline, now)
    scheduler.add(jobs)


def line(*jobs, **changes):
    scheduler = Scheduler(RULES.model_copy(update=changes))
    for one in jobs:
        admit(scheduler, [one], one.arrived)
    return scheduler


def lengths(taken):
    return [one.tokens for one in taken.batch]


def test_one_text_does_not_wait_for_company():
    assert lengths(line(job(5)).take(0, 0.0)) == [5]
    assert line().take(0, 0.0).batch == []


def test_a_text_that_is_alone_need_not_wait_and_others_must():
    scheduler = line()
    assert scheduler.take_alone(-1, job(5), 0.0)
    assert not scheduler.take_alone(-1, job(5), 0.0)
    scheduler.done(-1)
    admit(scheduler, [job(5)], 0.0)
    assert not scheduler.take_alone(-1, job(5), 0.0)


def test_a_batch_has_texts_of_like_length_only():
    scheduler = line(job(5), job(30), job(8), job(9))
    assert lengths(scheduler.take(0, 0.0)) == [5, 8]
    assert sorted(lengths(scheduler.take(0, 0.0)) + lengths(scheduler.take(0, 0.0))) == [9, 30]


def test_the_fullest_bucket_is_first_until_the_oldest_text_waited_too_long():
    jobs = [job(30, arrived=0.0), job(5, arrived=0.1), job(6, arrived=0.2)]
    assert lengths(line(*jobs).take(0, 0.5)) == [5, 6]
    assert lengths(line(*jobs).take(0, 1.5)) == [30]


@pytest.mark.parametrize(
    ("tokens", "model", "count"),
    [(8, TOGETHER, 4), (30, TOGETHER, 2), (64, TOGETHER, 1), (200, TOGETHER, 1), (8, ALONE, 1)],
)
def test_the_size_of_a_batch_is_bounded_in_texts_and_padded_tokens(tokens, model, count):
    scheduler = line(*(job(tokens, model=model) for _ in range(5)), max_wait=9)
    assert len(scheduler.take(0, 0.0).batch) == count


def test_texts_of_two_models_never_share_a_batch():
    scheduler = line(job(5), job(5, model=ALONE), job(5))
    assert {len({one.model.serial for one in scheduler.take(0, 0.0).batch}) for _ in range(2)} == {1}


def test_late_texts_and_those_of_clients_that_left_cost_nothing():
    scheduler = line(job(5, deadline=1.0), job(5, gone=True), job(5))
    taken = scheduler.take(0, 2.0)
    assert (len(taken.batch), len(taken.expired), len(taken.gone)) == (1, 1, 1)
    assert scheduler.waiting == 0


def test_late_texts_are_found_while_every_runner_is_busy():
    scheduler = line(job(5, deadline=1.0), job(50, deadline=1.0), job(5))
    assert len(scheduler.expire(0.5)) == 0
    assert len(scheduler.expire(1.5)) == 2
    assert scheduler.waiting == 1


def busy(waiting, **changes):
    """Return a line with one text of 0.1 s in the model since time 0, and `waiting` behind it."""
    scheduler = line(job(5), **changes)
    scheduler.take(0, 0.0)
    for _ in range(waiting):
        admit(scheduler, [job(5)], 0.0)
    return scheduler


def test_the_predicted_wait_is_what_is_left_and_what_waits():
    assert line().predicted_wait(0.0) == 0
    assert busy(3).predicted_wait(0.0) == pytest.approx(0.4)
    assert busy(3).predicted_wait(0.06) == pytest.approx(0.34)
    assert busy(3).predicted_wait(9.0) == pytest.approx(0.3)  # one that takes longer than it should is no credit


def test_two_runners_halve_the_wait():
    scheduler = line(job(5), runners=2)
    scheduler.take(0, 0.0)
    assert scheduler.predicted_wait(0.0) == 0  # the other one is free
    admit(scheduler, [job(50)], 0.0)
    scheduler.take(1, 0.0)
    admit(scheduler, [job(5)], 0.0)
    assert scheduler.predicted_wait(0.0) == pytest.approx(0.15)


def test_refusals_say_why_and_when_to_come_back():
    for scheduler, one, reason, seconds in [
        (busy(5), job(5), "wait", 0.6),
        (busy(3, max_queue=3, max_wait=9), job(5), "queue", 0.4),
        (busy(1), job(5, deadline=0.15), "deadline", 0.2),
    ]:
        with pytest.raises(Overloaded) as refused:
            admit(scheduler, [one], 0.0)
        assert refused.value.reason == reason
        assert refused.value.seconds == pytest.approx(seconds)


def test_a_short_line_is_never_refused_and_neither_is_a_request_that_nobody_is_before():
    assert busy(4, max_wait=0.01).waiting == 4
    scheduler = Scheduler(RULES)
    admit(scheduler, [job(5) for _ in range(30)], 0.0)
    assert scheduler.waiting == 30


def test_while_something_is_changed_texts_wait_instead_of_being_refused():
    scheduler = busy(5)
    scheduler.be_patient(until=1.0)
    admit(scheduler, [job(5)], 0.5)
    with pytest.raises(Overloaded):
        admit(scheduler, [job(5)], 1.5)


def test_a_request_is_admitted_whole_or_not_at_all():
    scheduler = busy(4)
    with pytest.raises(Overloaded):
        admit(scheduler, [job(5)] * 20, 0.0)
    assert scheduler.waiting == 4


def test_a_request_that_was_admitted_is_not_refused_when_its_tokens_come():
    scheduler = line(max_queue=1)
    for _ in range(2):  # both passed while nothing waited, and were tokenized since
        scheduler.check(1, 9.0, 0.0)
    for _ in range(2):
        scheduler.add([job(5)])
    assert scheduler.waiting == 2


def test_background_texts_run_when_nothing_else_waits():
    scheduler = line(job(50))
    assert scheduler.add_in_background(job(7), limit=1)
    assert not scheduler.add_in_background(job(7), limit=1)
    assert [lengths(scheduler.take(0, 0.0)) for _ in range(3)] == [[50], [7], []]


def test_background_texts_have_one_runner_and_stand_in_nobodys_way():
    scheduler = line(runners=2)
    for _ in range(3):
        assert scheduler.add_in_background(job(7), limit=9)
    assert scheduler.take_alone(-1, job(5), 0.0)
    scheduler.done(-1)
    assert lengths(scheduler.take(0, 0.0)) == [7]
    assert lengths(scheduler.take(1, 0.0)) == []
    admit(scheduler, [job(50)], 0.0)
    assert lengths(scheduler.take(1, 0.0)) == [50]
    scheduler.done(0)
    assert lengths(scheduler.take(0, 0.0)) == [7]


def test_what_waits_for_the_tokenizer_counts_too():
    scheduler = line()
    scheduler.check(20, 9.0, 0.0, QueuedAhead(0, 5.0))  # nothing waits before it
    for texts, before, deadline, reason in [
        (1, QueuedAhead(5, 0.6), 9.0, "wait"),
        (1, QueuedAhead(20, 0.1), 9.0, "queue"),
        (1, QueuedAhead(0, 3.0), 2.0, "deadline"),
    ]:
        with pytest.raises(Overloaded) as refused:
            scheduler.check(texts, deadline, 0.0, before)
        assert refused.value.reason == reason
        assert refused.value.seconds == before.seconds
    with pytest.raises(Overloaded):
        busy(3).check(1, 9.0, 0.0, QueuedAhead(2, 0.2))  # 0.4 s of the model besides


def lists(scheduler, count, size, deadline=math.inf):
    for _ in range(count):
        admit(scheduler, [job(5, deadline=deadline) for _ in range(size)], 0.0)


def test_lists_wait_until_their_deadline_and_no_longer():
    scheduler = busy(0)
    lists(scheduler, 2, 8, deadline=9.0)  # 1.6 s, and max_wait is 0.5 s
    with pytest.raises(Overloaded) as refused:
        lists(scheduler, 1, 2, deadline=1.0)
    assert (refused.value.reason, scheduler.waiting) == ("deadline", 16)
    with pytest.raises(Overloaded) as refused:
        lists(scheduler, 1, 5)
    assert refused.value.reason == "queue"


def test_a_single_text_does_not_wait_behind_lists():
    scheduler = busy(0, max_queue=1000)
    lists(scheduler, 20, 8)
    for _ in range(4):
        admit(scheduler, [job(5)], 0.0)
    scheduler.check(1, 0.95, 0.0)  # 4 texts and as many seconds of lists, and what runs: 0.9 s
    with pytest.raises(Overloaded) as refused:
        scheduler.check(1, 0.85, 0.0)
    assert refused.value.reason == "deadline"
    kinds = [[one.listed for one in scheduler.take(0, 0.0).batch] for _ in range(5)]
    assert kinds == [[True] * 4, [False] * 4, [True] * 4, [True] * 4, [True] * 4]
    admit(scheduler, [job(5)], 0.0)
    assert [one.listed for one in scheduler.take(0, 0.0).batch] == [False]


def test_the_oldest_list_is_not_passed_by_single_texts_for_ever():
    scheduler = line(job(50, arrived=0.0), job(50, arrived=0.0), max_wait=1e9)
    lists(scheduler, 1, 4)
    taken = []
    for now in range(6):
        admit(scheduler, [job(5, arrived=now) for _ in range(1)], now)
        taken.append(scheduler.take(0, now).batch[0].listed)
    assert True in taken[:2]


def test_totals_are_exact_when_lists_expire():
    scheduler = busy(2)
    lists(scheduler, 1, 6, deadline=5.0)
    assert len(scheduler.expire(6.0)) == 6
    assert scheduler.predicted_wait(0.0) == pytest.approx(0.3)
    assert len(scheduler.clear()) == 2
    assert scheduler.waiting == 0


def test_every_text_runs_once_and_no_runner_idles_while_texts_wait():
    chance = random.Random(0)
    scheduler = Scheduler(RULES.model_copy(update={"max_queue": 10_000, "max_wait": 1e9}))
    put, ran, now = [], [], 0.0
    for _ in range(3000):
        now += chance.random() * 0.1
        if chance.random() < 0.7:
            jobs = [job(chance.randint(1, 60), arrived=now) for _ in range(chance.randint(1, 3))]
            admit(scheduler, jobs, now)
            put += jobs
        taken = scheduler.take(0, now)
        assert bool(taken.batch) == bool(len(put) > len(ran))
        assert len({(one.tokens - 1) // 8 for one in taken.batch}) <= 1
        ran += taken.batch
        assert scheduler.waiting == len(put) - len(ran)
    while taken := scheduler.take(0, now).batch:
        ran += taken
    assert {id(one) for one in ran} == {id(one) for one in put}
    assert len(ran) == len(put)


def test_the_pace_is_a_running_mean_by_length():
    latency = LatencyEstimator()
    assert latency.expect(20) > 0
    latency.note(tokens=20, texts=2, seconds=0.04)
    assert latency.expect(20) == pytest.approx(0.02)
    assert latency.expect(200) == pytest.approx(0.2)  # not met yet: in proportion
    for _ in range(100):
        latency.note(tokens=20, texts=1, seconds=0.01)
    assert latency.expect(20) == pytest.approx(0.01, rel=0.01)


def test_the_rate_is_by_characters_and_few_say_little():
    rate = TokenizerRate()
    guess = rate.expect(1000)
    rate.note(10, 0.3)  # a file was opened, a thread woke late
    assert rate.expect(1000) < 10 * guess
    for _ in range(100):
        rate.note(100_000, 0.2)
    assert rate.expect(1000) == pytest.approx(0.002, rel=0.01)


def test_what_a_gate_may_answer_waits_for_the_tokenizer_only():
    scheduler = busy(5)
    with pytest.raises(Overloaded):
        scheduler.check(1, 9.0, 0.0)
    scheduler.check_tokenizer(1, 0.1, 0.0, QueuedAhead(0, 0.0))
    for texts, before, deadline, reason in [
        (1, QueuedAhead(5, 0.6), 9.0, "wait"),
        (1, QueuedAhead(20, 0.1), 9.0, "queue"),
        (1, QueuedAhead(0, 3.0), 2.0, "deadline"),
    ]:
        with pytest.raises(Overloaded) as refused:
            scheduler.check_tokenizer(texts, deadline, 0.0, before)
        assert (refused.value.reason, refused.value.seconds) == (reason, before.seconds)


def test_the_last_text_of_a_list_is_still_one_of_a_list():
    scheduler = busy(5)
    with pytest.raises(Overloaded) as refused:
        scheduler.check(1, 9.0, 0.0)
    assert refused.value.reason == "wait"
    scheduler.check(1, 9.0, 0.0, listed=True)
    scheduler.add([job(5)], listed=True)
    scheduler.add([job(5)])
    kinds = [[one.listed for one in scheduler.take(0, 0.0).batch] for _ in range(3)]
    assert sorted(kinds) == [[False, False], [False] * 4, [True]]
