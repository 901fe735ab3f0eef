from pathlib import Path

import pytest

from bench.report.markdown import to_markdown
from bench.report.mlperf import mlperf_sentence
from bench.report.report_schema import PERCENTS, Report

RESULTS = Path(__file__).resolve().parents[3] / "docs" / "results"


@pytest.fixture(scope="module")
def report():
    return Report.read(RESULTS / "bbc-news.json")


def test_single_stream_is_the_90th_percentile_and_offline_is_texts_a_second(report):
    ours = report.engine("ours")
    one = ours.timing(1).model_copy(update={"percentiles_ms": tuple(float(p) for p in PERCENTS)})
    eight = one.model_copy(update={"batch": 8, "p50_ms": 4.0})
    changed = ours.model_copy(update={"timings": (one, eight.model_copy(update={"p50_ms": 5.0}), eight)})
    sentence = mlperf_sentence(report.model_copy(update={"engines": (changed,)}))
    assert "not a submission" in sentence
    assert "90th percentile in ms: ours 90.00" in sentence
    assert "8 texts at once), texts a second: ours 2000" in sentence


def test_a_report_without_these_settings_says_nothing(report):
    engines = tuple(engine.model_copy(update={"timings": ()}) for engine in report.engines)
    assert mlperf_sentence(report.model_copy(update={"engines": engines})) is None


def test_the_report_has_the_sentence(report):
    assert mlperf_sentence(report) in to_markdown(report)
