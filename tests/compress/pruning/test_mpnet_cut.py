"""An MPNet is compressed, healed and served, with heads that differ between layers."""

import pytest
from compressing import labelled_inputs, tiny_config
from tiny import make_tiny_family

from compress.pipeline import compress_to, prepare
from compress.search.latency_table import measure_latency
from compress.search.search_to_target import Target
from models.checkpoint import load_checkpoint, read_architecture
from models.train.loop import TrainingConfig
from service.model.bundle import Bundle
from service.model.engine import Engine


def test_an_mpnet_is_compressed_to_a_size_healed_and_served(tmp_path, byte_clock):
    make_tiny_family(tmp_path / "source", "mpnet")
    inputs = labelled_inputs(tmp_path / "source", tmp_path, max_tokens=40)
    config = tiny_config(TrainingConfig(epochs=1, batch_size=16))
    target = Target(kind="size_mb", value=0.1)
    bundle = Bundle.open(compress_to(target, prepare(inputs, config, tmp_path), config, tmp_path).folder.path)
    full, shape = load_checkpoint(inputs.source.path).architecture, bundle.architecture
    assert shape.layers != full.layers
    assert shape.relative == full.relative
    assert bundle.served_bytes("cpu-int8") == pytest.approx(0.1e6, rel=0.1)
    Engine.open(bundle).self_check()


def test_the_latency_table_has_every_width(tmp_path):
    make_tiny_family(tmp_path, "mpnet")
    table = measure_latency(read_architecture(tmp_path), [6, 20], rounds=1)
    for amounts in (table.int8, table.fp32):
        assert set(amounts.attention) == set(amounts.last_attention) == set(range(5))
        assert {0, 32, 96} <= set(amounts.ffn) == set(amounts.last_ffn)
