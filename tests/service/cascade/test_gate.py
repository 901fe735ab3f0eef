"""The gate: its logits are the sum of the rows of a text, and damaged or foreign files are refused."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from bundles import make_tiny_bundle, sign
from gates import ALWAYS, NEVER, add_gate, make_gate

from models.errors import FolderError
from models.task import Task
from service.cascade.gate import MULTIPLIERS, FeatureHash, Gate, GateInfo
from service.model.bundle import Bundle, BundleInfo, CascadeInfo

WORD = 2**64


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def gated(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_gate(plain, tmp_path_factory.mktemp("gated") / "bundle")


def rows_one_by_one(ids: list[int], tokens: int, bigram_bits: int, trigram_bits: int) -> list[int]:
    """Return the rows of a text, computed with Python's integers."""
    bigrams = 2**bigram_bits if bigram_bits else 0
    count = bigrams + tokens + (2**trigram_bits if trigram_bits else 0)
    rows = [(bigrams + i) % count for i in ids]
    for n, bits, first in ((2, bigram_bits, 0), (3, trigram_bits, bigrams + tokens)):
        for k in range(len(ids) - n + 1 if bits else 0):
            key = sum(m * i for m, i in zip(MULTIPLIERS, ids[k : k + n], strict=False)) % WORD
            rows.append(first + (key >> (64 - bits)))
    return rows


@pytest.mark.parametrize(("bigram_bits", "trigram_bits"), [(0, 0), (10, 0), (0, 9), (12, 10)])
@pytest.mark.parametrize("length", [0, 1, 2, 3, 25])
def test_the_logits_are_the_sum_of_the_rows_of_tokens_bigrams_and_trigrams(bigram_bits, trigram_bits, length):
    rng = np.random.default_rng(length)
    gate = make_gate(50, 3, bigram_bits=bigram_bits, trigram_bits=trigram_bits, bias=(1.0, -2.0, 0.5))
    ids = rng.integers(0, 120, length).tolist()  # also ids above the number of token rows
    rows = rows_one_by_one(ids, 50, bigram_bits, trigram_bits)
    found = FeatureHash(50, bigram_bits, trigram_bits).rows(ids) % gate.info.row_count
    assert sorted(found) == sorted(rows)
    total = gate.table[rows].astype(np.int64).sum(axis=0) * 0.01 + np.array([1.0, -2.0, 0.5])
    np.testing.assert_allclose(gate.logits(ids), total / 1.5, rtol=1e-5, atol=1e-6)
    assert gate.logits(ids).dtype == np.float32
    assert gate.logits(ids).shape == (3,)


def test_a_text_longer_than_usual_and_many_labels_are_answered_in_the_same_way():
    gate, ids = make_gate(50, 20, length_power=0.5), np.random.default_rng(0).integers(0, 50, 900).tolist()
    total = gate.table[rows_one_by_one(ids, 50, 10, 0)].astype(np.int64).sum(axis=0) * 0.01 / 1.5 / 30
    np.testing.assert_allclose(gate.logits(ids), total, rtol=1e-4, atol=1e-5)
    answer = gate.decide(ids)
    assert answer.label == total.argmax()
    assert answer.confidence == pytest.approx(answer.probabilities.max(), rel=1e-5)


def test_the_sum_is_divided_by_a_power_of_the_number_of_tokens():
    ids = [2, 7, 9, 3]
    plain, shared = make_gate(50, 2, bias=(0.5, 0)), make_gate(50, 2, bias=(0.5, 0), length_power=0.5)
    bias = np.array([0.5, 0]) / 1.5
    np.testing.assert_allclose(shared.logits(ids) - bias, (plain.logits(ids) - bias) / 2, rtol=1e-5, atol=1e-7)


def test_the_answer_is_the_best_label_and_it_counts_from_the_threshold_on():
    gate, ids = make_gate(50, 3), [2, 11, 12, 13, 3]
    answer = gate.decide(ids)
    scores = Task(labels=("a", "b", "c")).scores(gate.logits(ids)[None])[0]
    np.testing.assert_allclose(answer.probabilities, scores, rtol=1e-6)
    assert answer.label == scores.argmax()
    assert answer.confidence == pytest.approx(scores.max(), rel=1e-6)
    at = make_gate(50, 3, thresholds=(answer.confidence,))
    above = make_gate(50, 3, thresholds=(np.nextafter(answer.confidence, 2),))
    assert at.decide(ids).answered
    assert not above.decide(ids).answered


def test_thresholds_can_be_one_for_each_label():
    ids = [2, 11, 12, 13, 3]
    label = make_gate(50, 3).decide(ids).label
    for barred in range(3):
        thresholds = tuple(NEVER if i == barred else ALWAYS for i in range(3))
        assert make_gate(50, 3, thresholds=thresholds).decide(ids).answered == (label != barred)


def test_a_gate_is_read_as_it_was_written(tmp_path: Path):
    gate = make_gate(50, 3)
    gate.save(tmp_path)
    opened = Gate.open(tmp_path)
    assert opened.info == gate.info
    assert (opened.table == gate.table).all()
    assert opened.table.dtype == np.int8
    assert (opened.logits([2, 5, 3]) == gate.logits([2, 5, 3])).all()


def test_a_bundle_without_a_gate_opens_as_before(plain: Path):
    assert Bundle.open(plain).gate is None


