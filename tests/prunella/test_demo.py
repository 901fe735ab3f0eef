"""The demo evaluates what it made, once, and its last lines are those of the report."""

import json
import logging
import sys
from pathlib import Path

import pytest
from bundles import make_tiny_bundle
from compressing import labelled_inputs, openings_of, tiny_config
from films import film_texts
from tiny import make_tiny_checkpoint
from verbs import run

from bench.report.cascade_report import CascadeReport, StageReport
from bench.report.report_schema import Report
from compress.cascade.add_gate import CascadeTexts
from compress.search.search_to_target import Target
from models.errors import CheckError
from models.messages import say
from models.store.folder import ModelFolder, find_folder
from models.store.inventory import list_store
from models.train.loop import TrainingConfig
from prunella import demo

ARCHIVED = Path(__file__).resolve().parents[2] / "docs" / "results" / "bbc-news.json"


@pytest.fixture
def inputs(tmp_path, monkeypatch, byte_clock):
    make_tiny_checkpoint(tmp_path / "source", layers=2)
    config = tiny_config(TrainingConfig(steps=2)).model_copy(update={"heal": None})
    monkeypatch.setattr(demo, "COMPRESS", config)
    monkeypatch.setattr("compress.candidates.refuse_uninformative", lambda *_: None)  # a random model, cut, is that
    return labelled_inputs(tmp_path / "source", tmp_path)


@pytest.mark.parametrize(("ours", "met"), [(1.6, True), (2.3, False)])
def test_the_bundle_is_evaluated_once(inputs, tmp_path, monkeypatch, ours, met):
    target = Target(kind="speedup", value=5.0)
    ready = demo.prepare(inputs, demo.COMPRESS, tmp_path)
    demo.compress_to(target, ready, demo.COMPRESS, tmp_path)
    opened = []
    openings = openings_of([8.0] * 4, [ours * 1.01, ours / 1.01] * 2)
    monkeypatch.setattr(
        "compress.search.latency_meter.measure_openings", lambda *given: opened.append(given) or openings
    )
    for _ in range(2):
        _, judgement = demo.compress_and_evaluate(inputs, target, tmp_path)
        assert (judgement["target_met"], judgement["asked"]) == (met, "5x")
        assert judgement["speedup"]["ort_fp32"] == pytest.approx(8 / ours, rel=1e-3)
        json.dumps(judgement)
    assert len(opened) == 1  # a second run is at the server in seconds
    (kept,) = [entry for entry in list_store(tmp_path) if entry.kind == "report"]
    assert kept.name.startswith("judged-")
    monkeypatch.setattr(demo, "timing_environment", lambda load: {"processor": "another"})
    demo.compress_and_evaluate(inputs, target, tmp_path)
    assert len(opened) == 2  # what another machine measured is not this one's


def test_a_report_is_reused_where_it_is_of_these_rows_and_of_this_machine(tmp_path, monkeypatch):
    report, test = report_of(4.0), film_texts(20, 1)
    own = report.model_copy(
        update={"data_sha256": test.sha256, "machine": {**report.machine, "processor": "x", "flags": ["y"]}}
    )
    monkeypatch.setattr(demo, "machine_card", lambda: {"processor": "x", "flags": ["y"]})
    bundle, out = tmp_path / "bundle", tmp_path / "out"
    for folder in (bundle, out):
        folder.mkdir()
    (bundle / "report.json").write_text("{}")
    own.write(out / "report.json")
    assert not demo.is_measured(bundle, out, test)  # killed before the page was written
    (out / "report.html").write_text("<html>")
    assert demo.is_measured(bundle, out, test)
    assert not demo.is_measured(bundle, out, film_texts(20, 2))  # `prunella bench` was run on other rows
    monkeypatch.setattr(demo, "machine_card", lambda: {"processor": "x", "flags": []})
    assert not demo.is_measured(bundle, out, test)


def report_of(speedup):
    """Return the archived report of the demo with another speed-up, measured in four fresh processes."""
    return Report.read(ARCHIVED).model_copy(
        update={"openings": openings_of([8.0] * 4, [8 / speedup * 1.001, 8 / speedup / 1.001] * 2)}
    )


