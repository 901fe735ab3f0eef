"""What is timed: requests of every size, how they are split, which percentiles they tell, and which are refused."""

import json

import numpy as np
import pytest
from pydantic import ValidationError
from tiny import tiny_texts
from verbs import run

from bench.measure.latency.request_batches import GROUPINGS, choose_rows, distinct, make_requests, resolved
from bench.measure.latency.worker_pool import Cell, Times
from bench.report.bench_config import MOST, BenchConfig, cells
from bench.report.engine_rows import _timing
from bench.report.report_schema import PERCENTS
from models.data.texts import Texts
from models.errors import InputError
from prunella.cli import bench as verb
from service.settings import Settings

RULES = Settings().rules()


def texts(count):
    return Texts([(f"text {n}",) for n in range(count)], None, "made up")


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 16, 48, 64, 100])
@pytest.mark.parametrize("count", [1, 5, 40, 64, 200])
@pytest.mark.parametrize("timed", [1, 24, 64])
def test_every_chosen_text_is_in_a_request_and_requests_are_whole(batch, count, timed):
    data = texts(count)
    rows = choose_rows(data, timed, batch)
    requests = make_requests(rows, [3] * len(rows), batch, "as received", RULES)
    met = [row for request in requests for run_ in request for row in run_]
    assert met == rows
    assert all(sum(map(len, request)) == batch for request in requests)
    assert set(choose_rows(data, timed, 1)) <= set(met)
    assert len(met) < min(timed, count) + batch  # no more than it takes
    assert distinct(requests) == len(requests)


def test_a_text_that_comes_twice_makes_no_second_request():
    rows = [("a",), ("b",), ("a",), ("b",), ("c",), ("d",)]
    assert distinct(make_requests(rows, [1] * 6, 2, "as received", RULES)) == 2


