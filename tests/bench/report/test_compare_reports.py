"""When do two runs differ: openings, the guard's calls, and what the machine did meanwhile. Reports are made up."""

import json
import os
from copy import copy
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_ind

from bench.measure.accuracy.difference import Difference
from bench.measure.latency import cpu_affinity as cores
from bench.measure.latency import interference as quiet
from bench.measure.latency.cpu_affinity import choose_cores, pinned, pinning, usable_core_numbers
from bench.measure.latency.interference import Interference, InterferenceMonitor, mean_noise
from bench.measure.latency.process_restarts import combine
from bench.measure.latency.timing import typical_seconds
from bench.report.bench_config import BenchConfig
from bench.report.compare_reports import (
    BUSY,
    STOLEN,
    call_loss,
    call_speed,
    check_missed,
    compare_reports,
    log_change,
    read_older,
)
from bench.report.findings import verdicts
from bench.report.report_schema import Openings, Report
from models.errors import FolderError, InputError
from tools.guard_trials import count_calls
from tools.tables.write import RESULTS

FIRST = np.array([3.9, 4.0, 4.1, 3.95, 4.05, 4.02, 3.97, 4.0])  # speed-ups of the openings of one run
QUIET = Interference(others=0.02, stolen=0.0)


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
    return with_openings(Report.read(RESULTS / "bbc-news.json"), FIRST)


@pytest.mark.parametrize(
    ("factor", "call"),
    [(1.0, "noise"), (1 / 1.03, "noise"), (1.04, "noise"), (1 / 1.1, "worse"), (1 / 1.06, "worse"), (1.2, "better")],
)
def test_older_and_newer_speed_are_judged(report, factor, call):
    verdict = compare_reports(with_openings(report, FIRST), with_openings(report, np.roll(FIRST, 3) * factor))
    assert verdict.speed == call
    assert verdict.speed_ratio == pytest.approx(factor)
    assert verdict.speed_interval[0] < factor < verdict.speed_interval[1]
    assert verdict.accuracy == "noise"
    assert verdict.is_worse == (call == "worse")


def test_answers_of_models_that_number_their_labels_otherwise_are_not_compared(report):
    with pytest.raises(InputError, match="cannot be compared row by row"):
        compare_reports(report, report.model_copy(update={"labels": report.labels[::-1]}))


@pytest.mark.parametrize("factor", [1.0, 1 / 1.1])
def test_openings_that_differ_widely_give_no_call(report, factor):
    wild = np.exp(np.log(FIRST) + np.array([0.3, -0.3] * 4))
    verdict = compare_reports(with_openings(report, FIRST), with_openings(report, wild * factor))
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
        (Interference(others=BUSY / 2, stolen=STOLEN / 2), "worse"),
        (Interference(others=BUSY * 2, stolen=0.0), "too noisy"),
        (Interference(others=0.0, stolen=STOLEN * 2), "too noisy"),
        (Interference(others=None, stolen=None), "worse"),  # a system that does not tell: the openings speak alone
    ],
)
def test_a_busy_machine_gives_no_call_in_either_run(report, quiet, call):
    before, after = with_openings(report, FIRST), with_openings(report, FIRST / 1.2)
    disturbed = with_openings(report, FIRST / 1.2, quiet=quiet)
    assert compare_reports(before, disturbed).speed == call
    assert compare_reports(disturbed, with_openings(report, FIRST / 1.44)).speed == call
    assert compare_reports(before, after).speed == "worse"
    told = "other processes took"
    assert (told in compare_reports(before, disturbed).sentence()) == (call == "too noisy")
    assert (told in " ".join(verdicts(disturbed))) == (call == "too noisy")


@pytest.mark.parametrize("deviation", [0.03, 0.0424])  # as bench.report.compare_reports's docstring has it
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
    assert compare_reports(older, newer).accuracy == "worse"
    assert compare_reports(newer, older).accuracy == "better"


@pytest.mark.parametrize(
    ("interval", "call"),
    [
        ((0.1, 0.9), "worse"), ((0.1, 9.0), "worse"), ((-2.0, -0.1), "better"),
        ((-0.9, 0.9), "noise"), ((-30.0, 0.5), "noise"),  # a gain that is missed does no harm
        ((-0.9, 1.0), "too noisy"), ((-4.0, 8.0), "too noisy"), ((0.0, 4.0), "too noisy"),
    ],
)  # fmt: skip
def test_a_loss_that_the_rows_cannot_leave_out_is_no_noise(interval, call):
    change = Difference(rows=100, loss_points=sum(interval) / 2, loss_interval=interval)
    assert call_loss(change, 1.0) == call


