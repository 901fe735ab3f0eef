import json
import os
import re
from html import unescape
from importlib.util import find_spec

import numpy as np
import pytest
from serving import make_tiny_bundle
from sklearn.metrics import f1_score
from tiny import tiny_texts

from bench.accuracy import compare, score
from bench.engines import EngineSpec, fixed_length
from bench.evaluate import evaluate
from bench.guard import judge
from bench.html import to_html
from bench.measure import Cell, open_fleet, time_cell
from bench.operators import operator_times
from bench.plots import figures
from bench.quality import quality
from bench.records import Report
from bench.report import BenchConfig, Inputs, find_reference, run_bench
from bench.tables import pages, with_tables
from bench.timing import interleave, median_interval, paired_speedup, speedup
from bench.worker import Worker, WorkerError
from models.errors import FolderError, InputError
from models.folder import ModelFolder
from models.task import Task
from models.texts import Texts
from models.tokens import Encoded
from service.bundle import Bundle
from service.engine import Engine


@pytest.fixture
def answers():
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, 400)
    noise = [generator.random(400) < rate for rate in (0.1, 0.2)]
    return truth, *[np.where(n, (truth + 1) % 3, truth) for n in noise]


def test_score_equals_sklearn(answers):
    truth, _, ours = answers
    found = score(truth, ours, 3)
    assert found.macro_f1 == pytest.approx(f1_score(truth, ours, average="macro"))
    assert found.accuracy == (truth == ours).mean()


def test_interval_equals_a_bootstrap_over_rows(answers):
    truth, reference, ours = answers
    found = compare(truth, reference, ours)
    generator = np.random.default_rng(1)
    lost = (reference == truth).astype(int) - (ours == truth).astype(int)
    drawn = [lost[generator.integers(400, size=400)].mean() * 100 for _ in range(10_000)]
    assert found.loss_points == pytest.approx(lost.mean() * 100)
    assert np.allclose(found.loss_interval, np.percentile(drawn, [2.5, 97.5]), atol=0.4)
    assert found.mcnemar_p < 0.05
    assert found.flips == (reference != ours).sum()


def test_equal_answers_lose_nothing(answers):
    truth, reference, _ = answers
    found = compare(truth, reference, reference)
    assert (found.loss_points, found.loss_interval, found.mcnemar_p, found.flips) == (0, (0, 0), 1, 0)


def test_every_callable_runs_once_a_round_and_begins_in_turn():
    calls = []
    found = interleave({name: lambda n=name: calls.append(n) for name in "abc"}, rounds=3, warmup=1)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab"
    assert all(len(seconds) == 3 for seconds in found.values())


def test_speedup_of_twice_the_time_is_two():
    seconds = np.random.default_rng(0).uniform(1, 2, (6, 40))
    ratio, (low, high) = speedup(seconds * 2, seconds)
    assert ratio == pytest.approx(2)
    assert low <= 2 <= high
    lengths = np.linspace(1, 9, 40)  # of texts: they cancel
    ratio, (low, high) = paired_speedup(seconds * lengths * 3, seconds * lengths)
    assert ratio == pytest.approx(3)
    assert low == pytest.approx(3)
    assert high == pytest.approx(3)
    low, high = median_interval(seconds)
    assert low < np.median(seconds) < high


def test_fixed_length_is_exact():
    encoded = Encoded([2, 7, 3], [0, 0, 1])
    assert fixed_length(encoded, 7) == Encoded([2, 7, 3, 2, 7, 3, 2], [0, 0, 1, 0, 0, 1, 0])
    assert fixed_length(encoded, 2) == Encoded([2, 7], [0, 0])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    return store, Bundle.open(make_tiny_bundle(store))


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def report(made, out):
    store, bundle = made
    inputs = Inputs(bundle, find_reference(bundle, store), tiny_texts(40), tiny_texts(64))
    config = BenchConfig(batches=(1, 4), lengths=(None, 16), texts=8, rounds=3)
    return run_bench(inputs, config, store, out)


