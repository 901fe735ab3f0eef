"""The report of a bundle with a gate: both stages, mean times, and no claim that the slowest texts are faster."""

import json
from dataclasses import replace

import numpy as np
import pytest
from bundles import make_tiny_bundle
from gates import add_gate, make_gate
from tiny import tiny_texts

from bench.engines.available import Inputs
from bench.engines.reference import find_reference
from bench.measure.latency.timing import mean_seconds, speedup
from bench.report.bench_config import BenchConfig
from bench.report.build import run_bench
from bench.report.cascade_report import CascadeResults, cascade_report
from bench.report.markdown import cascade_sentences
from bench.report.report_schema import Report
from bench.report.summary import summary
from models.task import Task
from models.tokenizer import Encoded
from prunella import Classifier
from service.cascade.gate import Gate
from service.model.bundle import Bundle

ROWS = 200


@pytest.fixture(scope="module")
def results() -> CascadeResults:
    """Return results in which the gate takes 0.1 ms, the student 2 ms and the reference 10 ms."""
    generator, gate = np.random.default_rng(0), make_gate(50, 3)
    encoded = [Encoded([2, *generator.integers(5, 50, 6).tolist(), 3], [0] * 8) for _ in range(ROWS)]
    answered = np.array([gate.decide(one.ids).answered for one in encoded])
    truth = generator.integers(0, 3, ROWS)
    student = np.eye(3, dtype=np.float32)[np.where(generator.random(ROWS) < 0.9, truth, (truth + 1) % 3)] * 5
    cascade = np.where(answered, 1e-4, 2.1e-3)
    seconds = {
        "ours": np.full((5, ROWS), 2e-3),
        "cascade": np.tile(cascade, (5, 1)),
        "ort_fp32": np.full((5, ROWS), 1e-2),
    }
    return CascadeResults(gate, encoded, Task(labels=("a", "b", "c")), truth, student, seconds, ROWS, "ort_fp32")


def test_each_stage_has_its_rows_its_accuracy_and_its_calibration(results):
    report = cascade_report(results)
    gate, student = report.stages
    decided = [results.gate.decide(one.ids) for one in results.encoded]
    mask = np.array([one.answered for one in decided])
    labels = np.array([one.label for one in decided])
    assert (gate.rows, student.rows) == (mask.sum(), (~mask).sum())
    assert gate.accuracy == (labels == results.truth)[mask].mean()
    right = results.student.argmax(axis=1) == results.truth
    assert gate.student_accuracy == right[mask].mean()
    assert student.accuracy == student.student_accuracy == right[~mask].mean()
    assert 0 <= gate.calibration_error <= 1
    lost = right.mean() - np.where(mask, labels == results.truth, right).mean()
    assert report.added.loss_points == pytest.approx(100 * lost)
    assert report.added.loss_interval[0] < report.added.loss_points < report.added.loss_interval[1]


def test_times_are_means_and_the_slowest_texts_take_the_students_time(results):
    report = cascade_report(results)
    share = report.stages[0].share
    mean = share * 0.1 + (1 - share) * 2.1
    assert report.mean_ms == pytest.approx(mean)
    assert report.speedup_mean == pytest.approx(10 / mean)
    assert report.student_speedup_mean == pytest.approx(5)
    assert report.core_seconds_per_million == pytest.approx(1000 * mean)
    assert report.p95_ms == pytest.approx(2.1)
    assert "the 95th percentile is the student's (2.1 ms; 2 ms without a gate)" in report.sentence()


def test_where_nearly_all_texts_are_the_gates_so_is_the_slowest_time(results):
    gate = Gate.of(results.gate.info.model_copy(update={"thresholds": (0.0,)}), results.gate.table)
    report = cascade_report(replace(results, gate=gate))
    assert report.stages[0].share == 1
    assert "the 95th percentile is the gate's" in report.sentence()
    assert "that of its gate." in cascade_sentences(report)[0]


def test_without_labels_and_with_few_texts_nothing_is_made_up(results):
    few = CascadeResults(results.gate, results.encoded, results.task, None, results.student, results.seconds, 8, None)
    report = cascade_report(few)
    assert report.added is report.p95_ms is report.p99_ms is report.speedup_mean is None
    assert {one.accuracy for one in report.stages} == {None}
    assert "percentile is the student's." in report.sentence()


def test_the_speedup_of_mean_times_is_not_that_of_typical_times():
    reference, ours = np.full((3, 10), 10.0), np.tile([0.1] * 9 + [10.0], (3, 1))
    found, (low, high) = speedup(reference, ours, of=mean_seconds)
    assert found == pytest.approx(10 / 1.09)
    assert low < found < high
    assert speedup(reference, ours)[0] > 60


def test_bench_measures_the_cascade_beside_its_student(tmp_path):
    plain = make_tiny_bundle(tmp_path / "store")
    bundle, data = Bundle.open(add_gate(plain, tmp_path / "gated")), tiny_texts(40)
    inputs = Inputs(bundle, find_reference(bundle, tmp_path / "store"), data, None)
    config = BenchConfig(against=("ort_fp32",), batches=(1, 4), texts=8, rounds=3, openings=2)
    report = run_bench(inputs, config, tmp_path / "store", tmp_path / "out")
    assert [(e.name, e.status) for e in report.engines] == [(n, "ok") for n in ("ours", "cascade", "ort_fp32")]
    assert Report.read(tmp_path / "out" / "report.json") == report
    answers = [one.label for one in Classifier(bundle.folder.path)([row[0] for row in data.rows])]
    right = sum(a == t for a, t in zip(answers, data.labels, strict=True)) / 40
    assert report.engine("cascade").score.accuracy == pytest.approx(right)
    assert (
        report.engine("ours").score
        == run_bench(
            Inputs(Bundle.open(plain), inputs.reference, data, None), config, tmp_path / "store", tmp_path / "plain"
        )
        .engine("ours")
        .score
    )
    written = (tmp_path / "out" / "report.md").read_text()
    assert "## Cascade" in written
    assert "| gate |" in written
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<h2>Cascade</h2>" in page
    assert "cascade (mean)" in page
    last = summary(report)
    assert {"share", "threshold", "bound_points", "mean_ms", "p95_ms", "loss_points"} <= last["cascade"].keys()
    assert "cascade" not in last["speedup"]
    assert json.loads((bundle.folder.path / "report.json").read_text())["cascade"] == last["cascade"]


def test_a_cascade_that_the_bundle_lacks_is_a_row_that_says_so(tmp_path):
    bundle = Bundle.open(make_tiny_bundle(tmp_path))
    config = BenchConfig(against=("cascade",), batches=(1,), texts=4, rounds=3, openings=2)
    report = run_bench(
        Inputs(bundle, find_reference(bundle, tmp_path), tiny_texts(6), None), config, tmp_path, tmp_path / "out"
    )
    row = report.engine("cascade")
    assert row is None  # `engine` returns rows that ran
    assert report.cascade is None
    assert "## Cascade" not in (tmp_path / "out" / "report.md").read_text()
