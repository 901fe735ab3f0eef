"""Clock: speed is measured in fresh processes, under the load that is expected, on batches like the service's."""

import dataclasses
import json

import numpy as np
import pytest
from compressing import SMALL, labelled_inputs, openings_of, tiny_config
from tiny import make_tiny_checkpoint

from compress.candidate_report import summary
from compress.candidates import CandidateEvaluator
from compress.config import ALONE, Workload
from compress.inputs.inputs import CompressionInputs
from compress.pipeline import compress_to, prepare, prune_settings
from compress.search.latency_meter import OPENINGS, PURPOSES, Measured, choose_batches, open_latency_meter
from compress.search.prune import Pruner
from compress.search.search_to_target import Target
from models.architecture import Architecture
from models.train.loop import TrainingConfig
from service.model.bundle import Bundle

TOGETHER = Workload(batch=4, threads=2)
CONFIG = tiny_config(TrainingConfig(steps=1)).model_copy(update={"heal": None})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> CompressionInputs:
    folder = tmp_path_factory.mktemp("source")
    make_tiny_checkpoint(folder, layers=2)
    return labelled_inputs(folder, folder)


def clock_of(inputs, store, load):
    ready = dataclasses.replace(prepare(inputs, CONFIG, store), load=load)
    return ready, open_latency_meter(ready.inputs, ready.base, ready.reference, load)


def test_batches_are_of_like_length_and_each_purpose_has_its_own():
    lengths = np.random.default_rng(0).integers(4, 60, 400)
    seen = {}
    for purpose in PURPOSES:
        batches = choose_batches(lengths, 4, purpose)
        assert [len(batch) for batch in batches] == [4] * 6
        spreads = [np.ptp(lengths[batch]) for batch in batches]
        assert max(spreads) <= 2
        means = [lengths[batch].mean() for batch in batches]
        assert means == sorted(means)
        assert np.mean(means) == pytest.approx(lengths.mean(), rel=0.1)
        seen[purpose] = {row for batch in batches for row in batch}
    assert not seen["search"] & seen["confirmation"]
    assert not (seen["search"] | seen["confirmation"]) & seen["judgement"]