def test_report_of_a_tiny_bundle(made, report, out):
    (store, bundle), data, tmp_path = made, tiny_texts(40), out
    assert [(e.name, e.status) for e in report.engines] == [
        (name, "ok") for name in ("ours", "pytorch", "ort_fp32", "stock_int8", "tfidf")
    ]
    assert Report.read(tmp_path / "report.json") == report
    torch_row, ort_row = report.engine("pytorch"), report.engine("ort_fp32")
    assert torch_row.score == ort_row.score == evaluate(find_reference(bundle, store).path, data)
    assert report.engine("ours").score == evaluate(bundle.folder.path, data)
    assert all(len(e.timings) == 4 and all(t.p50_ms > 0 for t in e.timings) for e in report.engines)
    written = (tmp_path / "report.md").read_text()
    assert f"| {torch_row.score.accuracy:.1%} |" in written
    told = json.loads((bundle.folder.path / "report.json").read_text())
    assert {"accuracy", "loss_points", "loss_interval", "speedup", "p50_ms", "bytes"} <= told.keys()
    assert Bundle.open(bundle.folder.path).id == bundle.id  # a new report is no alteration


def test_without_labels_there_is_speed_but_no_accuracy(made, tmp_path):
    store, bundle = made
    inputs = Inputs(bundle, find_reference(bundle, store), Texts(tiny_texts(6).rows, None, "x"), None)
    report = run_bench(inputs, BenchConfig(against=("ort_fp32", "tfidf"), texts=4, rounds=3), store, tmp_path)
    assert report.engine("ours").score is None
    assert "no labels" in report.verdicts[0]
    assert report.engines[2].status == "absent"
    assert "--train" in report.engines[2].problem


def test_a_worker_that_dies_is_one_failed_row(made):
    _, bundle = made
    good = EngineSpec("ours", bundle.folder.path, bundle.task)
    bad = EngineSpec("pytorch", bundle.folder.path, bundle.task)  # a bundle has no weights for torch
    with open_fleet([good, bad]) as fleet:
        assert list(fleet.running) == ["ours"]
        assert "pytorch" in fleet.problems
        os.kill(fleet.running["ours"]._process.pid, 9)
        assert time_cell(fleet, tiny_texts(4).rows, Cell(1, None, 1), 3) == {}
        assert "ours" in fleet.problems


def test_worker_answers_are_in_the_order_of_the_rows(made):
    _, bundle = made
    rows = tiny_texts(12).rows
    worker = Worker(EngineSpec("ours", bundle.folder.path, bundle.task))
    try:
        assert np.array_equal(worker.answers(rows), Engine.open(bundle).logits(rows))
        with pytest.raises(WorkerError):
            worker.answers([("a", "b", "c")])
    finally:
        worker.close()


def test_wrong_use_is_told(made, tmp_path):
    store, bundle = made
    reference = find_reference(bundle, store)
    with pytest.raises(InputError, match="'neutral' is unknown"):
        run_bench(Inputs(bundle, reference, Texts([("a",)], ["neutral"], "x"), None), BenchConfig(), store, tmp_path)
    inputs = Inputs(bundle, reference, tiny_texts(4), None)
    with pytest.raises(InputError, match="no engine"):
        run_bench(inputs, BenchConfig(against=("magic",)), store, tmp_path)
    with pytest.raises(InputError, match="--reference"):
        find_reference(Bundle(ModelFolder(tmp_path, bundle.folder.manifest), *[None] * 4), tmp_path)
    with pytest.raises(FolderError):
        evaluate(tmp_path, tiny_texts(4))


def test_pages_hold_the_stored_results():
    for page in pages():
        text = page.read_text()
        assert with_tables(text) == text, f"{page} is old: run python -m bench.tables"