@pytest.mark.parametrize(
    ("rows", "lost", "won", "call"),
    [
        (100, 6, 2, "too noisy"),  # 4 points worse, which was called noise
        (100, 0, 0, "too noisy"), (380, 0, 0, "too noisy"), (381, 0, 0, "noise"),
        (4000, 10, 8, "noise"), (100, 12, 0, "worse"), (100, 0, 12, "better"),
    ],
)  # fmt: skip
def test_the_call_of_accuracy_depends_on_rows_and_on_those_that_differ(report, rows, lost, won, call):
    truth = np.zeros(rows, dtype=int)
    before, after = truth.copy(), truth.copy()
    after[:lost] = 1
    before[lost : lost + won] = 1
    older, newer = (
        report.model_copy(update={
            "truth": tuple(truth.tolist()), "rows": rows,
            "engines": (report.engines[0].model_copy(update={"answers": tuple(answers.tolist())}),),
        })
        for answers in (before, after)
    )  # fmt: skip
    verdict = compare_reports(older, newer)
    assert verdict.accuracy == call
    assert f"accuracy {call} ({100 * (won - lost) / rows:+.2f} points" in verdict.sentence()
    assert compare_reports(older, newer, missed=20).accuracy in (call, "noise")


@pytest.mark.parametrize("points", [0.0, -1.0, float("nan")])
def test_a_loss_of_nothing_cannot_be_left_out(points):
    with pytest.raises(InputError, match="--compare-loss"):
        check_missed(points)


def test_reports_about_different_things_are_refused(report):
    other = {**report.machine, "processor": "another"}
    for changes, told in [
        ({"data_sha256": "0"}, "other rows"),
        ({"reference": "pytorch"}, "different references"),
        ({"machine": other}, "measured on"),
        ({"openings": report.openings.model_copy(update={"texts": 9})}, "same settings"),
    ]:
        with pytest.raises(InputError, match=told):
            compare_reports(report, report.model_copy(update=changes))


def test_engines_take_turns_on_all_cores():
    free = usable_core_numbers()
    assert set(free) == os.sched_getaffinity(0)
    assert {choose_cores(1, turn)[0] for turn in range(len(free))} == set(free)
    assert set(choose_cores(len(free), opening=3)) == set(free)
    assert choose_cores(len(free) + 1) == ()
    assert str(len(free) + 1) in pinning([1, len(free) + 1])
    with pinned(()):
        assert os.sched_getaffinity(0) == set(free)


def test_no_more_cores_are_taken_than_the_quota_allows(monkeypatch):
    monkeypatch.setattr(cores, "usable_cores", lambda affinity: 1)
    assert len(usable_core_numbers()) == 1
    assert choose_cores(2) == ()


class Machine:
    """A made-up /proc/stat, of cores that each did nothing yet, and the hyper-threads of each physical core."""

    def __init__(self, path, monkeypatch, cores, beside=lambda core: str(core)):
        self.path, self.cores = path, {core: [0.0, 0.0, 0.0] for core in range(cores)}
        monkeypatch.setattr(quiet, "STAT", path)
        monkeypatch.setattr(quiet, "usable_core_numbers", lambda: list(range(cores)))
        monkeypatch.setattr("bench.measure.latency.cpu_affinity._siblings", beside)
        self.spent = SimpleNamespace(user=0.0, system=0.0, children_user=0.0, children_system=0.0)
        monkeypatch.setattr(quiet.os, "times", lambda: copy(self.spent))
        self.write()

    def children_use(self, seconds):
        self.spent.children_user += seconds

    def passes(self, seconds, busy=(), stolen=()):
        """Let time pass; `busy` and `stolen`: shares by core."""
        for core, times in self.cores.items():
            used, taken = dict(busy).get(core, 0.0), dict(stolen).get(core, 0.0)
            for place, share in enumerate((used, 1 - used - taken, taken)):
                times[place] += share * seconds
        self.write()

    def write(self):
        tick = os.sysconf("SC_CLK_TCK")
        lines = ["cpu 1 2 3 4 5 6 7 8 9 10"]
        for core, (user, idle, stolen) in self.cores.items():
            times = [user * tick, 0, 0, idle * tick, 0, 0, 0, stolen * tick, 0, 0]
            lines.append(" ".join(map(str, (f"cpu{core}", *(round(t) for t in times)))))
        self.path.write_text("\n".join([*lines, "intr 1 2 3", ""]))


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return lambda *arguments: Machine(tmp_path / "stat", monkeypatch, *arguments)


