"""A method that people would use instead of Prunella, in a process of its own: trains, then answers texts one by one.

`python tools/alternatives/worker.py METHOD TRAIN TEST ENCODER OUT` is started by `tools/alternatives/compare.py`, in
an environment that has the method's package and need not have Prunella: `pip install 'model2vec[distill]'
fasttext-community setfit scikit-learn`. TRAIN and TEST are JSONL files with text and label, ENCODER is a
sentence-transformers folder, OUT a folder for the model's files. The first line on stdout has accuracy and size; then
each line on stdin (a JSON list of row numbers) is answered by a line with the seconds from each text to its label.
"""

import json
import os
import pickle
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

SHOTS = 16  # labelled rows of a class for SetFit
PAIRS = 20  # of SetFit, for each of these rows: its default number of iterations in the paper (Tunstall et al. 2022)
SEED = 0
Predict = Callable[[str], str]


def tfidf(rows: Sequence[dict[str, str]], encoder: str, out: Path) -> Predict:
    """TF-IDF of words and bigrams, logistic regression."""
    del encoder
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    pipeline = make_pipeline(vectorizer, LogisticRegression(C=10.0, max_iter=1000))
    pipeline.fit([row["text"] for row in rows], [row["label"] for row in rows])
    (out / "model.pkl").write_bytes(pickle.dumps(pipeline))
    return lambda text: str(pipeline.predict([text])[0])


def fasttext(rows: Sequence[dict[str, str]], encoder: str, out: Path) -> Predict:
    """The classifier of fastText, with bigrams; lower case, punctuation apart from the words."""
    del encoder
    import re

    import fasttext as library

    def clean(text: str) -> str:
        return re.sub(r"([^\w\s])", r" \1 ", text.lower()).replace("\n", " ")

    labels = sorted({row["label"] for row in rows})
    lines = [f"__label__{labels.index(row['label'])} {clean(row['text'])}" for row in rows]
    (out.with_suffix(".txt")).write_text("\n".join(lines) + "\n", encoding="utf-8")
    model = library.train_supervised(
        str(out.with_suffix(".txt")), epoch=25, lr=0.5, wordNgrams=2, dim=50, bucket=200_000, thread=1, verbose=0
    )
    model.save_model(str(out / "model.bin"))
    return lambda text: labels[int(model.predict(clean(text))[0][0].removeprefix("__label__"))]


def model2vec(rows: Sequence[dict[str, str]], encoder: str, out: Path) -> Predict:
    """A static model distilled from the encoder, logistic regression on its embeddings."""
    from model2vec import StaticModel
    from model2vec.distill import distill
    from sklearn.linear_model import LogisticRegression

    static = out.parent.parent / "static"  # it does not depend on the rows
    model = StaticModel.from_pretrained(str(static)) if static.is_dir() else distill(encoder, pca_dims=256)
    model.save_pretrained(str(static))
    classifier = LogisticRegression(C=10.0, max_iter=2000)
    classifier.fit(model.encode([row["text"] for row in rows]), [row["label"] for row in rows])
    model.save_pretrained(str(out))
    (out / "head.pkl").write_bytes(pickle.dumps(classifier))
    return lambda text: str(classifier.predict(model.encode([text]))[0])


def setfit(rows: Sequence[dict[str, str]], encoder: str, out: Path) -> Predict:
    """SetFit's recipe: the encoder fine-tuned on pairs of a few rows of each class, logistic regression on top."""
    import random

    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    by_label: dict[str, list[dict[str, str]]] = {}
    for row in random.Random(SEED).sample(list(rows), len(rows)):
        by_label.setdefault(row["label"], []).append(row)
    few = [row for group in by_label.values() for row in group[:SHOTS]]
    model = SetFitModel.from_pretrained(encoder, labels=sorted(by_label), local_files_only=True)
    arguments = TrainingArguments(
        output_dir=str(out.with_name("setfit-run")), batch_size=16, num_epochs=1, num_iterations=PAIRS, seed=SEED,
        report_to="none", save_strategy="no", show_progress_bar=False,
    )  # fmt: skip
    data = Dataset.from_list([{"text": row["text"], "label": row["label"]} for row in few])
    Trainer(model=model, args=arguments, train_dataset=data).train()
    model.save_pretrained(str(out))
    return lambda text: str(model.predict([text])[0])


PACKAGES = {
    "tfidf": ("scikit-learn",), "fasttext": ("fasttext-community",), "model2vec": ("model2vec", "scikit-learn"),
    "setfit": ("setfit", "sentence-transformers", "torch"),
}  # fmt: skip
METHODS: dict[str, Any] = {"tfidf": tfidf, "fasttext": fasttext, "model2vec": model2vec, "setfit": setfit}


def main() -> None:
    """Train, report, and answer until stdin ends."""
    method, train, test, encoder, out = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between the answers
    folder = Path(out)
    folder.mkdir(parents=True)
    rows, held_out = (
        [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()] for path in (train, test)
    )
    start = time.perf_counter()
    predict: Predict = METHODS[method](rows, encoder, folder)
    trained = time.perf_counter() - start
    correct = sum(predict(row["text"]) == row["label"] for row in held_out)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    versions = {package: version(package) for package in PACKAGES[method]}
    report = {
        "accuracy": correct / len(held_out), "bytes": size, "train_seconds": round(trained, 1), "versions": versions,
    }  # fmt: skip
    answers.write(json.dumps(report) + "\n")
    answers.flush()
    for line in sys.stdin:
        seconds = []
        for number in json.loads(line):
            begun = time.perf_counter()
            predict(held_out[number]["text"])
            seconds.append(time.perf_counter() - begun)
        answers.write(json.dumps(seconds) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
