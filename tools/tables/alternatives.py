"""alternatives_table(): the measured rows of docs/compare.md, from archived runs of tools.alternatives.compare."""

import json
from pathlib import Path
from typing import Any

from bench.report.markdown import table

TITLES = {
    "prunella": "**Prunella**",
    "tfidf": "TF-IDF, logistic regression",
    "fasttext": "fastText, bigrams",
    "model2vec": "model2vec, distilled from MiniLM-L6, logistic regression",
    "setfit": "SetFit on MiniLM-L6, 16 rows of each class",
}


HEADS = ["", "accuracy", "ms from a text to its label, median", "MB", "training, s"]


def alternatives_table(folder: Path) -> str:
    """Return a Markdown table for each run in `folder`, SET.json, with what it was measured on."""
    runs = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    return "\n\n".join(f"`{name}`: {_sentence(run)}\n\n{table(HEADS, _rows(run))}" for name, run in runs.items())


def _rows(run: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, one in sorted(run["methods"].items(), key=lambda item: list(TITLES).index(item[0])):
        trained = one.get("train_seconds")
        rows.append([
            TITLES[name], f"{one['accuracy']:.1%}", f"{one['p50_ms']:.2f}", f"{one['bytes'] / 1e6:.1f}",
            "not counted" if trained is None else f"{trained:.0f}",
        ])  # fmt: skip
    return rows


def _sentence(run: dict[str, Any]) -> str:
    machine = run["machine"]
    versions = {name: value for one in run["methods"].values() for name, value in one.get("versions", {}).items()}
    packages = ", ".join(f"{name} {value}" for name, value in sorted(versions.items()))
    return (
        f"{run['train_rows']:,} rows to train on, {run['test_rows']:,} rows for the accuracy. "
        f"{machine['processor']}, one core, load average {machine['load_average']:.1f} at the end; {packages}."
    )
