import warnings
from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats
from sklearn import metrics as sklearn_metrics

from models.errors import CheckError, FolderError, InputError
from models.finetuning.metrics import (
    LOWER_IS_BETTER,
    METRICS,
    check_metric,
    choose_thresholds,
    metric_values,
    score,
    standard_error,
)
from models.task import Task

SINGLE = Task(labels=("a", "b", "c", "never"))
MULTI = Task(kind="multi", labels=("a", "b", "c"), thresholds=(0.25, 0.5, 0.75))
NUMBER = Task(kind="regression", labels=("value",))
RANDOM = np.random.default_rng(7)


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def one_hot(answers, labels) -> np.ndarray:
    return np.eye(labels, dtype=np.float32)[answers]


def multi_label_f1(wanted, given) -> float:
    hits = int((wanted & given).sum())
    return 2 * hits / int(wanted.sum() + given.sum()) if hits else 0.0


def test_single_counted_by_hand():
    targets = np.array([0, 0, 0, 1, 1, 2])
    found = score(SINGLE, targets, one_hot([0, 0, 1, 1, 3, 2], 4))
    assert (found.rows, found.accuracy, found.micro_f1) == (6, 4 / 6, pytest.approx(4 / 6))
    assert found.confusion == ((2, 1, 0, 0), (0, 1, 0, 1), (0, 0, 1, 0), (0, 0, 0, 0))
    a, b, c, never = found.labels
    assert (a.label, a.precision, a.recall, a.f1, a.support) == ("a", 1, pytest.approx(2 / 3), pytest.approx(0.8), 3)
    assert (b.precision, b.recall, b.f1, b.support) == (0.5, 0.5, 0.5, 2)
    assert (c.f1, c.support) == (1, 1)
    assert (never.precision, never.recall, never.f1, never.support) == (0, 0, 0, 0)
    assert found.macro_f1 == pytest.approx((0.8 + 0.5 + 1) / 3)  # over the labels that occur in the targets


def test_matthews_of_two_labels_is_the_correlation():
    targets, answers = RANDOM.integers(0, 2, 200), RANDOM.integers(0, 2, 200)
    found = score(Task(labels=("a", "b")), targets, one_hot(answers, 2))
    assert found.matthews == pytest.approx(np.corrcoef(targets, answers)[0, 1])


def test_multi_by_brute_force():
    targets = (RANDOM.random((50, 3)) < 0.4).astype(np.float32)
    scores = RANDOM.random((50, 3)).astype(np.float32)
    found = score(MULTI, targets, scores)
    given, wanted = scores >= np.array([0.25, 0.5, 0.75]), targets == 1
    single = [multi_label_f1(wanted[:, i], given[:, i]) for i in range(3)]
    assert [label.f1 for label in found.labels] == pytest.approx(single)
    assert found.macro_f1 == pytest.approx(np.mean(single))
    assert found.micro_f1 == pytest.approx(multi_label_f1(wanted, given))
    assert found.subset_accuracy == pytest.approx(
        np.mean([(w == g).all() for w, g in zip(wanted, given, strict=True)])
    )
    assert [label.threshold for label in found.labels] == [0.25, 0.5, 0.75]
    assert [label.support for label in found.labels] == wanted.sum(0).tolist()
    for i, label in enumerate(found.labels):
        assert label.precision == pytest.approx((wanted & given)[:, i].sum() / given[:, i].sum())
        assert label.recall == pytest.approx((wanted & given)[:, i].sum() / wanted[:, i].sum())
    assert found.macro_f1 == pytest.approx(sklearn_metrics.f1_score(targets, given, average="macro"))


def test_multi_with_one_label_and_with_labels_that_nothing_has():
    one = score(Task(kind="multi", labels=("a",)), np.array([[1], [0], [1]]), np.array([[0.9], [0.9], [0.1]]))
    assert (one.labels[0].precision, one.labels[0].recall, one.micro_f1) == (0.5, 0.5, 0.5)
    assert one.subset_accuracy == pytest.approx(1 / 3)
    none = score(Task(kind="multi", labels=("a", "b")), np.zeros((4, 2)), np.zeros((4, 2)))
    assert (none.micro_f1, none.macro_f1, none.subset_accuracy) == (0, 0, 1)
    rare = score(Task(kind="multi", labels=("a", "b")), np.array([[1, 0]] * 3), np.array([[0.9, 0.9]] * 3))
    assert (rare.macro_f1, rare.labels[1].f1) == (1, 0)


