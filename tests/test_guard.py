"""When do two runs differ: openings, the guard's calls, and what the machine did meanwhile. Reports are made up."""

import json
import os

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_ind

from bench import cores, quiet
from bench.cores import choose_cores, pinned, pinning, usable_cores
from bench.guard import BUSY, STOLEN, call_speed, judge, log_change, read_older
from bench.openings import combine
from bench.quiet import CpuWatch, Quiet
from bench.records import Openings, Report
from bench.report import BenchConfig
from bench.tables import RESULTS
from bench.timing import typical_seconds
from bench.trials import count_calls
from bench.verdicts import verdicts
from models.errors import FolderError, InputError

FIRST = np.array([3.9, 4.0, 4.1, 3.95, 4.05, 4.02, 3.97, 4.0])  # speed-ups of the openings of one run
QUIET = Quiet(others=0.02, stolen=0.0)


def opened(speedups, **changes):
    middle, interval = combine(speedups)
    found = Openings(
        texts=8, threads=1, rounds=3, reference_ms=tuple(10.0 for _ in speedups),
        ours_ms=tuple(10 / s for s in speedups), speedups=tuple(speedups), speedup=middle, interval=interval,
        quiet=QUIET,
    )  # fmt: skip
    return found.model_copy(update=changes)


def with_openings(report, speedups, **changes):
    return report.model_copy(update={"openings": opened(speedups, **changes)})


@pytest.fixture(scope="module")
def report():
    return with_openings(Report.read(RESULTS / "demo.json"), FIRST)


@pytest.mark.parametrize(
    ("factor", "call"),
    [(1.0, "noise"), (1 / 1.03, "noise"), (1.04, "noise"), (1 / 1.1, "worse"), (1 / 1.06, "worse"), (1.2, "better")],
)
def test_older_and_newer_speed_are_judged(report, factor, call):
    verdict = judge(with_openings(report, FIRST), with_openings(report, np.roll(FIRST, 3) * factor))
    assert verdict.speed == call
    assert verdict.speed_ratio == pytest.approx(factor)
    assert verdict.speed_interval[0] < factor < verdict.speed_interval[1]
    assert verdict.accuracy == "noise"
    assert verdict.is_worse == (call == "worse")


@pytest.mark.parametrize("factor", [1.0, 1 / 1.1])
def test_openings_that_differ_widely_give_no_call(report, factor):
    wild = np.exp(np.log(FIRST) + np.array([0.3, -0.3] * 4))
    verdict = judge(with_openings(report, FIRST), with_openings(report, wild * factor))
    assert (verdict.speed, verdict.is_worse, verdict.disturbed) == ("too noisy", False, None)
    assert "speed too noisy" in verdict.sentence()


@pytest.mark.parametrize("factor", [1 / 1.04, 1.04])
def test_a_large_change_that_cannot_be_left_out_is_no_noise(report, factor):
    wide = opened(np.exp(np.log(FIRST) + np.array([0.13, -0.13] * 4)) * factor)
    call, _, (low, high) = call_speed(report.openings, wide)
    assert call == "too noisy"
    assert (low < 1 / 1.1) != (high > 1.1)


@pytest.mark.parametrize(
    ("quiet", "call"),
    [
        (Quiet(others=BUSY / 2, stolen=STOLEN / 2), "worse"),
        (Quiet(others=BUSY * 2, stolen=0.0), "too noisy"),
        (Quiet(others=0.0, stolen=STOLEN * 2), "too noisy"),
        (Quiet(others=None, stolen=None), "worse"),  # a system that does not tell: the openings speak alone
    ],
)
def test_a_busy_machine_gives_no_call_in_either_run(report, quiet, call):
    before, after = with_openings(report, FIRST), with_openings(report, FIRST / 1.2)
    disturbed = with_openings(report, FIRST / 1.2, quiet=quiet)
    assert judge(before, disturbed).speed == call
    assert judge(disturbed, with_openings(report, FIRST / 1.44)).speed == call
    assert judge(before, after).speed == "worse"
    told = "other processes took"
    assert (told in judge(before, disturbed).sentence()) == (call == "too noisy")
    assert (told in " ".join(verdicts(disturbed))) == (call == "too noisy")


@pytest.mark.parametrize("deviation", [0.03, 0.0424])  # as bench.guard's docstring has it
def test_the_guard_is_right_97_times_in_100_on_paper(deviation):
    generator, tries = np.random.default_rng(0), 2000
    count = BenchConfig().openings

    def right(change, call):
        logs = generator.normal(0, deviation, (tries, 2, count)) + np.array([[0], [change]])
        runs = [(opened(np.exp(before)), opened(np.exp(after))) for before, after in logs]
        return np.mean([call_speed(*pair)[0] == call for pair in runs])

    assert right(0, "noise") >= 0.97
    assert right(-np.log(1.1), "worse") >= 0.97


def test_openings_are_combined_as_scipy_does():
    assert combine([2.0, 8.0])[0] == pytest.approx(4)
    middle, interval = combine(FIRST)
    assert middle == pytest.approx(np.exp(np.log(FIRST).mean()))
    assert np.log(interval) == pytest.approx(list(ttest_1samp(np.log(FIRST), 0).confidence_interval(0.95)))
    newer = FIRST[:5] / 1.1
    change, half = log_change(tuple(FIRST), tuple(newer))
    low, high = ttest_ind(np.log(newer), np.log(FIRST)).confidence_interval(0.9)
    assert (change - half, change + half) == pytest.approx((low, high))
    assert opened(FIRST).spread == pytest.approx(np.log(FIRST).std(ddof=1))