def test_a_bundle_opens_its_gate(gated: Path):
    gate = Bundle.open(gated).gate
    assert gate is not None
    assert gate.info.share == 0.5


def test_an_altered_gate_is_found_by_the_manifest(gated: Path, tmp_path: Path):
    shutil.copytree(gated, tmp_path / "b")
    np.save(tmp_path / "b" / "gate.npy", np.zeros((3, 2), np.int8))
    with pytest.raises(FolderError, match="altered"):
        Bundle.open(tmp_path / "b")


def damage(gated: Path, target: Path, **changes: object) -> Path:
    """Copy a bundle and change fields of its gate.json; the manifest is right."""
    shutil.copytree(gated, target)
    document = json.loads((target / "gate.json").read_text())
    (target / "gate.json").write_text(json.dumps(document | changes))
    return sign(target)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer_sha256": "0" * 64}, "another tokenizer"),
        ({"scales": [0.1] * 3, "bias": [0.0] * 3}, "int8 of shape"),
        ({"tokens": 7}, "int8 of shape"),
        ({"bigram_bits": 24, "trigram_bits": 24, "tokens": 10**9}, "more than"),
        ({"bigram_bits": 60}, "not a valid GateInfo"),
        ({"version": 2}, "not a valid GateInfo"),
        ({"temperature": 0}, "not a valid GateInfo"),
        ({"temperature": 1e-30}, "overflow"),
        ({"scales": [1e300, 1.0]}, "overflow"),
        ({"multipliers": [2, 3, 5]}, "odd"),
        ({"thresholds": [0.5] * 3}, "wanted one each"),
        ({"thresholds": []}, "wanted one each"),
        ({"unknown": 1}, "not a valid GateInfo"),
    ],
)
def test_a_gate_whose_settings_do_not_fit_is_refused(gated: Path, tmp_path: Path, changes, message):
    with pytest.raises(FolderError, match=message):
        Bundle.open(damage(gated, tmp_path / "b", **changes))


def test_a_gate_for_another_number_of_labels_is_refused(plain: Path, tmp_path: Path):
    shutil.copytree(plain, tmp_path / "b")
    make_gate(50, 3).save(tmp_path / "b")
    with pytest.raises(FolderError, match=r"one of 3 labels.*2 labels"):
        Bundle.open(sign(tmp_path / "b"))


@pytest.mark.parametrize("missing", ["gate.json", "gate.npy"])
def test_half_a_gate_is_refused(gated: Path, tmp_path: Path, missing: str):
    shutil.copytree(gated, tmp_path / "b")
    (tmp_path / "b" / missing).unlink()
    with pytest.raises(FolderError, match="only: wanted"):
        Bundle.open(sign(tmp_path / "b"))


def described(gated: Path, target: Path, share: float) -> Path:
    """Copy a bundle whose bundle.json describes a gate that answers `share` of its rows."""
    shutil.copytree(gated, target)
    gate = GateInfo.read(target / "gate.json").model_copy(update={"share": share})
    info = BundleInfo.read(target / "bundle.json").model_copy(update={"cascade": CascadeInfo.of(gate)})
    info.write(target / "bundle.json")
    return sign(target)


def test_the_description_in_bundle_json_must_be_that_of_the_gate(gated: Path, tmp_path: Path):
    same = described(gated, tmp_path / "same", 0.5)
    assert Bundle.open(same).info.cascade == CascadeInfo.of(Gate.open(gated).info)
    with pytest.raises(FolderError, match="describe different gates"):
        Bundle.open(described(gated, tmp_path / "other", 0.6))
    for name in ("gate.json", "gate.npy"):
        (same / name).unlink()
    with pytest.raises(FolderError, match=r"bundle.json describes a gate, and there is none: wanted"):
        Bundle.open(sign(same))


@pytest.mark.parametrize("content", ["text", "pickle", "float", "archive", "cut", "empty"])
def test_rows_that_are_no_int8_array_are_refused_and_never_unpickled(gated: Path, tmp_path: Path, content: str):
    shutil.copytree(gated, tmp_path / "b")
    path = tmp_path / "b" / "gate.npy"
    table = np.load(path)
    match content:
        case "text":
            path.write_text("no array")
        case "pickle":
            path.write_bytes(pickle.dumps(table))
        case "float":
            np.save(path, table.astype(np.float32))
        case "archive":
            with path.open("wb") as file:
                np.savez(file, table=table)
        case "cut":
            path.write_bytes(path.read_bytes()[:-10])
        case "empty":
            path.write_bytes(b"")
    with pytest.raises(FolderError, match=r"gate\.npy.*wanted int8"):
        Bundle.open(sign(tmp_path / "b"))


def test_objects_are_not_unpickled(gated: Path, tmp_path: Path):
    shutil.copytree(gated, tmp_path / "b")
    np.save(tmp_path / "b" / "gate.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    with pytest.raises(FolderError, match=r"gate\.npy.*wanted int8"):
        Bundle.open(sign(tmp_path / "b"))


def test_the_settings_refuse_a_single_label():
    with pytest.raises(ValueError, match="two labels"):
        make_gate(50, 1)


def test_the_number_of_rows_counts_only_the_kinds_that_a_gate_has():
    assert make_gate(50, 2, bigram_bits=0).info.row_count == 50
    assert make_gate(50, 2, bigram_bits=4, trigram_bits=3).info.row_count == 50 + 16 + 8
    assert GateInfo.model_fields["trigram_bits"].default == 0