@pytest.mark.parametrize(("share", "met"), [(1, True), (0.96, True), (0.88, False), (1.12, False)])
def test_the_report_decides_whether_the_target_was_met(share, met):
    target = 4.0
    report = report_of(target * share)
    outcome = demo.outcome(report, Target(kind="speedup", value=target))
    assert (outcome["target_met"], outcome["missed"] is None) == (met, met)
    assert outcome["headline"].startswith(f"{target * share:.1f}x faster than fp32 ONNX Runtime (8.0 ms to ")
    assert f"{report.engine('ours').difference.loss_points:z.1f} points of accuracy lost [" in outcome["headline"]
    if not met:
        assert outcome["missed"].startswith("the target was missed: measured")
        assert outcome["missed"].endswith(f"12% {'faster' if share > 1 else 'slower'} than the target")
    for engine in ("ours", "ort_fp32", "tfidf"):
        assert f"{report.engine(engine).score.value:.1%}" in outcome["accuracies"]


def test_a_gate_has_a_sentence_of_its_own_with_what_it_gains_and_costs():
    target, plain = Target(kind="speedup", value=4), report_of(4.0)
    assert demo.outcome(plain, target)["gated"] is None
    added = plain.engine("ours").difference.model_copy(update={"loss_points": 0.25, "loss_interval": (-0.5, 1.0)})
    gate = StageReport.model_construct(name="gate", share=0.418)
    cascade = CascadeReport.model_construct(stages=(gate,), speedup_mean=6.54, added=added)
    assert demo.outcome(plain.model_copy(update={"cascade": cascade}), target)["gated"] == (
        "with its gate, which answers 42% of the sentences: 6.5x by the mean time of a text, 0.2 points more lost "
        "[-0.5, 1.0]"
    )


def test_the_gate_is_left_out_where_no_threshold_qualifies(tmp_path, caplog):
    student = ModelFolder.open(make_tiny_bundle(tmp_path))
    full = find_folder([tmp_path], "finetune", student.manifest.lineage[-1].parents[0])
    few = CascadeTexts(film_texts(400, 1), film_texts(20, 2))
    assert demo.with_gate(student, few, full, tmp_path) is student
    assert "the bundle gets no gate: 20 rows do not show" in caplog.text


def test_a_report_without_the_model_is_an_error():
    with pytest.raises(CheckError, match="did not run"):
        demo.outcome(report_of(4.0).model_copy(update={"openings": None}), Target(kind="speedup", value=4))


def test_a_message_is_written_once_though_a_library_configures_the_root_logger(tmp_path, capsys, monkeypatch):
    def run_demo(store, speedup):
        logging.getLogger().addHandler(library)
        say("half done")
        return dict.fromkeys(("folder", "headline", "gated", "accuracies", "missed", "report", "tag"), "text")

    library = logging.StreamHandler(sys.stderr)
    monkeypatch.setattr(demo, "run_demo", run_demo)
    try:
        _, _, err = run(capsys, monkeypatch, "demo", "--no-serve", "--store", tmp_path)
    finally:
        logging.getLogger().removeHandler(library)
    assert err.count("half done") == 1


@pytest.mark.parametrize(
    ("gated", "missed"), [(None, None), ("with its gate: 8x", "the target was missed: measured 3.5x")]
)
def test_the_last_lines_say_the_result_and_how_to_ask_the_server(tmp_path, capsys, monkeypatch, gated, missed):
    result = {
        "folder": "a bundle", "tag": "a:tag", "headline": "4.0x faster", "gated": gated,
        "accuracies": "accuracy 1", "missed": missed, "report": "report.html",
    }  # fmt: skip
    monkeypatch.setattr(demo, "run_demo", lambda store, speedup: result)
    code, printed, err = run(capsys, monkeypatch, "demo", "--no-serve", "--store", tmp_path)
    lines = [line.removeprefix("prunella: ") for line in err.splitlines()]
    wanted = ["4.0x faster", *filter(None, [gated, "accuracy 1", missed]), "report: report.html"]
    assert (code, lines) == (0, [*wanted, "serve it: prunella serve 'a bundle'"])
    assert (printed["verb"], printed["missed"]) == ("demo", missed)

    def launch(bundle, host, port, environment, on_ready):
        assert bundle == "a:tag"
        on_ready()
        return 0

    monkeypatch.setattr("service.process.launch.serve", launch)
    code, printed, err = run(capsys, monkeypatch, "demo", "--store", tmp_path, "--port", 3456)
    lines = [line.removeprefix("prunella: ") for line in err.splitlines()]
    assert lines[:-2] == wanted
    assert lines[-1].startswith("  curl -s http://127.0.0.1:3456/v1/classify ")
    assert printed["url"] == "http://127.0.0.1:3456"
