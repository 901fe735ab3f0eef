"""The study of gates: each feature, target and threshold is measured on the same rows, the bound on new splits."""

import numpy as np
from bundles import make_tiny_bundle
from films import film_texts

from compress.cascade.add_gate import CascadeModels
from compress.cascade.cascade_answers import Student
from compress.cascade.threshold import GateRows, path_of
from models.data.texts import Texts
from service.model.bundle import Bundle
from tools.studies.cascade_ablation import answerable, class_path_of, draws, open_study, run_study


def test_the_study_compares_features_targets_and_thresholds_and_checks_the_bound(tmp_path):
    student = Student(Bundle.open(make_tiny_bundle(tmp_path)))
    extra = Texts(film_texts(50, 4).rows, None, "extra")
    parts = (film_texts(150, 2), film_texts(150, 3))
    study = open_study(CascadeModels(student, None, tmp_path), film_texts(200, 1), parts, extra)
    found = run_study(study, (5.0,), "student", count=4, seed=0)
    pairs = [(one["features"], one["targets"]) for one in found["gates"]]
    assert ("tokens", "labels and scores") in pairs
    assert ("tokens, bigrams and trigrams", "labels and scores") in pairs
    assert {targets for _, targets in pairs} == {
        "labels", "scores", "labels and scores", "labels and scores and extra texts"
    }  # fmt: skip
    for one in found["gates"]:
        assert {"threshold: one", "threshold: one for each label", "accuracy", "answerable"} <= one.keys()
    (checked,) = [one["splits"]["5"] for one in found["gates"] if "splits" in one]
    assert checked["splits"] == 4
    assert checked["above_max_loss"] <= checked["with_a_gate"] <= 4
    (drawn,) = [one["draws"]["5"] for one in found["gates"] if "draws" in one]
    assert drawn["above_max_loss"] <= drawn["with_a_gate"] <= drawn["draws"] == 4


def test_of_cascades_from_drawn_rows_at_most_5_in_100_lose_more_than_was_allowed():
    generator = np.random.default_rng(2)
    truth, confidence = np.zeros(5000, dtype=np.int64), generator.random(5000)
    label = (generator.random(5000) < 0.06 * (1 - confidence)).astype(np.int64)  # unsure answers are more often wrong
    rows = GateRows(label, confidence, truth, truth, truth)
    found = draws(rows, 600, path_of(generator.random(1000)), 1.0, 400)
    assert found["with_a_gate"] == 400
    assert 0 < found["above_max_loss"] <= 0.08 * 400  # 5 in 100, and the luck of 400 draws
    assert 0.3 < found["mean_loss_points"] < 1


def test_the_answerable_share_is_that_of_the_most_confident_rows():
    truth = np.zeros(100, dtype=np.int64)
    label = np.where(np.arange(100) < 60, 0, 1)  # the 60 most confident ones are right
    rows = GateRows(label, np.linspace(1, 0.5, 100), truth, truth, truth)
    assert answerable(rows) == {"99%": 0.6, "98%": 0.61, "97%": 0.61}


def test_a_path_by_label_never_becomes_stricter():
    generator = np.random.default_rng(0)
    label, confidence = generator.integers(0, 4, 2000), generator.uniform(0.5, 1, 2000)
    path = np.array(class_path_of(label, confidence, generator.random(2000) < confidence, 4))
    assert path.shape[1] == 4
    assert (np.diff(path, axis=0) <= 0).all()
    answered = (confidence >= path[:, label]).mean(axis=1)
    assert answered[0] < 0.1 < answered[-1]
