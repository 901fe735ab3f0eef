"""`--remeasure` forgets what this machine's times decided, and nothing else."""

import pytest
from compressing import SMALL, labelled_inputs, tiny_config
from tiny import make_tiny_checkpoint

from compress.config import ALONE
from compress.pipeline import compress_to, prepare
from compress.remeasure import forget_times
from compress.search.latency_table import load_latency
from compress.search.search_to_target import Target
from models.architecture import Architecture
from models.store.folder import ModelFolder
from models.train.loop import TrainingConfig

CONFIG = tiny_config(TrainingConfig(steps=2)).model_copy(update={"vocabulary": False})


@pytest.fixture
def inputs(tmp_path):
    make_tiny_checkpoint(tmp_path / "source", layers=2)
    return labelled_inputs(tmp_path / "source", tmp_path)


def stages(store, name):
    return sorted(path.name for path in store.glob(f"{name}-*") if path.is_dir())


def test_what_times_decided_is_decided_again_and_what_follows_from_it_made_again(
    inputs, tmp_path, byte_clock, monkeypatch
):
    ready = prepare(inputs, CONFIG, tmp_path)
    fast = Target(kind="speedup", value=5.0)
    shape = Architecture(
        vocabulary=50, positions=20, token_types=2, width=32, head_size=16, layers=({"heads": 2, "ffn": 96},)
    )
    load_latency(shape, [4], ALONE, tmp_path)
    before = [compress_to(target, ready, CONFIG, tmp_path).folder for target in (fast, SMALL)]
    kept = {name: stages(tmp_path, name) for name in ("import", "analyse", "teach")}
    timed = stages(tmp_path, "prune")
    removed = forget_times(tmp_path, ready.inputs.source)
    assert [name.split("-")[0] for name in removed] == ["latency", "prune"]
    assert set(timed) - set(removed) == set(stages(tmp_path, "prune"))  # the shape for a size stays
    assert kept == {name: stages(tmp_path, name) for name in kept}
    monkeypatch.setattr("compressing.OURS", 0.8)  # the machine was slow: less need be cut now
    after = [compress_to(target, ready, CONFIG, tmp_path).folder for target in (fast, SMALL)]
    assert after[1].id == before[1].id
    shapes = [Architecture.read(folder.path / "architecture.json") for folder in (before[0], after[0])]
    assert shapes[0] != shapes[1]


def test_what_another_processor_or_another_model_measured_stays(inputs, tmp_path, byte_clock, monkeypatch):
    ready = prepare(inputs, CONFIG, tmp_path)
    compress_to(Target(kind="speedup", value=5.0), ready, CONFIG.model_copy(update={"heal": None}), tmp_path)
    monkeypatch.setattr("compress.remeasure.cpu_name", lambda: "another")
    assert forget_times(tmp_path, ready.inputs.source) == []


def test_what_another_command_uses_stays(inputs, tmp_path, byte_clock, capsys):
    ready = prepare(inputs, CONFIG, tmp_path)
    compress_to(Target(kind="speedup", value=5.0), ready, CONFIG.model_copy(update={"heal": None}), tmp_path)
    (name,) = stages(tmp_path, "prune")
    folder = ModelFolder.open(tmp_path / name)  # which holds it while it lives
    assert name not in forget_times(tmp_path, ready.inputs.source)
    assert f"{tmp_path / name} is in use" in capsys.readouterr().err
    assert folder.path.is_dir()