def test_regression_by_formula_and_ranks():
    targets, answers = RANDOM.normal(size=80), RANDOM.normal(size=80).astype(np.float32)
    found = score(NUMBER, targets, answers[:, None])
    assert found.pearson == pytest.approx(np.corrcoef(targets, answers)[0, 1])
    ranks = stats.rankdata(targets), stats.rankdata(answers)
    assert found.spearman == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert found.rmse == pytest.approx(np.sqrt(((targets - answers) ** 2).mean()))
    same = score(NUMBER, targets, (3 * targets[:, None] + 1).astype(np.float32))
    assert (same.pearson, same.spearman) == (pytest.approx(1), pytest.approx(1))


@pytest.mark.parametrize("wrong", [0.0, 1e30, 0.1])
def test_answers_that_do_not_vary_give_zero_without_a_warning(wrong):
    constant = np.full((5, 1), wrong)
    for targets, answers in ((np.arange(5.0), constant), (constant[:, 0], np.arange(5.0)[:, None])):
        found = score(NUMBER, targets, answers)
        assert (found.pearson, found.spearman) == (0.0, 0.0)
    nearly = constant.copy()
    nearly[2] = np.nextafter(nearly[2], np.inf)
    assert score(NUMBER, np.arange(5.0), nearly).pearson == 0.0
    assert score(NUMBER, np.array([1.0]), constant[:1]).pearson == 0.0
    assert score(SINGLE, np.array([0, 1, 2]), one_hot([1, 1, 1], 4)).matthews == 0.0
    assert score(SINGLE, np.array([1, 1, 1]), one_hot([1, 1, 1], 4)).matthews == 0.0


def test_what_cannot_be_judged_is_refused():
    with pytest.raises(InputError, match="no rows"):
        score(SINGLE, np.zeros(0, dtype=np.int64), np.zeros((0, 4)))
    with pytest.raises(InputError, match=r"wanted \(3,\) and \(3, 4\)"):
        score(SINGLE, np.array([0, 1, 2]), np.zeros((3, 3)))
    with pytest.raises(InputError, match=r"wanted 0 to 1, as task\.scores"):
        score(MULTI, np.zeros((2, 3)), np.full((2, 3), -4.0))
    with pytest.raises(CheckError, match="1 of 3 answers are not finite"):
        score(SINGLE, np.array([0, 1, 2]), np.array([[0, 1, 0, 0], [0, np.nan, 0, 0], [0, 1, 0, 0]]))
    with pytest.raises(InputError, match=r"wanted \(rows, labels\) twice"):
        choose_thresholds(np.zeros((3, 2)), np.zeros((3, 1)))
    with pytest.raises(CheckError, match="not finite"):
        choose_thresholds(np.ones((1, 1)), np.full((1, 1), np.nan))


@pytest.mark.parametrize("seed", range(20))
def test_thresholds_equal_brute_force(seed):
    random = np.random.default_rng(seed)
    rows, labels = int(random.integers(1, 25)), 4
    targets = (random.random((rows, labels)) < random.random(labels)).astype(np.float32)
    scores = (random.integers(0, 9, (rows, labels)) / 8).astype(np.float32)  # many equal scores
    found = choose_thresholds(targets, scores)
    for i in range(labels):
        wanted = targets[:, i] == 1
        if not wanted.any():
            assert found[i] == 0.5
            continue
        known = sorted({0.0, *scores[:, i].tolist()})
        between = [(low + high) / 2 for low, high in pairwise(known)] + ([0.0] if scores[:, i].min() == 0 else [])
        tried = {t: multi_label_f1(wanted, scores[:, i] >= t) for t in between}
        best = [t for t, f1 in tried.items() if f1 == max(tried.values())]
        assert found[i] == min(best, key=lambda t: (abs(t - 0.5), -t))
    Task(kind="multi", labels=tuple("abcd"), thresholds=found)  # a task takes what is chosen


def test_of_equal_thresholds_the_one_nearest_a_half_is_chosen():
    # the first score finds 1 of 2 with 1 given, all find 2 of 2 with 4 given: F1 is 2/3 both ways
    targets = np.array([[1], [1], [0], [0]])
    assert choose_thresholds(targets, np.array([[0.75], [0.5], [0.5], [0.5]], dtype=np.float32)) == (0.625,)
    assert choose_thresholds(targets, np.array([[1.0], [0.75], [0.75], [0.75]], dtype=np.float32)) == (0.375,)


def test_a_score_is_not_on_its_threshold():
    targets, scores = np.array([[1], [1], [0], [0]]), np.array([[0.9], [0.6], [0.4], [0.1]], dtype=np.float32)
    assert choose_thresholds(targets, scores) == (pytest.approx(0.5),)


