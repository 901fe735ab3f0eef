"""tfidf_engine(): the simple baseline that an encoder must beat: TF-IDF of words and bigrams with a linear model."""

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.measure.engine_spec import EngineSpec, OpenEngine
from models.task import EVEN, Task
from models.tokenizer import Row

MARGIN = 1e-6  # probabilities are clipped to [MARGIN, 1 - MARGIN], so that their logits are finite


def tfidf_engine(spec: EngineSpec) -> OpenEngine:
    """Train the engine on `spec.train`; it returns logits (rows, labels) of `spec.task`."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline

    assert spec.train is not None, "engine_specs() makes sure of it"
    targets, task = spec.train.targets(spec.task), spec.task
    pipeline = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2 if len(targets) > 500 else 1),
        _estimator(task),
    ).fit([" ".join(row) for row in spec.train.rows], targets)

    def prepare(rows: Sequence[Row], tokens: int | None) -> list[str]:
        del tokens  # the model reads words: it has no length in tokens
        return [" ".join(row) for row in rows]

    return OpenEngine(prepare, _answer(pipeline, task), len(pickle.dumps(pipeline)), batch_dependent=False)


def _estimator(task: Task) -> Any:
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.multiclass import OneVsRestClassifier

    if task.kind == "regression":
        return Ridge()
    classifier = LogisticRegression(C=10.0, max_iter=1000)
    return OneVsRestClassifier(classifier) if task.kind == "multi" else classifier


def _answer(pipeline: Any, task: Task) -> Callable[[list[str]], NDArray[np.float32]]:
    def numbers(texts: list[str]) -> NDArray[np.float32]:
        return np.asarray(pipeline.predict(texts), dtype=np.float32)[:, None]

    def labels(texts: list[str]) -> NDArray[np.float32]:
        # the task's thresholds were chosen for the encoder: shift the logits so that a probability of 0.5 meets them
        shift = _logit(np.array(task.thresholds or [EVEN] * len(task.labels)))
        # for a task of one label scikit-learn returns two columns: without the label, and with it
        probabilities = pipeline.predict_proba(texts)[:, -len(task.labels) :]
        return np.asarray(_logit(probabilities) + shift, dtype=np.float32)

    def label(texts: list[str]) -> NDArray[np.float32]:
        scores = np.full((len(texts), len(task.labels)), -1e9, dtype=np.float32)
        scores[:, pipeline.classes_] = pipeline.predict_log_proba(texts)
        return scores

    return {"single": label, "multi": labels, "regression": numbers}[task.kind]


def _logit(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    clipped = np.clip(probability, MARGIN, 1 - MARGIN)
    return np.asarray(np.log(clipped / (1 - clipped)))