def test_lengths_of_texts_cancel_in_a_speedup():
    seconds, lengths = np.random.default_rng(0).uniform(1, 2, (6, 40)), np.linspace(1, 9, 40)
    ratio = typical_seconds(seconds * lengths * 3) / typical_seconds(seconds * lengths)
    assert ratio == pytest.approx(3)
    assert typical_seconds(np.full((3, 4), 0.002)) == pytest.approx(0.002)
    assert typical_seconds(np.array([[9.0, 9.0], [1.0, 4.0], [1.0, 4.0]])) == pytest.approx(2)


def test_lost_answers_are_worse_and_other_data_is_refused(report):
    ours = report.engine("ours")
    wrong = ours.model_copy(update={"answers": tuple(1 - t for t in report.truth)})
    right = ours.model_copy(update={"answers": report.truth})
    older, newer = (report.model_copy(update={"engines": (e, *report.engines[1:])}) for e in (right, wrong))
    assert judge(older, newer).accuracy == "worse"
    assert judge(newer, older).accuracy == "better"


def test_reports_about_different_things_are_refused(report):
    other = {**report.machine, "processor": "another"}
    for changes, told in [
        ({"data_sha256": "0"}, "other rows"),
        ({"reference": "pytorch"}, "different references"),
        ({"machine": other}, "measured on"),
        ({"openings": report.openings.model_copy(update={"texts": 9})}, "same settings"),
    ]:
        with pytest.raises(InputError, match=told):
            judge(report, report.model_copy(update=changes))


def test_engines_take_turns_on_all_cores():
    free = usable_cores()
    assert set(free) == os.sched_getaffinity(0)
    assert {choose_cores(1, turn)[0] for turn in range(len(free))} == set(free)
    assert set(choose_cores(len(free), turn=3)) == set(free)
    assert choose_cores(len(free) + 1) == ()
    assert str(len(free) + 1) in pinning([1, len(free) + 1])
    with pinned(()):
        assert os.sched_getaffinity(0) == set(free)


def test_no_more_cores_are_taken_than_the_quota_allows(monkeypatch):
    monkeypatch.setattr(cores, "allowed_cores", lambda affinity: 1)
    assert len(usable_cores()) == 1
    assert choose_cores(2) == ()


def test_shares_of_the_cores_are_read_from_the_kernel(tmp_path, monkeypatch):
    stat = tmp_path / "stat"
    monkeypatch.setattr(quiet, "STAT", stat)
    ticks = os.sysconf("SC_CLK_TCK")
    cores = usable_cores()

    def told(user, idle, stolen):  # seconds of each of our cores
        times = [user * ticks, 0, 0, idle * ticks, 0, 0, 0, stolen * ticks, 0, 0]
        lines = [" ".join(map(str, (f"cpu{n}", *times))) for n in cores]
        not_ours = " ".join(map(str, ("cpu4095", user**2 * ticks, *times[1:])))
        stat.write_text("\n".join(["cpu 1 2 3 4 5 6 7 8 9 10", *lines, not_ours, "intr 1 2 3", ""]))

    assert CpuWatch().read() == Quiet(others=None, stolen=None)  # no such file
    told(1000, 5000, 0)
    watch = CpuWatch()
    assert watch.read() == Quiet(others=None, stolen=None)  # it stands still
    told(1000 + 300_000, 5000 + 600_000, 100_000)
    found = watch.read()
    assert found.others == pytest.approx(0.3, abs=1e-3)  # less what this process used
    assert found.stolen == pytest.approx(0.1)


def test_reports_of_schema_1_can_be_shown_but_not_compared(report, tmp_path):
    old = json.loads((RESULTS / "demo.json").read_text())
    old |= {"schema_version": 1}
    old.pop("openings", None)
    old["engines"][0] |= {"paired_speedup": 4.0, "paired_interval": [3.9, 4.1]}
    path = tmp_path / "old.json"
    path.write_text(json.dumps(old))
    assert Report.read(path).engine("ours").speedup == old["engines"][0]["speedup"]
    with pytest.raises(InputError, match=r"schema 1.*measure that bundle again"):
        read_older(path)
    path.write_text(json.dumps(old | {"schema_version": 3}))
    with pytest.raises(FolderError, match="schema_version"):
        read_older(path)
    with pytest.raises(InputError, match="measure that bundle again"):
        judge(report.model_copy(update={"openings": None}), report)


def test_trials_count_the_calls():
    runs = iter([1.0, 1.0, 1 / 1.1, 1.2, 1.0])  # the baseline, then equal and slowed in turn
    told = count_calls(lambda handicap: opened(FIRST * next(runs)), runs=2, slowdown=0.1)
    assert (told["same_called_noise"], told["slowed_called_worse"]) == (1, 1)
    assert told["same_ratios"] == [1.0, 1.2]
    assert told["spread_of_openings"] == pytest.approx(np.log(FIRST).std(ddof=1), abs=1e-4)