@pytest.mark.parametrize(("rows", "size"), [(40, 64), (1, 16), (5, 5), (7, 3), (64, 16), (130, 64)])
def test_a_batch_is_full_though_the_rows_are_few(rows, size):
    for purpose in PURPOSES:
        batches = choose_batches(np.arange(rows), size, purpose)
        assert [len(batch) for batch in batches] == [size] * max(24 // size, 6)
        assert {row for batch in batches for row in batch} <= set(range(rows))


def test_a_batch_larger_than_the_rows_is_timed_and_reported_as_it_was_asked_for(
    inputs, tmp_path, monkeypatch, capsys
):
    asked = []
    monkeypatch.setattr(
        "compress.search.latency_meter.measure_openings",
        lambda *told: asked.append(told) or openings_of([128, 128], [64, 64]),
    )
    ready, meter = clock_of(inputs, tmp_path, Workload(batch=100))
    found = meter.time(ready.reference, 1, "search")
    _, _, rows, count, conditions = asked[0]
    assert (len(rows), count, conditions.batch) == (600, OPENINGS["search"], 100)
    assert (found.load.batch, found.reference_ms, found.ours_ms) == (100, pytest.approx(1.28), pytest.approx(0.64))
    assert "64 rows, fewer than a batch of 100" in capsys.readouterr().err


def test_a_speedup_is_that_of_the_milliseconds_and_of_the_fresh_processes(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "compress.search.latency_meter.measure_openings", lambda *_: openings_of([8.0, 9.0, 8.5], [2.0, 2.1, 2.3])
    )
    for load in (ALONE, TOGETHER):
        ready, meter = clock_of(inputs, tmp_path, load)
        found = meter.time(ready.reference, 7, "judgement")
        assert found.speedup == pytest.approx(found.reference_ms / found.ours_ms)
        assert found.speedups == pytest.approx((4.0, 9 / 2.1, 8.5 / 2.3))
        assert found.interval[0] < found.speedup < found.interval[1]
        assert (found.load, found.bytes) == (load, 7)


def test_two_measurements_are_pooled_by_their_processes():
    first = Measured(bytes=1, ours_ms=2.0, reference_ms=8.0, speedup=4.0, speedups=(4.0, 4.0))
    second = Measured(bytes=1, ours_ms=2.5, reference_ms=8.0, speedup=3.2, speedups=(3.2,) * 4)
    both = first.pooled(second)
    assert both.speedup == pytest.approx(np.exp(np.log(both.speedups).mean()))
    assert both.speedup == pytest.approx(both.reference_ms / both.ours_ms)
    assert len(both.speedups) == 6
    assert both.interval[0] < both.speedup < both.interval[1]


def test_graphs_are_timed_in_processes_of_their_own(inputs, tmp_path, monkeypatch):
    """What is measured is not looked at: only that real processes give it, for one text and for several."""
    monkeypatch.setattr("compress.search.latency_meter.OPENINGS", dict.fromkeys(PURPOSES, 2))
    monkeypatch.setattr("compress.search.latency_meter.TIMED_TEXTS", 6)
    for load in (ALONE, TOGETHER):
        ready, meter = clock_of(inputs, tmp_path, load)
        found = meter.time(ready.reference, 1, "confirmation")
        assert len(found.speedups) == 2
        assert min(found.ours_ms, found.reference_ms) > 0
        assert found.text.ours_ms > found.ours_ms
        assert found.text.reference_ms > found.reference_ms


def test_what_is_chosen_by_time_and_what_is_judged_belong_to_a_load(inputs, tmp_path, byte_clock):
    fast, settings = Target(kind="speedup", value=2.0), []
    for load in (ALONE, TOGETHER):
        config = CONFIG.model_copy(update={"load": load})
        ready = prepare(inputs, config, tmp_path)
        made = compress_to(SMALL, ready, config, tmp_path)
        told = summary(CandidateEvaluator(ready).evaluate(made.folder, SMALL, 0.2), 100.0)
        assert (told["batch"], told["threads"]) == (load.batch, load.threads)
        settings.append(prune_settings(fast, ready, config))
    assert settings[0] != settings[1]


def test_a_latency_table_belongs_to_a_load(tmp_path):
    from compress.search.latency_table import load_latency

    shape = Architecture(
        vocabulary=50, positions=20, token_types=2, width=32, head_size=16, layers=({"heads": 2, "ffn": 96},)
    )
    for load in (ALONE, Workload(batch=2)):
        for _ in range(2):
            load_latency(shape, [4, 8], load, tmp_path)
    assert len(list(tmp_path.glob("latency-*"))) == 2


def test_a_shape_for_a_speed_is_chosen_confirmed_cut_and_judged(inputs, tmp_path, byte_clock, capsys):
    ready = prepare(inputs, CONFIG.model_copy(update={"vocabulary": False}), tmp_path)
    uncut = Pruner(Target(kind="speedup", value=1.1), ready, CONFIG, tmp_path).at(None).search.measured.speedup
    target = Target(kind="speedup", value=uncut * 1.15)
    made = compress_to(target, ready, CONFIG, tmp_path)
    assert "confirmed in other processes and on other texts" in capsys.readouterr().err
    plan = json.loads(next(tmp_path.glob("prune-*/plan.json")).read_text())
    assert len(plan["measured"]["speedups"]) == OPENINGS["search"] + OPENINGS["confirmation"]
    assert target.reached(Measured.model_validate(plan["measured"])) == pytest.approx(1, abs=CONFIG.tolerance / 2)
    point = CandidateEvaluator(ready).evaluate(made.folder, target, CONFIG.tolerance)
    assert point.met
    assert len(point.measured.speedups) == OPENINGS["judgement"]
    assert Bundle.open(made.folder.path).architecture != Architecture.read(ready.base.path / "architecture.json")
