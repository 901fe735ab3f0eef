"""Answers to the exercises of docs/learn/08_serving.py."""

import shutil

import pytest

from models.errors import CheckError, FolderError
from prunella import Classifier
from tools.course.served import served

pytest_plugins = ["serving"]  # the fixture tiny_bundle
TEXTS = ["good film", "a dull and dreary story with music"]


def test_exercise_1_texts_in_one_request_get_the_scores_that_they_get_alone(tiny_bundle):
    """Otherwise an answer would depend on who else asks at the same time."""
    with served(tiny_bundle) as ask:
        together = ask({"texts": TEXTS})["predictions"]
        alone = [ask({"text": text})["predictions"] for text in TEXTS]
    assert together == [one[0] if isinstance(one[0], list) else one for one in alone]


def test_exercise_2_a_classifier_gives_a_score_for_each_label_and_they_sum_to_one(tiny_bundle):
    answer = Classifier(tiny_bundle)(TEXTS[0])
    assert set(answer.scores) == set(Classifier(tiny_bundle).labels)
    assert sum(answer.scores.values()) == pytest.approx(1.0, abs=1e-6)
    assert answer.label == max(answer.scores, key=answer.scores.get)


def test_exercise_3_a_bundle_with_another_byte_is_refused(tiny_bundle, tmp_path):
    shutil.copytree(tiny_bundle, tmp_path / "copy")
    path = next((tmp_path / "copy" / "onnx").glob("cpu-int8*"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    with pytest.raises(FolderError):
        Classifier(tmp_path / "copy")


def test_a_server_that_does_not_start_is_an_error(tmp_path):
    with pytest.raises(CheckError, match="exit code"), served(tmp_path / "no bundle"):
        pass
