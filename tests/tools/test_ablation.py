"""What each part of pruning is worth: students of one budget, and what they are held against."""

import json
from dataclasses import replace

import numpy as np
import pytest
from labelled import make_learned, make_texts, write_csv

from bench.measure.accuracy.difference import mean_interval
from compress.config import AnalysisConfig, DistillConfig
from compress.inputs.inputs import CompressionInputs
from compress.search import prune
from compress.search.cost_table import size_cost_table
from models.checkpoint import read_architecture
from models.errors import TargetError
from models.train.loop import TrainingConfig
from tools.ablation import HEALED, UNHEALED, WHOLE, Ablation, Variant, ablate, main


@pytest.fixture(autouse=True)
def bytes_for_seconds(monkeypatch):
    """Let the table tell bytes: what a tiny model's sublayers take in time is noise."""
    monkeypatch.setattr(prune, "load_latency", lambda full, *_: size_cost_table(full, 100.0))


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablation")
    return make_learned(folder, make_texts(count=96, seed=1), make_texts(count=48, seed=2))


@pytest.fixture(scope="module")
def asked(learned):
    folder, classifier = learned
    train, dev = make_texts(count=96, seed=1), make_texts(count=48, seed=2)
    training = TrainingConfig(epochs=1, batch_size=16, learning_rate=5e-4, freeze_embeddings=False)
    return Ablation(
        CompressionInputs(classifier, train, dev), make_texts(count=60, seed=3), 8.0,
        AnalysisConfig(texts=48, cost_texts=16),
        DistillConfig(training=training), folder / "store",
    )  # fmt: skip


def shape_of(folder):
    return [(layer.heads, layer.ffn) for layer in read_architecture(folder.path).layers]


def test_each_variant_is_of_its_kind(asked):
    alike = shape_of(asked.student(Variant(layers="alike"), healed=False))
    kept = shape_of(asked.student(Variant(layers="kept"), healed=False))
    assert len(set(alike)) == 1
    assert all(heads and ffn for heads, ffn in kept)
    whole, refitted_not = (asked.student(v, healed=False) for v in (Variant(), Variant(refit=False)))
    assert shape_of(whole) == shape_of(refitted_not)
    assert not np.allclose(asked.logits(whole), asked.logits(refitted_not), atol=1e-4)
    assert np.array_equal(asked.logits(whole), asked.logits(asked.student(Variant(), healed=False)))


def test_no_student_is_held_against_another_than_the_whole(asked):
    with pytest.raises(TargetError, match="no shape takes"):
        next(ablate(replace(asked, speedup=1e6)))


def test_the_interval_of_a_mean_holds_it_and_shrinks_with_the_rows():
    draw = np.random.default_rng(0)
    few, many = draw.normal(3, 1, 50), draw.normal(3, 1, 5000)
    for values in (few, many):
        low, high = mean_interval(values)
        wanted = 1.96 * values.std() / len(values) ** 0.5
        assert (low, high) == pytest.approx((values.mean() - wanted, values.mean() + wanted), abs=0.1 * wanted)


def test_the_command_tells_a_row_for_each_student_and_holds_them_against_the_whole(learned, tmp_path, capsys):
    folder, classifier = learned
    test = write_csv(tmp_path / "test.csv", make_texts(count=60, seed=3))
    main(
        classifier.path, str(folder / "train.csv"), str(folder / "dev.csv"), str(test), speedup=8, epochs=1, texts=48,
        cost_texts=16, store=folder / "store",
    )  # fmt: skip
    printed = capsys.readouterr()
    told = json.loads(printed.out.splitlines()[-1])
    rows = told["students"]
    assert {row["name"] for row in rows if not row["healed"]} <= set(UNHEALED)
    assert {row["name"] for row in rows if row["healed"]} <= set(HEALED)
    assert len(rows) == len(UNHEALED) + len(HEALED)
    wholes = [row for row in rows if row["name"] == WHOLE]
    assert [row["healed"] for row in wholes] == [False, True]
    assert all(row["points"] == row["more_divergence"] == 0 for row in wholes)
    for row in rows:
        whole = wholes[row["healed"]]
        assert row["points"] == pytest.approx(100 * (whole["accuracy"] - row["accuracy"]))
        assert row["more_divergence"] == pytest.approx(row["divergence"] - whole["divergence"], abs=1e-6)
    for row in (r for r in rows if r["name"] not in (WHOLE, "answers only, no states")):
        assert f"| {'healed: ' if row['healed'] else ''}{row['name']} | {row['shape']} |" in printed.err