def test_page_needs_nothing_else_and_tells_the_numbers(report):
    page = to_html(report)
    assert not re.search(r"<script|https?://(?!www\.w3\.org)|src=|@import", page)
    assert page.count("<svg") == len(figures(report)) >= 7
    assert f"{report.engine('ours').score.accuracy * 100:.1f} %" in page
    assert all(sentence in unescape(page) for sentence in report.verdicts)


@pytest.mark.parametrize(
    ("factor", "call"), [(1.0, "noise"), (1 / 1.02, "noise"), (1 / 1.15, "worse"), (1.2, "better")]
)
def test_older_and_newer_speed_are_judged(report, factor, call):
    ours = report.engine("ours")
    low, high = ours.speedup * 0.98, ours.speedup * 1.02

    def with_speedup(f):
        changed = ours.model_copy(update={"paired_speedup": ours.speedup * f, "paired_interval": (low * f, high * f)})
        return report.model_copy(update={"engines": (changed, *report.engines[1:])})

    verdict = judge(with_speedup(1), with_speedup(factor))
    assert verdict.speed == call
    assert verdict.speed_ratio == pytest.approx(factor)
    assert verdict.accuracy == "noise"
    assert verdict.is_worse == (call == "worse")


def test_lost_answers_are_worse_and_other_data_is_refused(report):
    ours = report.engine("ours")
    wrong = ours.model_copy(update={"answers": tuple(1 - t for t in report.truth)})
    right = ours.model_copy(update={"answers": report.truth})
    older, newer = (report.model_copy(update={"engines": (e, *report.engines[1:])}) for e in (right, wrong))
    assert judge(older, newer).accuracy == "worse"
    assert judge(newer, older).accuracy == "better"
    with pytest.raises(InputError, match="other rows"):
        judge(report, report.model_copy(update={"data_sha256": "0"}))


def test_quality_counts_what_brute_force_counts():
    generator = np.random.default_rng(2)
    truth, lengths = generator.integers(0, 3, 200), generator.integers(5, 60, 200)
    logits = generator.normal(size=(200, 3)).astype(np.float32)
    task = Task(labels=("a", "b", "c"))
    found = quality(truth, logits, task, lengths)
    answers, scores = logits.argmax(1), task.scores(logits).max(1)
    assert found.confusion[1][2] == sum((t, a) == (1, 2) for t, a in zip(truth, answers, strict=True))
    assert found.class_f1 == pytest.approx(f1_score(truth, answers, average=None))
    gaps = [
        abs((scores[chosen] - (answers == truth)[chosen]).sum()) / 200
        for n in range(10)
        if (chosen := (scores >= n / 10) & (scores < (n + 1) / 10)).any()
    ]
    assert found.calibration_error == pytest.approx(sum(gaps), abs=1e-6)
    assert sum(s.rows for s in found.slices) == 200


def test_profiled_operators_are_those_of_the_graph(made):
    bundle = made[1]
    batches = [bundle.tokenizer().batch([row]) for row in tiny_texts(6).rows]
    spent = operator_times(bundle.onnx_path("cpu-int8"), batches)
    assert {"QAttention", "DynamicQuantizeMatMul"} <= spent.keys()
    assert all(value >= 0 for value in spent.values())


@pytest.mark.parametrize("name", ["openvino", "ctranslate2"])
def test_peers_answer_like_the_reference(made, tmp_path, name):
    missing = [p for p in {"openvino": ["openvino", "nncf"]}.get(name, [name]) if find_spec(p) is None]
    store, bundle = made
    inputs = Inputs(bundle, find_reference(bundle, store), tiny_texts(30), tiny_texts(30))
    report = run_bench(inputs, BenchConfig(against=("ort_fp32", name), texts=4, rounds=3), store, tmp_path)
    row = report.engines[2]
    if missing:
        assert (row.status, "prunella[peers]" in row.problem) == ("absent", True)
    else:
        assert row.difference.flips <= 6  # int8 of a random model with small margins; chance alone flips 15
