"""The demo judges what it made, once, and says whether the target was met."""

import json

import pytest
from compressing import labelled_inputs, openings_of, tiny_config
from tiny import make_tiny_checkpoint

from compress.search.search_to_target import Target
from models.train.loop import TrainingConfig
from prunella import demo


@pytest.fixture
def inputs(tmp_path, monkeypatch, byte_clock):
    make_tiny_checkpoint(tmp_path / "source", layers=2)
    config = tiny_config(TrainingConfig(steps=2)).model_copy(update={"heal": None})
    monkeypatch.setattr(demo, "COMPRESS", config)
    monkeypatch.setattr("compress.candidates.refuse_uninformative", lambda *_: None)  # a random model, cut, is that
    monkeypatch.setattr(demo, "TARGET", Target(kind="speedup", value=5.0))
    return labelled_inputs(tmp_path / "source", tmp_path)


@pytest.mark.parametrize(("ours", "met"), [(1.6, True), (2.3, False), (1.2, False)])
def test_the_demo_says_whether_the_target_was_met(inputs, tmp_path, monkeypatch, capsys, ours, met):
    ready = demo.prepare(inputs, demo.COMPRESS, tmp_path)
    demo.compress_to(demo.TARGET, ready, demo.COMPRESS, tmp_path)
    opened = []
    found = openings_of([8.0] * 4, [ours * 1.01, ours / 1.01] * 2)
    monkeypatch.setattr("compress.search.latency_meter.measure_openings", lambda *told: opened.append(told) or found)
    for _ in range(2):
        _, told = demo.compress_and_evaluate(inputs, tmp_path)
        assert (told["target_met"], told["asked"]) == (met, "5x")
        assert told["speedup"]["ort_fp32"] == pytest.approx(8 / ours, rel=1e-3)
        assert ("the target was missed: measured" in capsys.readouterr().err) != met
        json.dumps(told)
    assert len(opened) == 1  # a second run is at the server in seconds
