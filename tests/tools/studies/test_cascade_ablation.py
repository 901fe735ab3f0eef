"""The study of gates: each feature, target and threshold is measured on the same rows, the bound on new splits."""

import numpy as np
from bundles import make_tiny_bundle
from films import film_texts

from compress.cascade.add_gate import CascadeModels
from compress.cascade.cascade_answers import Student
from compress.cascade.threshold import GateRows
from models.data.texts import Texts
from service.inference.bundle import Bundle
from tools.studies.cascade_ablation import answerable, class_path_of, open_study, run_study


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
