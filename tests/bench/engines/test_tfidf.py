"""The simple baseline answers with one logit for each label of the task."""

from pathlib import Path

import numpy as np
import pytest

from bench.engines.tfidf import tfidf_engine
from bench.measure.engine_spec import EngineSpec
from models.data.texts import Texts
from models.task import Task

ROWS = [("good film",), ("bad film",), ("good day",), ("bad day",)]


@pytest.mark.parametrize("labels", [("good",), ("good", "film")])
def test_each_label_of_several_has_its_own_logit(labels):
    task = Task(kind="multi", labels=labels)
    train = Texts(ROWS, [tuple(word for word in row[0].split() if word in labels) for row in ROWS], "texts", "multi")
    engine = tfidf_engine(EngineSpec("tfidf", Path(), task, train=train))
    logits = engine.answer(engine.prepare(ROWS, None))
    assert logits.shape == (len(ROWS), len(labels))
    assert np.array_equal(task.decide(task.scores(logits)), train.targets(task) > 0)
