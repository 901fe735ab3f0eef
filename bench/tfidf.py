"""tfidf_engine(): the simple model that an encoder must beat, TF-IDF of words and pairs of them with a linear one."""

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.engines import EngineSpec, OpenEngine
from models.task import EVEN, Task
from models.tokens import Row

SURE = 1e-6  # probabilities are kept this far from 0 and 1


def tfidf_engine(spec: EngineSpec) -> OpenEngine:
    """Return the engine, trained on `spec.train`; it answers in logits (rows, labels) of `spec.task`."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline

    assert spec.train is not None, "engine_specs() asks for it"
    targets, task = spec.train.targets(spec.task), spec.task
    pipeline = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2 if len(targets) > 500 else 1),
        _learner(task),
    ).fit([" ".join(row) for row in spec.train.rows], targets)

    def prepare(rows: Sequence[Row], tokens: int | None) -> list[str]:
        del tokens  # it reads words, a length in tokens means nothing to it
        return [" ".join(row) for row in rows]

    return OpenEngine(prepare, _answer(pipeline, task), len(pickle.dumps(pipeline)), mates_matter=False)


def _learner(task: Task) -> Any:
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.multiclass import OneVsRestClassifier

    if task.kind == "regression":
        return Ridge()
    one = LogisticRegression(C=10.0, max_iter=1000)
    return OneVsRestClassifier(one) if task.kind == "multi" else one


def _answer(pipeline: Any, task: Task) -> Callable[[list[str]], NDArray[np.float32]]:
    def numbers(texts: list[str]) -> NDArray[np.float32]:
        return np.asarray(pipeline.predict(texts), dtype=np.float32)[:, None]

    def labels(texts: list[str]) -> NDArray[np.float32]:
        # the task's thresholds were chosen for the encoder: moved so that a label is given from one half on
        moved = _logit(np.array(task.thresholds or [EVEN] * len(task.labels)))
        return np.asarray(_logit(pipeline.predict_proba(texts)) + moved, dtype=np.float32)

    def label(texts: list[str]) -> NDArray[np.float32]:
        scores = np.full((len(texts), len(task.labels)), -1e9, dtype=np.float32)
        scores[:, pipeline.classes_] = pipeline.predict_log_proba(texts)
        return scores

    return {"single": label, "multi": labels, "regression": numbers}[task.kind]


def _logit(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    kept = np.clip(probability, SURE, 1 - SURE)
    return np.asarray(np.log(kept / (1 - kept)))
