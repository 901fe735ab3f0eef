"""What is cut: nothing where everything is kept, and the same for the same seed."""

import json

import numpy as np
import pytest
import torch
from compressing import SMALL, tiny_config
from tiny import make_tiny_checkpoint, tiny_texts

from compress.analysis import Analysis
from compress.pipeline import compress_to, prepare, prune_settings
from compress.prune import Pruner
from compress.source import Inputs, open_source
from compress.target import Target
from models.classifier import TensorBatch
from models.train.loop import TrainingConfig

CONFIG = tiny_config(TrainingConfig(steps=1)).model_copy(update={"heal": None, "vocabulary": False})


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    make_tiny_checkpoint(folder, layers=3)
    return folder


def pruner_of(source, store, config=CONFIG) -> Pruner:
    inputs = Inputs(open_source(source, store, max_tokens=32), tiny_texts(64), tiny_texts(64))
    return Pruner(SMALL, prepare(inputs, config, store), config, store)


def test_keeping_everything_gives_the_source_exactly(source, tmp_path):
    pruner = pruner_of(source, tmp_path)
    whole = pruner.fitted_to(pruner.model.architecture)
    batch = TensorBatch(pruner.tokenizer.batch(tiny_texts(8).rows))
    loaded = pruner_of(source, tmp_path).model
    with torch.no_grad():
        assert torch.equal(whole(batch)[0], loaded(batch)[0])
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in loaded.state_dict().items())


def test_the_same_seed_gives_the_same_architecture(source, tmp_path):
    """Two stores share nothing: all is made twice."""
    found = []
    for store in (tmp_path / "a", tmp_path / "b"):
        ready = pruner_of(source, store).ready
        made = compress_to(SMALL, ready, CONFIG, store)
        plan = json.loads(next(store.glob("prune-*/plan.json")).read_text())["plan"]
        found.append((Analysis.open(ready.analysis.path), made.folder.id, plan))
    (first, first_id, first_plan), (second, second_id, second_plan) = found
    assert first.costs == second.costs
    assert all(
        np.array_equal(rung.kept, second.ladders[name][width].kept)
        for name, ladder in first.ladders.items()
        for width, rung in ladder.items()
    )
    assert (first_plan, first_id) == (second_plan, second_id)


def test_another_seed_measures_on_other_texts(source, tmp_path):
    config = CONFIG.model_copy(update={"seed": 1})
    one, other = pruner_of(source, tmp_path), pruner_of(source, tmp_path, config)
    assert one.analysis.costs != other.analysis.costs


def test_a_shape_that_was_chosen_by_times_belongs_to_the_machine(source, tmp_path, monkeypatch):
    ready = pruner_of(source, tmp_path).ready
    fast, small = Target(kind="speedup", value=2.0), SMALL
    here = [prune_settings(target, ready, CONFIG) for target in (fast, small)]
    monkeypatch.setattr("compress.clock.cpu_name", lambda: "another processor")
    there = [prune_settings(target, ready, CONFIG) for target in (fast, small)]
    assert here[0] != there[0]
    assert here[1] == there[1]
