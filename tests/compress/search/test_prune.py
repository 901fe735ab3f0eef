"""What is cut: nothing where everything is kept, and the same for the same seed."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from compressing import SMALL, compress_tiny, tiny_config
from tiny import make_tiny_checkpoint, tiny_texts

from compress.inputs.inputs import CompressionInputs
from compress.inputs.source import check_inputs, open_source
from compress.pipeline import compress_to, prepare, prune_settings
from compress.pruning.analysis import Analysis
from compress.quantization.int8_loss import table_cost
from compress.search.prune import Pruner
from compress.search.search_to_target import Target
from export.embedding_table import rounded_in_blocks
from export.graph_precision import Precision
from export.writer import write_int8
from models.checkpoint import load_checkpoint
from models.classifier import TensorBatch
from models.data.texts import Texts
from models.errors import TargetError
from models.store.folder import MANIFEST, Manifest
from models.tokenizer import Tokenizer
from models.train.divergence import divergence
from models.train.loop import TrainingConfig
from service.model.engine import run_session
from service.model.session import open_session

CONFIG = tiny_config(TrainingConfig(steps=1)).model_copy(update={"heal": None, "vocabulary": False})


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    make_tiny_checkpoint(folder, layers=3)
    return folder


def pruner_of(source, store, config=CONFIG, target=SMALL) -> Pruner:
    inputs = CompressionInputs(open_source(source, store, max_tokens=32), tiny_texts(64), tiny_texts(64))
    return Pruner(target, prepare(inputs, config, store), config, store)


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
        ready = pruner_of(source, store).context
        made = compress_to(SMALL, ready, CONFIG, store)
        plan = json.loads(next(store.glob("prune-*/plan.json")).read_text())["plan"]
        found.append((Analysis.open(ready.analysis.path), made.folder.id, plan))
    (first, first_id, first_plan), (second, second_id, second_plan) = found
    assert first.costs == second.costs
    assert all(
        np.array_equal(pruned_sublayer.kept, second.sublayer_widths[name][width].kept)
        for name, by_width in first.sublayer_widths.items()
        for width, pruned_sublayer in by_width.items()
    )
    assert (first_plan, first_id) == (second_plan, second_id)


def test_another_seed_measures_on_other_texts(source, tmp_path):
    config = CONFIG.model_copy(update={"seed": 1})
    one, other = pruner_of(source, tmp_path), pruner_of(source, tmp_path, config)
    assert one.analysis.costs != other.analysis.costs


def test_a_shape_that_was_chosen_by_times_belongs_to_the_machine(source, tmp_path, monkeypatch):
    ready = pruner_of(source, tmp_path).context
    fast, small = Target(kind="speedup", value=2.0), SMALL
    here = [prune_settings(target, ready, CONFIG) for target in (fast, small)]
    monkeypatch.setattr("compress.search.latency_meter.cpu_name", lambda: "another processor")
    there = [prune_settings(target, ready, CONFIG) for target in (fast, small)]
    assert here[0] != there[0]
    assert here[1] == there[1]


def test_a_shape_that_was_chosen_by_times_belongs_to_the_graph_it_was_compared_with(source, tmp_path):
    ready = pruner_of(source, tmp_path).context
    exported_otherwise = shutil.copytree(ready.reference.parent, tmp_path / "stock-other")
    manifest = Manifest.read(exported_otherwise / MANIFEST)
    manifest.model_copy(update={"files": {}}).write(exported_otherwise / MANIFEST)
    other = replace(ready, reference=exported_otherwise / ready.reference.name)
    fast = Target(kind="speedup", value=2.0)
    assert prune_settings(fast, ready, CONFIG) != prune_settings(fast, other, CONFIG)
    assert prune_settings(SMALL, ready, CONFIG) == prune_settings(SMALL, other, CONFIG)


def test_the_texts_belong_to_a_shape_whose_bits_they_decide(source, tmp_path):
    ready = pruner_of(source, tmp_path).context
    other = replace(ready, inputs=replace(ready.inputs, train=tiny_texts(65)))
    assert prune_settings(SMALL, ready, CONFIG) != prune_settings(SMALL, other, CONFIG)
    eight = CONFIG.model_copy(update={"embedding_bits": 8})
    assert prune_settings(SMALL, ready, eight) == prune_settings(SMALL, other, eight)


@pytest.mark.parametrize(("harm", "bits"), [(0.0, 4), (1e9, 8)])
def test_for_a_size_the_token_table_has_four_bits_where_that_costs_less_than_cutting(
    source, tmp_path, monkeypatch, harm, bits
):
    whole = {}
    for bits_of in (8, 4):
        config = CONFIG.model_copy(update={"embedding_bits": bits_of})
        shape = pruner_of(source, tmp_path, config, Target(kind="size_mb", value=5.0)).at(None).search
        whole[bits_of] = shape.table.total(shape.full, shape.plan.precision)
    asked = Target(kind="size_mb", value=(whole[8] + whole[4]) / 2e6)  # with 4 nothing need be cut
    monkeypatch.setattr("compress.search.prune.table_cost", lambda *told: harm)
    shape = pruner_of(source, tmp_path, target=asked).at(None).search
    assert shape.plan.precision.embedding_bits == bits
    for wanted in (4, 8):  # who asks gets them
        pruner = pruner_of(source, tmp_path, CONFIG.model_copy(update={"embedding_bits": wanted}), asked)
        assert pruner.at(None).search.plan.precision.embedding_bits == wanted


def test_what_is_too_small_is_nearest_with_four_bits(source, tmp_path):
    with pytest.raises(TargetError, match=r"the nearest measured are .* in 4 bits"):
        pruner_of(source, tmp_path, target=Target(kind="size_mb", value=0.01)).at(None)


@pytest.mark.parametrize("target", [Target(kind="size_mb", value=5.0), Target(kind="speedup", value=2.0)], ids=str)
def test_the_token_table_has_eight_bits_where_four_bring_nothing(source, tmp_path, byte_clock, target):
    pruner = pruner_of(source, tmp_path, target=target)
    assert pruner.at(None).search.plan.precision.embedding_bits == 8


def test_the_cost_of_four_bits_is_what_the_model_then_answers(source, tmp_path):
    pruner = pruner_of(source, tmp_path)
    batches = [TensorBatch(pruner.tokenizer.batch(tiny_texts(8).rows))]
    before = pruner.model.encoder.embeddings.tokens.weight.detach().clone()
    found = table_cost(pruner.model, batches, "single")
    assert torch.equal(before, pruner.model.encoder.embeddings.tokens.weight)
    path = tmp_path / "four.onnx"
    fp32 = Precision.all_fp32(pruner.model.architecture)
    write_int8(pruner.model, path, False, {}, fp32.model_copy(update={"embedding_bits": 4}))
    served = torch.from_numpy(run_session(open_session(path), pruner.tokenizer.batch(tiny_texts(8).rows)))
    with torch.no_grad():
        wanted = pruner.model(batches[0])[0]
    assert found == pytest.approx(float(divergence("single", served, wanted).mean()), abs=1e-6)
    assert found > 0


@pytest.mark.parametrize("width", [None, 32])
def test_a_student_is_fitted_and_healed_with_the_table_that_is_served(source, tmp_path, width):
    training = TrainingConfig(steps=4, learning_rate=1e-2, freeze_embeddings=False)
    config = tiny_config(training).model_copy(
        update={"vocabulary": False, "embedding_bits": 4, "hidden_width": width}
    )
    bundle = compress_tiny(source, tmp_path, config, Target(kind="size_mb", value=0.07 if width else 0.1))
    pruned, healed = (load_checkpoint(next(tmp_path.glob(f"{stage}-*"))) for stage in ("prune", "heal"))
    tables = [model.encoder.embeddings.tokens.weight.detach().numpy() for model in (pruned, healed)]
    assert np.array_equal(*tables)
    assert np.array_equal(rounded_in_blocks(tables[0]), tables[0])
    assert not torch.equal(pruned.encoder.layers[0].ffn.rise.weight, healed.encoder.layers[0].ffn.rise.weight)
    path = tmp_path / "four.onnx"
    fp32 = Precision.all_fp32(healed.architecture)
    write_int8(healed, path, False, {}, fp32.model_copy(update={"embedding_bits": 4}))
    batch = Tokenizer.open(bundle.path, 32).batch(tiny_texts(8).rows)
    found, wanted = (run_session(open_session(p), batch) for p in (path, bundle.path / "onnx" / "cpu-fp32.onnx"))
    assert np.abs(found - wanted).max() < 1e-4  # the table costs nothing any more


def test_the_training_texts_are_tokenized_once_in_a_run(source, tmp_path, monkeypatch):
    """Checks, analysis, the teacher, pruning, distillation and the bundle share them."""
    encode, counts = Tokenizer.encode, []

    def counting(self, rows, *more):
        counts.append(len(rows))
        return encode(self, rows, *more)

    monkeypatch.setattr(Tokenizer, "encode", counting)
    names = {"negative": "LABEL_0", "positive": "LABEL_1"}
    train, validation = (  # 300 are more than the check for unknown tokens looks at
        Texts(texts.rows, [names[str(label)] for label in texts.labels], "tiny")
        for texts in (tiny_texts(300), tiny_texts(64))
    )
    inputs = CompressionInputs(open_source(source, tmp_path, max_tokens=32), train, validation)
    config = tiny_config(TrainingConfig(steps=1))
    check_inputs(inputs, weak_teacher=True)
    for size in (0.13, 0.12):
        compress_to(Target(kind="size_mb", value=size), prepare(inputs, config, tmp_path), config, tmp_path)
    assert counts.count(300) == 1
