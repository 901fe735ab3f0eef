from collections import Counter

import numpy as np
import pytest
from tiny import tiny_texts

from models.data.check_labels import check_labels
from models.data.labels import OUTPUT
from models.data.texts import Texts
from models.errors import InputError
from models.task import Task

MULTI = [("a",), (), ("a", "b"), ("b", "c"), ("a",), ("c",), ("a", "b"), (), ("a", "c"), ("b",)] * 4
NUMBERS = [float(i * 7 % 40) / 4 for i in range(40)]


def texts(labels, kind="single", source="made up") -> Texts:
    return Texts([(f"text {i}",) for i in range(len(labels))], labels, source, kind)


def test_the_hash_of_single_labels_is_what_it_was():
    # stages are identified by it: the values are those of version 0.1.0
    rows, labels = [("a",), ("ü", "b")], ["x", "10"]
    assert Texts(rows, labels, "s").sha256[:16] == "51955b8bc0cff723"
    assert Texts(rows, None, "s").sha256[:16] == "bfc851fd1fcdc34f"
    assert tiny_texts(8).sha256 != tiny_texts(8, pair=True).sha256


@pytest.mark.parametrize(("kind", "labels"), [("multi", MULTI), ("regression", NUMBERS)])
def test_the_hash_is_of_rows_and_labels_of_every_kind(kind, labels):
    data = texts(labels, kind)
    assert data.sha256 == texts(list(labels), kind, "elsewhere").sha256
    assert data.sha256 != texts([*labels[1:], labels[0]], kind).sha256 != Texts(data.rows, None, "s").sha256
    assert data.take([3, 1]).labels == [labels[3], labels[1]]
    assert data.take([3, 1]).kind == kind


def test_rows_and_labels_must_be_as_many():
    with pytest.raises(ValueError, match="2 rows and 1 labels"):
        Texts([("a",), ("b",)], ["x"], "s")


def test_label_names_by_kind():
    assert texts(["b", "10", "9", "-1", "--5", "a"]).label_names() == ("-1", "9", "10", "--5", "a", "b")
    assert texts(MULTI, "multi").label_names() == ("a", "b", "c")
    assert texts(NUMBERS, "regression").label_names() == (OUTPUT,)


def test_targets_by_kind():
    single = texts(["b", "a", "b"]).targets(Task(labels=("a", "b")))
    assert single.dtype == np.int64
    assert single.tolist() == [1, 0, 1]
    multi = texts([("c", "a"), (), ("b",)], "multi").targets(Task(kind="multi", labels=("a", "b", "c")))
    assert multi.dtype == np.float32
    assert multi.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    numbers = texts([0.5, 2.0], "regression").targets(Task(kind="regression", labels=(OUTPUT,)))
    assert numbers.dtype == np.float32
    assert numbers.tolist() == [0.5, 2.0]
    with pytest.raises(InputError, match=r"label 'c' is not the model's \(a, b\)"):
        texts(["a", "c"]).targets(Task(labels=("a", "b")))
    with pytest.raises(InputError, match="was read for a single task, and the model's task is multi"):
        texts(["a"]).targets(Task(kind="multi", labels=("a", "b")))


@pytest.mark.parametrize(
    ("kind", "labels"), [("single", ["a", "b", "b", "c"] * 10), ("multi", MULTI), ("regression", NUMBERS)]
)
def test_parts_are_disjoint_seeded_and_alike(kind, labels):
    data = texts(labels, kind)
    first, second = data.split(0.25, seed=3)
    assert (len(first), len(second)) == (30, 10)
    assert sorted(first.rows + second.rows) == sorted(data.rows)
    assert [p.sha256 for p in data.split(0.25, seed=3)] == [first.sha256, second.sha256]
    assert data.split(0.25, seed=4)[1].sha256 != second.sha256
    if kind == "regression":
        tenths = np.quantile(labels, np.linspace(0, 1, 11)[1:-1])
        assert Counter(np.searchsorted(tenths, second.labels).tolist()) == dict.fromkeys(range(10), 1)
    else:
        names = [(label,) if kind == "single" else label for label in labels]
        held = [(label,) if kind == "single" else label for label in second.labels]
        whole, part = (Counter(name for row in rows for name in row) for rows in (names, held))
        assert all(abs(part[name] - whole[name] / 4) <= 1 for name in whole)
    check_labels(first, second)


def test_many_rare_labels_are_spread_better_than_by_chance():
    random = np.random.default_rng(0)
    labels = [tuple(f"l{i:02}" for i in np.flatnonzero(random.random(30) < 0.04)) for _ in range(500)]

    def error(rows):
        whole, part = (Counter(n for row in r for n in row) for r in (labels, rows))
        return sum(abs(part[n] - whole[n] / 5) for n in whole)

    second = texts(labels, "multi").split(0.2, seed=0)[1]
    by_chance = [error([labels[i] for i in random.permutation(500)[:100]]) for _ in range(20)]
    assert len(second) == 100
    assert error(second.labels) < 0.4 * min(by_chance)


def test_labels_with_one_row():
    with pytest.raises(InputError, match=r"made up cannot be split: label 'rare' has one row only.*--validation"):
        texts(["a", "b"] * 10 + ["rare"]).split(0.2, seed=0)
    for seed in range(5):
        first, second = texts([("a",), ("b",)] * 10 + [("a", "rare")], "multi").split(0.2, seed=seed)
        assert ("a", "rare") in first.labels
        check_labels(first, second)


def test_splits_that_cannot_be():
    for labels, kind, fraction in ((["a", "b"], "single", 0.0), ([1.0], "regression", 0.5), ([("a",)], "multi", 0.1)):
        with pytest.raises(InputError, match="leaves a part empty"):
            texts(labels, kind).split(fraction, seed=0)
    with pytest.raises(InputError, match="1 rows for 3 labels"):
        texts(["a", "b", "c"] * 3).split(0.1, seed=0)
    with pytest.raises(InputError, match="has no label column"):
        Texts([("a",)] * 9, None, "s").split(0.5, seed=0)
    assert [len(part) for part in texts([1.0, 1.0], "regression").split(0.5, seed=0)] == [1, 1]


@pytest.mark.parametrize(
    ("train", "held_out", "told"),
    [
        (texts(["a", "b"]), texts(["a", "c", "d"], source="other"), "other has labels that made up has not: c, d"),
        (texts(["a", "a"]), texts(["a"]), r"made up has one label only \(a\)"),
        (texts([1.0, 1.0], "regression"), texts([1.0], "regression"), r"one number only \(1.0\)"),
        (texts([(), ()], "multi"), texts([()], "multi"), "no row with a label"),
        (texts([("a",), ()], "multi"), texts([("b",)], "multi"), "has not: b"),
        (texts(["a", "b"]), texts([]), "has no rows"),
        (texts([]), texts(["a"]), "has no rows"),
        (texts(["a", "b"]), texts([1.0], "regression"), "single labels, made up regression labels"),
        (texts(["a", "b"]), Texts([("a",)], None, "other"), "other has no label column"),
        (texts(["a", "b"]), Texts([("a", "b")], ["a"], "other"), "other has pairs, made up single texts"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(train, held_out, told):
    with pytest.raises(InputError, match=told):
        check_labels(train, held_out)