def test_a_neighbour_on_the_pinned_core_of_a_large_machine_is_seen(report, machine):
    big = machine(64)
    watch = InterferenceMonitor((5,))
    big.children_use(50.0)
    big.passes(100.0, busy={5: 1.0})  # the engine used 50 s of it
    found = watch.read()
    assert found.others == pytest.approx(0.5)
    before, after = with_openings(report, FIRST), with_openings(report, FIRST / 1.2, quiet=found)
    assert compare_reports(before, after).speed == "too noisy"


def test_what_others_do_on_other_cores_disturbs_nothing(machine):
    big = machine(64)
    watch = InterferenceMonitor((5,))
    big.children_use(99.0)
    big.passes(100.0, busy=dict.fromkeys(range(64), 1.0) | {5: 0.99})
    assert watch.read().others == pytest.approx(0.0, abs=1e-9)


def test_a_neighbour_on_the_hyper_thread_beside_is_seen(machine):
    big = machine(8, lambda core: f"{core % 4},{core % 4 + 4}")
    watch = InterferenceMonitor((1,))
    big.children_use(100.0)
    big.passes(100.0, busy={1: 1.0, 5: 0.7, 2: 1.0})
    assert watch.read().others == pytest.approx(0.7)


def test_stolen_time_is_that_of_the_pinned_core(machine):
    big = machine(64)
    watch = InterferenceMonitor((5,))
    big.passes(100.0, stolen={5: 0.3, 6: 0.9})
    assert watch.read().stolen == pytest.approx(0.3)


def test_without_pinning_all_cores_are_watched(machine):
    small = machine(4)
    watch = InterferenceMonitor()
    small.children_use(100.0)
    small.passes(100.0, busy={0: 1.0, 1: 1.0})
    assert watch.read().others == pytest.approx(0.25)


def test_a_system_that_does_not_tell_is_not_called_quiet(machine, tmp_path):
    small = machine(2)
    watch = InterferenceMonitor((0,))
    nothing = Interference(others=None, stolen=None)
    assert watch.read() == nothing  # it stands still
    (tmp_path / "stat").unlink()
    assert watch.read() == InterferenceMonitor((0,)).read() == nothing
    small.write()
    quiet_part = Interference(others=0.1, stolen=0.0)
    assert mean_noise([quiet_part, nothing]) == nothing
    assert mean_noise([quiet_part, Interference(others=0.3, stolen=0.2)]) == Interference(others=0.2, stolen=0.1)


def test_reports_of_schema_1_can_be_shown_but_not_compared(report, tmp_path):
    old = json.loads((RESULTS / "bbc-news.json").read_text())
    old |= {"schema_version": 1}
    old.pop("openings", None)
    old["engines"][0] |= {"paired_speedup": 4.0, "paired_interval": [3.9, 4.1]}
    path = tmp_path / "old.json"
    path.write_text(json.dumps(old))
    assert Report.read(path).engine("ours").speedup == old["engines"][0]["speedup"]
    with pytest.raises(InputError, match=r"schema 1.*measure that bundle again"):
        read_older(path)
    path.write_text(json.dumps(old | {"schema_version": 4}))
    with pytest.raises(FolderError, match="schema_version"):
        read_older(path)
    with pytest.raises(InputError, match=r"there is no file .*gone.json to compare with: wanted the report.json"):
        read_older(tmp_path / "gone.json")
    with pytest.raises(InputError, match="measure that bundle again"):
        compare_reports(report.model_copy(update={"openings": None}), report)


def test_trials_count_the_calls():
    runs = iter([1.0, 1.0, 1 / 1.1, 1.2, 1.0])  # the baseline, then equal and slowed in turn
    told = count_calls(lambda handicap: opened(FIRST * next(runs)), runs=2, slowdown=0.1)
    assert (told["same_called_noise"], told["slowed_called_worse"]) == (1, 1)
    assert told["same_ratios"] == [1.0, 1.2]
    assert told["spread_of_openings"] == pytest.approx(np.log(FIRST).std(ddof=1), abs=1e-4)
