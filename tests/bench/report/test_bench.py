import json
import re
import sys
from html import unescape

import numpy as np
import pytest
from serving import make_tiny_bundle
from sklearn.metrics import f1_score
from tiny import tiny_texts

from bench.engines.available import Inputs
from bench.engines.reference import find_reference
from bench.measure.accuracy.difference import Score, compare, score
from bench.measure.accuracy.error_analysis import quality
from bench.measure.accuracy.evaluate import evaluate
from bench.measure.engine_spec import fixed_length
from bench.measure.latency.cpu_affinity import pinning
from bench.measure.latency.operator_profile import operator_times
from bench.measure.latency.process_restarts import combine
from bench.measure.latency.timing import interleave, median_interval, speedup
from bench.report.bench_config import BenchConfig
from bench.report.build import run_bench
from bench.report.findings import verdicts
from bench.report.html import to_html
from bench.report.markdown import to_markdown
from bench.report.plots import _bars, figures
from bench.report.report_schema import Report
from models.data.texts import Texts
from models.errors import FolderError, InputError
from models.store.folder import ModelFolder
from models.task import Task
from models.tokenizer import Encoded
from prunella.cli import main as cli
from service.model.bundle import Bundle
from tools.archive_run import public
from tools.tables.write import RESULTS, pages, with_tables


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


def test_interval_is_near_a_bootstrap_over_rows_where_many_rows_differ(answers):
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
    assert (found.loss_points, found.mcnemar_p, found.flips) == (0, 1, 0)
    assert found.loss_interval == pytest.approx((-0.95, 0.95), abs=0.01)  # 400 rows do not show a loss of nothing


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
    config = BenchConfig(batches=(1, 4), lengths=(None, 16), texts=8, rounds=3, openings=2)
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
    assert all(len(e.timings) == 6 and all(t.p50_ms > 0 for t in e.timings) for e in report.engines)
    written = (tmp_path / "report.md").read_text()
    assert f"| {torch_row.score.accuracy:.1%} |" in written
    told = json.loads((bundle.folder.path / "report.json").read_text())
    assert {"accuracy", "loss_points", "loss_interval", "speedup", "p50_ms", "bytes"} <= told.keys()
    assert told["speedup_of"] == "model"
    text = told["text_to_answer"]
    assert text["speedup"].keys() == {"ort_fp32"}
    assert text["p50_ms"]["ort_fp32"] / text["p50_ms"]["ours"] == pytest.approx(text["speedup"]["ort_fp32"], rel=1e-2)
    assert Bundle.open(bundle.folder.path).id == bundle.id  # a new report is no alteration


def quick(*against):
    return BenchConfig(against=against, texts=4, rounds=3, openings=2)


def test_without_labels_there_is_speed_but_no_accuracy(made, tmp_path):
    store, bundle = made
    inputs = Inputs(bundle, find_reference(bundle, store), Texts(tiny_texts(6).rows, None, "x"), None)
    report = run_bench(inputs, quick("ort_fp32", "tfidf"), store, tmp_path)
    assert report.engine("ours").score is None
    assert "no labels" in report.verdicts[0]
    assert report.engines[2].status == "absent"
    assert "--train" in report.engines[2].problem


def changed(report, dropped=(), **changes):
    """Return a report without some engines; `changes` are fields of the other engines."""
    engines = tuple(e.model_copy(update=changes) for e in report.engines if e.name not in dropped)
    return report.model_copy(update={"engines": engines})


def test_without_a_reference_no_speedup_is_made_up():
    stored = Report.read(RESULTS / "bbc-news.json").model_copy(update={"reference": None, "openings": None})
    report = changed(stored, ("ort_fp32", "pytorch"), speedup=None, speedup_interval=None, difference=None)
    (row,) = (line for line in to_markdown(report).splitlines() if line.startswith("| **ours** |"))
    assert [cell.strip() for cell in row.split("|")][4:6] == ["", ""]  # loss, speed-up
    assert "<td>1</td>" not in to_html(report).partition("<h2>By length</h2>")[0]
    for page in (to_markdown(report), to_html(report)):
        assert "no engine of the full model ran" in page
        assert "None" not in page


@pytest.mark.parametrize("right", [0, 7, 20])
def test_the_bar_of_an_accuracy_has_a_width_on_few_rows_whatever_they_say(right):
    (below,), (above,) = _bars(Score(rows=20, accuracy=right / 20, macro_f1=0.0))
    share, z = right / 20, 1.959964
    middle, half = share + z * z / 40, z * (share * (1 - share) / 20 + z * z / 1600) ** 0.5
    assert share - below / 100 == pytest.approx((middle - half) / (1 + z * z / 20), abs=1e-6)
    assert share + above / 100 == pytest.approx((middle + half) / (1 + z * z / 20), abs=1e-6)
    assert below + above > 15