def test_chosen_thresholds_are_never_worse_than_a_half():
    targets = (RANDOM.random((300, 5)) < 0.1).astype(np.float32)
    scores = np.clip(targets * 0.1 + RANDOM.random((300, 5)) * 0.3, 0, 1).astype(np.float32)
    labels = tuple("abcde")
    half = score(Task(kind="multi", labels=labels), targets, scores)
    chosen = score(Task(kind="multi", labels=labels, thresholds=choose_thresholds(targets, scores)), targets, scores)
    assert half.macro_f1 == 0
    assert all(label.f1 > 0.3 for label in chosen.labels)


def test_metric_values_by_kind():
    assert {kind: names[0] for kind, names in METRICS.items()} == {
        "single": "accuracy", "multi": "micro_f1", "regression": "spearman",
    }  # fmt: skip
    found = score(NUMBER, np.array([1.0, 2.0]), np.array([[1.0], [4.0]]))
    assert metric_values(found) == pytest.approx({"spearman": 1.0, "pearson": 1.0, "rmse": np.sqrt(2)})
    assert check_metric("multi", None) == "micro_f1"
    assert check_metric("single", "matthews") == "matthews"
    with pytest.raises(InputError, match="unknown metric 'rmse' for a single task; choose from accuracy"):
        check_metric("single", "rmse")
    assert set.union(*map(set, METRICS.values())) >= LOWER_IS_BETTER == {"rmse"}


def test_a_score_is_read_back_from_json():
    found = score(MULTI, np.eye(3), np.eye(3))
    assert type(found).model_validate_json(found.model_dump_json()) == found


def test_a_task_decides_by_kind():
    scores = np.array([[0.25, 0.5, 0.74], [0.2, 0.49, 0.75]], dtype=np.float32)
    assert MULTI.decide(scores).tolist() == [[True, True, False], [False, False, True]]
    plain = Task(kind="multi", labels=("a", "b", "c")).decide(scores)
    assert plain.tolist() == [[False, True, True], [False, False, True]]
    assert plain.dtype == np.bool_
    assert Task(labels=("a", "b", "c")).decide(np.array([[1, 3, 3], [2, 1, 0]], dtype=np.float32)).tolist() == [1, 0]
    assert NUMBER.decide(np.array([[1.5], [-2]], dtype=np.float32)).tolist() == [1.5, -2.0]


def test_thresholds_are_written_and_old_files_are_read(tmp_path):
    path = tmp_path / "task.json"
    MULTI.write(path)
    assert Task.read(path) == MULTI
    old = '{"kind": "multi", "labels": ["a", "b"], "pair": false, "max_tokens": 128}'
    path.write_text(old)
    read = Task.read(path)
    assert read.thresholds is None
    assert read.model_dump_json() == old.replace(": ", ":").replace(", ", ",")  # folders are identified by the dump
    path.write_text(old.replace("128}", '128, "thresholds": [0.5]}'))
    with pytest.raises(FolderError, match="1 thresholds for 2 labels"):
        Task.read(path)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"kind": "multi", "labels": ("a", "b"), "thresholds": (0.5, 1.5)}, "less than or equal to 1"),
        ({"kind": "multi", "labels": ("a", "b"), "thresholds": (0.5, float("nan"))}, "finite"),
        ({"kind": "multi", "labels": ("a", "b"), "thresholds": (-0.1, 0.5)}, "greater than or equal to 0"),
        ({"kind": "single", "labels": ("a", "b"), "thresholds": (0.5, 0.5)}, "thresholds are for multi-label"),
        ({"kind": "multi", "labels": ()}, "one label or more"),
    ],
)
def test_tasks_that_cannot_be_are_refused(settings, told):
    with pytest.raises(ValidationError, match=told):
        Task(**settings)


def test_the_standard_error_is_that_of_drawn_rows():
    draw = np.random.default_rng(0)
    shares = (draw.random((4_000, 250)) < 0.9).mean(1)
    assert standard_error("accuracy", 0.9, 250) == pytest.approx(shares.std(), rel=0.05)
    one = draw.normal(size=(4_000, 250))
    other = 0.8 * one + 0.6 * draw.normal(size=one.shape)
    correlations = [stats.pearsonr(a, b).statistic for a, b in zip(one[:1_000], other[:1_000], strict=True)]
    assert standard_error("pearson", 0.8, 250) == pytest.approx(np.std(correlations), rel=0.1)
    errors = np.sqrt((draw.normal(scale=3, size=one.shape) ** 2).mean(1))
    assert standard_error("rmse", 3.0, 250) == pytest.approx(errors.std(), rel=0.05)
    assert standard_error("micro_f1", 1.0, 10) == standard_error("spearman", -1.0, 10) == 0.0