def test_texts_of_a_request_run_as_the_scheduler_lets_them():
    lengths = np.random.default_rng(0).integers(1, 40, 60).tolist()
    rows = [(str(n),) for n in range(60)]
    [runs] = make_requests(rows, lengths, 60, "by length", RULES)
    buckets = [[i for i, n in enumerate(lengths) if (n - 1) // RULES.bucket == key] for key in range(40)]
    wanted = [bucket[i : i + RULES.items] for bucket in buckets for i in range(0, len(bucket), RULES.items)]
    assert sorted([int(row[0]) for row in run_] for run_ in runs) == sorted(wanted)


def test_a_run_has_no_more_tokens_than_the_service_allows():
    [runs] = make_requests([("long",)] * 5, [512] * 5, 5, "by length", RULES)
    assert [len(run_) for run_ in runs] == [RULES.tokens // 512, RULES.tokens // 512, 1]


def test_a_percentile_is_told_by_three_requests_beyond_it():
    assert [resolved(95, n) for n in (4, 59, 60)] == [False, False, True]
    assert [resolved(5, n) for n in (59, 60)] == [False, True]
    assert [resolved(99, n) for n in (299, 300)] == [False, True]
    assert resolved(50, 1)


@pytest.mark.parametrize(("requests", "told"), [(4, False), (64, True)])
def test_a_time_has_its_95th_percentile_only_where_it_is_one(requests, told):
    seconds = np.random.default_rng(0).uniform(1, 2, (7, requests))
    times = Times({"ours": seconds}, {"ours": (300 * requests, 320 * requests)})
    found = _timing(Cell(16, None, 1, "by length"), "ours", times, requests)
    assert (found.p95_ms is not None) == told
    assert found.percentiles_ms[PERCENTS.index(95)] == found.p95_ms
    assert found.percentiles_ms[PERCENTS.index(50)] == found.p50_ms
    assert (found.requests, found.mean_tokens, found.mean_padded_tokens) == (requests, 300, 320)


def test_settings_are_measured_smallest_first_and_once_whatever_their_order():
    config = BenchConfig(batches=(16, 1, 16), lengths=(64, None, 16), threads=(2, 1))
    assert (config.batches, config.lengths, config.threads) == ((1, 16), (None, 16, 64), (1, 2))
    found = cells(config, 1)
    assert found[:3] == [Cell(1, None, 1), Cell(16, None, 1, "by length"), Cell(16, None, 1, "as received")]
    assert len(found) == len(set(found)) == 9
    assert cells(BenchConfig(batches=(16,)), 1)[0] == Cell(16, None, 1, GROUPINGS[0])


@pytest.mark.parametrize("field", ["batches", "threads"])
@pytest.mark.parametrize("values", [(0,), (-1,), (1, 0), (MOST + 1,), ()])
def test_sizes_that_cannot_be_are_refused(field, values):
    with pytest.raises(ValidationError, match=field):
        BenchConfig(**{field: values})


@pytest.mark.parametrize("changes", [
    {"lengths": ()}, {"lengths": (0,)}, {"timeout": 0}, {"timeout": float("inf")}, {"timeout": float("nan")},
    {"texts": 0}, {"rounds": 0}, {"openings": 1},
])  # fmt: skip
def test_other_values_that_cannot_be_are_refused(changes):
    with pytest.raises(ValidationError, match=next(iter(changes))):
        BenchConfig(**changes)


@pytest.mark.parametrize(
    "value", ["0", "-1", "1,0", "", ",", "1,", "1.5", "1e3", "many", "1 6", "٣", "9" * 5000, "own"]
)
def test_lists_of_numbers_that_are_none_are_refused(value):
    with pytest.raises(InputError, match="--batch is"):
        verb.numbers("--batch", value)


def test_lists_of_numbers():
    assert verb.numbers("--batch", "1, 16,48") == (1, 16, 48)
    assert verb.numbers("--lengths", "own,016", own=True) == (verb.OWN, 16)
    with pytest.raises(InputError, match="own, or whole numbers"):
        verb.numbers("--lengths", "0", own=True)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    from serving import make_tiny_bundle

    store = tmp_path_factory.mktemp("store")
    data = tiny_texts(20)
    lines = [json.dumps({"text": r[0], "label": n}) for r, n in zip(data.rows, data.labels, strict=True)]
    (store / "data.jsonl").write_text("\n".join(lines))
    return store, make_tiny_bundle(store)


def bench(bundle, capsys, monkeypatch, *flags):
    store, folder = bundle
    quick = ["--rounds", 3, "--openings", 2, "--texts", 4, "--store", store, "--data", store / "data.jsonl"]
    return run(capsys, monkeypatch, "bench", folder, *quick, "--against", "ort_fp32", *flags)


@pytest.mark.parametrize("flags", [
    ("--batch", 0), ("--batch", 10**7), ("--threads", 0), ("--threads", 10**7), ("--lengths", 0), ("--lengths", 33),
    ("--against", "magic"), ("--against", "ort_fp32,magic"), ("--compare-loss", 0),
])  # fmt: skip
def test_wrong_flags_end_with_exit_code_2_before_anything_is_measured(bundle, capsys, monkeypatch, tmp_path, flags):
    code, told, err = bench(bundle, capsys, monkeypatch, *flags, "--out", tmp_path / "out")
    assert (code, told) == (2, None)
    assert str(flags[1]).rpartition(",")[2] in err or flags[0].lstrip("-").rstrip("s") in err
    assert not (tmp_path / "out" / "report.json").exists()


def test_the_headline_is_named_where_it_is_not_one_text_at_a_time(bundle, capsys, monkeypatch, tmp_path):
    code, told, err = bench(bundle, capsys, monkeypatch, "--batch", 8, "--lengths", 16, "--out", tmp_path)
    assert code == 0, err
    assert (told["batch"], told["tokens"], told["threads"], told["grouping"]) == (8, 16, 1, "by length")
    assert set(told["speedup"]) == {"ort_fp32"}
    report = json.loads((tmp_path / "report.json").read_text())
    timed = {(t["batch"], t["tokens"], t["grouping"]) for e in report["engines"] for t in e["timings"]}
    assert timed == {(8, 16, grouping) for grouping in GROUPINGS}  # 16 means 16, and own lengths were not asked for
    page, table = ((tmp_path / f"report.{end}").read_text() for end in ("html", "md"))
    for text in (page, table):
        assert "8 texts at once, by length, 16 tokens each" in text
        assert "one text at a time" not in text.replace("opened 2 times more in fresh processes", "")


def test_48_texts_at_once_are_all_timed(bundle, capsys, monkeypatch, tmp_path):
    flags = ("--batch", "48,1", "--texts", 20, "--out", tmp_path)
    code, told, err = bench(bundle, capsys, monkeypatch, *flags)
    assert code == 0, err
    assert told["batch"] == 1
    report = json.loads((tmp_path / "report.json").read_text())
    ours = report["engines"][0]["timings"]
    assert [(t["batch"], t["requests"], t["p95_ms"]) for t in ours] == [(1, 20, None), (48, 1, None), (48, 1, None)]
    assert ours[1]["mean_tokens"] == ours[2]["mean_tokens"]
    assert ours[1]["mean_padded_tokens"] <= ours[2]["mean_padded_tokens"]