def test_a_loss_of_nothing_has_no_sign_of_a_loss():
    report = Report.read(RESULTS / "bbc-news.json")
    same = report.engine("ours").difference.model_copy(update={"loss_points": 0.0})
    assert "<b>+0.00</b>" in to_html(changed(report, difference=same))


def test_wrong_use_is_told(made, tmp_path):
    store, bundle = made
    reference = find_reference(bundle, store)
    with pytest.raises(InputError, match="'neutral' is not the model's"):
        run_bench(Inputs(bundle, reference, Texts([("a",)], ["neutral"], "x"), None), BenchConfig(), store, tmp_path)
    inputs = Inputs(bundle, reference, tiny_texts(4), None)
    with pytest.raises(InputError, match="unknown engine"):
        run_bench(inputs, BenchConfig(against=("magic",)), store, tmp_path)
    with pytest.raises(InputError, match="--reference"):
        find_reference(Bundle(ModelFolder(tmp_path, bundle.folder.manifest), *[None] * 4), tmp_path)
    with pytest.raises(FolderError):
        evaluate(tmp_path, tiny_texts(4))


@pytest.mark.parametrize(
    ("interval", "told"), [((-4.5, -1.1), "which is better than"), ((-1.0, 1.0), "which cannot be told from")]
)
def test_a_simple_baseline_that_is_as_good_or_better_is_named(interval, told):
    report = Report.read(RESULTS / "bbc-news.json")
    engines = [
        e.model_copy(update={"difference": e.difference.model_copy(update={"loss_interval": interval})})
        if e.name == "tfidf" else e
        for e in report.engines
    ]  # fmt: skip
    sentences = list(verdicts(report.model_copy(update={"engines": tuple(engines)})))
    assert sum(told in sentence for sentence in sentences) == 1


def test_pages_hold_the_stored_results():
    for page in pages():
        text = page.read_text()
        assert with_tables(text) == text, f"{page} is old: run python -m tools.tables.write"


def test_no_kept_file_names_a_place_on_a_machine():
    for path in RESULTS.rglob("*.json"):
        told = json.loads(path.read_text())
        assert public(told) == told, f"{path} names a place: run python -m tools.tables.write"


def test_page_needs_nothing_else_and_tells_the_numbers(report):
    page = to_html(report)
    assert not re.search(r"<script|https?://(?!www\.w3\.org)|src=|@import", page)
    assert page.count("<svg") == len(figures(report)) >= 7
    assert f"<td>{report.engine('ours').score.accuracy:.1%}</td>" in page
    assert all(sentence in unescape(page) for sentence in report.verdicts)


def test_a_report_has_its_openings(report):
    found = report.openings
    assert len(found.speedups) == 2
    ratios = np.array(found.reference_ms) / found.ours_ms
    assert found.speedups == pytest.approx(ratios)
    assert (found.speedup, found.interval) == combine(found.speedups)
    assert (found.texts, found.threads) == (8, 1)
    for whole, model in ((found.text.ours_ms, found.ours_ms), (found.text.reference_ms, found.reference_ms)):
        assert whole > np.exp(np.log(model).mean())  # splitting a text into tokens takes time
    assert found.text.interval[0] <= found.text.speedup <= found.text.interval[1]
    assert f"{found.text.speedup:.2f} times as fast" in to_markdown(report)
    assert f"{found.text.speedup:.2f}\N{MULTIPLICATION SIGN} from text to answer" in to_html(report)
    assert found.sentence("ort_fp32") in unescape(to_html(report))
    assert report.machine["pinning"] == pinning([1])
    assert pinning([1]) in to_markdown(report)


def test_bench_says_when_it_cannot_judge(made, report, tmp_path, capsys, monkeypatch):
    (store, bundle), data = made, tiny_texts(40)
    lines = [json.dumps({"text": r[0], "label": n}) for r, n in zip(data.rows, data.labels, strict=True)]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    wild = report.openings.model_copy(update={"speedups": (1.0, 3.0), "texts": 24})  # fewer than by default
    (tmp_path / "older.json").write_text(report.model_copy(update={"openings": wild}).model_dump_json())
    flags = ["--store", store, "--data", tmp_path / "data.jsonl", "--against", "ort_fp32", "--batch", 8]
    flags += ["--rounds", 3]
    flags += ["--openings", 2, "--compare", tmp_path / "older.json", "--out", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", ["prunella", "bench", str(bundle.folder.path), *map(str, flags)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    told = capsys.readouterr()
    assert (end.value.code, json.loads(told.out)["compared"]["speed"]) == (1, "too noisy")
    assert "too noisy to judge, run again on a quiet machine" in told.err


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
    assert {"QAttention", "MatMulIntegerToFloat"} <= spent.keys()
    assert all(value >= 0 for value in spent.values())
