"""Clock: speed is measured under the load that is expected, on batches as the service makes them."""

import dataclasses
import json

import numpy as np
import pytest
from compressing import SMALL, labelled_inputs, tiny_config
from tiny import make_tiny_checkpoint

from compress.clock import ALONE, Clock, Load
from compress.family import Judge, summary
from compress.pipeline import compress_to, prepare
from compress.prune import Pruner, open_clock
from compress.source import Inputs
from models.architecture import Architecture
from models.train.loop import TrainingConfig
from service.bundle import Bundle

TOGETHER = Load(batch=4, threads=2)
CONFIG = tiny_config(TrainingConfig(steps=1)).model_copy(update={"heal": None})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Inputs:
    folder = tmp_path_factory.mktemp("source")
    make_tiny_checkpoint(folder, layers=2)
    return labelled_inputs(folder, folder)


def test_batches_are_of_like_length_and_sessions_have_the_threads(inputs, tmp_path, monkeypatch):
    config = CONFIG.model_copy(update={"load": TOGETHER})
    ready = prepare(inputs, config, tmp_path)
    pruner = Pruner(SMALL, ready, config, tmp_path)
    kept = []
    monkeypatch.setattr(Clock, "__init__", lambda self, *told: kept.append(told))
    open_clock(ready, pruner.tokenizer, False)
    reference, samples, _, load = kept[0]
    assert load == TOGETHER
    assert reference.session.get_session_options().intra_op_num_threads == 2
    assert [batch.rows for batch in samples] == [batch.rows for batch in reference.samples] == [4] * 6
    lengths = np.sort([len(e.ids) for e in pruner.tokenizer.encode(inputs.validation.rows)])
    assert samples[0].mask.sum(1).tolist() == lengths[:4].tolist()  # from the shortest
    assert samples[-1].mask.sum(1).tolist() == lengths[-4:].tolist()  # to the longest


def test_a_batchs_time_is_shared_by_its_texts(inputs, tmp_path, monkeypatch):
    ready = prepare(inputs, CONFIG, tmp_path)
    monkeypatch.setattr(
        "compress.clock.interleave", lambda calls, *_, **__: dict(zip(calls, ([0.6], [0.3]), strict=True))
    )
    tokenizer = Pruner(SMALL, ready, CONFIG, tmp_path).tokenizer
    for load, texts in ((ALONE, 24), (TOGETHER, 24), (Load(batch=16), 64)):  # 64 texts make four batches of 16
        found = open_clock(dataclasses.replace(ready, load=load), tokenizer, False).time(ready.reference, 1)
        assert found.reference_ms == pytest.approx(600 / texts)
        assert (found.ours_ms, found.speedup, found.load) == (pytest.approx(300 / texts), 2.0, load)


def test_the_table_and_what_is_chosen_belong_to_a_load(inputs, tmp_path):
    folders = {}
    for load in (ALONE, TOGETHER):
        config = CONFIG.model_copy(update={"load": load})
        ready = prepare(inputs, config, tmp_path)
        made = compress_to(SMALL, ready, config, tmp_path)
        folders[load.batch] = made.folder.path
        told = summary(Judge(ready).point(made.folder, SMALL, 0.1), 100.0)
        assert (told["batch"], told["threads"]) == (load.batch, load.threads)
        shape: Architecture = Bundle.open(made.folder.path).architecture
        tables = len(list(tmp_path.glob("latency-*")))
        Pruner(SMALL, ready, config, tmp_path).latency_table(shape)
        assert len(list(tmp_path.glob("latency-*"))) == tables + 1
    assert folders[1] != folders[4]
    plans = [json.loads(path.read_text())["measured"]["load"] for path in tmp_path.glob("prune-*/plan.json")]
    assert sorted(plan["batch"] for plan in plans) == [1, 4]
