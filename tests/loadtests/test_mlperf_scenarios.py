"""The four scenarios of MLPerf Inference, with our client and with MLCommons' generator."""

import json
from importlib.util import find_spec

import pytest
from test_loadtests import loadtest, server

from loadtests.loadtest import main
from loadtests.with_loadgen import read_summary

SCENARIOS = {"single-stream": 1, "multi-stream": 8, "server": 1, "offline": 32}  # texts in a request
needs_loadgen = pytest.mark.skipif(
    find_spec("mlperf_loadgen") is None,
    reason="mlcommons-loadgen is not installed (pip install 'prunella[loadgen]'); it has no wheel for Linux on ARM",
)


def texts_of(body):
    return [body["text"]] if "text" in body else body["texts"]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_scenario_sends_the_queries_of_its_definition_and_names_its_metric(tmp_path, scenario, monkeypatch, capfd):
    monkeypatch.setattr("loadtests.scenarios.KNEE_STEPS", 1)
    with server(200) as (url, bodies):
        options = ["--url", url, "--out", str(tmp_path), "--scenario", scenario]
        code = main([*options, "--users", "2", "--duration", "1", "--slo-ms", "10000"])
    assert code == 0
    told = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert {len(texts_of(body)) for _, body in bodies[1:]} == {SCENARIOS[scenario]}
    assert told["mlperf_note"] == "after MLPerf's definitions, not a submission"
    expected = {
        "single-stream": told["p90_ms"], "multi-stream": told["p99_ms"],
        "server": told.get("knee_requests_per_second"),
        "offline": pytest.approx(32 * told["requests_per_second"], rel=0.01),
    }  # fmt: skip
    assert told["mlperf_result"] == expected[scenario]
    assert "not a submission" in (tmp_path / "report.html").read_text()


@needs_loadgen
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_generator_of_mlcommons_sends_the_same_queries(tmp_path, scenario):
    more = ("--rate", "50") if scenario == "server" else ()
    with server(200) as (url, bodies):
        done = loadtest(url, tmp_path, "--client", "loadgen", "--scenario", scenario, "--duration", "1", *more)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["loadgen"]["Scenario"].replace(" ", "").lower() == scenario.replace("-", "")
    assert told["loadgen_result"] in ("VALID", "INVALID")
    assert told["failures"] == 0
    assert max(len(texts_of(body)) for _, body in bodies[1:]) == SCENARIOS[scenario]
    assert (tmp_path / "mlperf_log_summary.txt").is_file()


@needs_loadgen
def test_requests_that_fail_under_the_generator_are_exit_code_1(tmp_path):
    with server(429) as (url, _):
        done = loadtest(url, tmp_path, "--client", "loadgen", "--scenario", "single-stream", "--duration", "1")
    assert done.returncode == 1
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["failures"] == told["requests"] > 0


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--scenario", "steady"], "single-stream"),
        (["--scenario", "server"], "--rate"),
        (["--scenario", "offline", "--rate", "3"], "--rate"),
        (["--scenario", "offline", "--dialect", "tei"], "native"),
    ],
)
def test_wrong_use_of_the_generator_is_exit_code_2(tmp_path, more, named):
    with server(200) as (url, _):
        done = loadtest(url, tmp_path / "out", "--client", "loadgen", *more)
    assert done.returncode == 2
    assert named in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_verdict_and_the_figures_of_the_generator_are_read(tmp_path):
    (tmp_path / "summary.txt").write_text(
        "====\nMLPerf Results Summary\n====\nScenario : Server\nResult is : VALID\n  Min duration satisfied : Yes\n"
    )
    assert read_summary(tmp_path / "summary.txt") == {
        "loadgen_result": "VALID", "loadgen": {"Scenario": "Server", "Min duration satisfied": "Yes"},
    }  # fmt: skip
