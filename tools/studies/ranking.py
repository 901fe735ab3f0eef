"""`python -m tools.studies.ranking FULL PAIRS --bundle BUNDLE`: ranked lists of a compressed cross-encoder.

FULL is a classifier folder with one output that takes pairs, PAIRS a file with text and text_pair (and label, of
which 1 marks true partners). The first text of a true pair is a query. Its candidates are second texts: its partner,
and those of other rows that are nearest by TF-IDF, as a first stage of a search would find them. Each model ranks
them by its score; the lists of a bundle are compared with those of the full model.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from bench.measure.accuracy.difference import mean_interval
from bench.measure.accuracy.evaluate import bundle_logits, classifier_logits, read_task
from bench.measure.latency.timing import machine_card
from models.data.columns import Columns
from models.data.texts import Texts, read_texts
from models.errors import InputError
from models.store.atomic import write_text
from models.tokenizer import Row
from service.model.bundle import Bundle

Scores = NDArray[np.float32]  # (queries, candidates); the first candidate is the query's partner


@dataclass(frozen=True, slots=True)
class Searches:
    """Queries with their candidates, as the rows that a model scores."""

    rows: list[Row]
    documents: int  # candidates of a query

    def shaped(self, logits: NDArray[np.float32]) -> Scores:
        """Return the scores of each query's candidates."""
        return logits[:, 0].reshape(-1, self.documents)


def make_searches(pairs: Texts, queries: int, documents: int, seed: int) -> Searches:
    """Draw queries, and find for each its partner and the nearest second texts of other rows."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not pairs.pair or documents > len(pairs.rows):
        raise InputError(f"{pairs.source}: pairs are wanted, and more rows than --documents")
    first, second = [row[0] for row in pairs.rows], [row[1] for row in pairs.rows]
    vectorizer = TfidfVectorizer(sublinear_tf=True).fit(first + second)
    near = (vectorizer.transform(first) @ vectorizer.transform(second).T).toarray()
    true = np.arange(len(first))
    if pairs.labels is not None:
        true = np.flatnonzero(np.array([float(str(label)) for label in pairs.require_labels()]) > 0)
    rows: list[Row] = []
    for query in np.sort(np.random.default_rng(seed).permutation(true)[:queries]):
        others = [
            one for one in np.argsort(-near[query], kind="stable") if one != query and second[one] != second[query]
        ]
        rows += [(first[query], second[one]) for one in [query, *others[: documents - 1]]]
    return Searches(rows, documents)


def compare_rankings(full: Scores, ours: Scores, k: int) -> dict[str, Any]:
    """Return how alike the first `k` of each list are, and where the partner stands in both."""
    orders = [np.argsort(-scores, axis=1, kind="stable")[:, :k] for scores in (full, ours)]
    shared = np.array([len(np.intersect1d(*lists)) / k for lists in zip(*orders, strict=True)])
    reciprocal = [1 / _places(scores) for scores in (full, ours)]
    lost = reciprocal[0] - reciprocal[1]
    return {
        "overlap": round(float(shared.mean()), 4), "overlap_interval": _rounded(mean_interval(shared)),
        "same_set": round(float((shared == 1).mean()), 4),
        "same_order": round(float((orders[0] == orders[1]).all(axis=1).mean()), 4),
        "same_first": round(float((orders[0][:, 0] == orders[1][:, 0]).mean()), 4),
        "partner_first": [round(float((places == 1).mean()), 4) for places in reciprocal],
        "mrr": [round(float(places.mean()), 4) for places in reciprocal],
        "mrr_lost": round(float(lost.mean()), 4), "mrr_lost_interval": _rounded(mean_interval(lost)),
    }  # fmt: skip


def _places(scores: Scores) -> NDArray[np.float64]:
    """Return the place of each partner, from 1; texts with the same score share the worst place of theirs."""
    return (scores >= scores[:, :1]).sum(axis=1).astype(np.float64)


def _rounded(interval: tuple[float, float]) -> list[float]:
    return [round(value, 4) for value in interval]


def main(  # noqa: PLR0913  # its options
    full: Annotated[Path, typer.Argument(help="classifier folder of the full model")],
    data: Annotated[str, typer.Argument(metavar="PAIRS", help="rows with text and text_pair")],
    bundle: Annotated[list[Path], typer.Option(help="compressed model; may be repeated")],
    queries: Annotated[int, typer.Option(min=1)] = 200,
    documents: Annotated[int, typer.Option(min=2, help="candidates of a query")] = 30,
    k: Annotated[int, typer.Option(min=1, help="places of a list that are compared")] = 10,
    seed: int = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file of the results; default: stdout only")] = None,
) -> None:
    """Rank the candidates by the full model and by each bundle, and compare the lists."""
    task = read_task(full)
    if len(task.labels) != 1 or not task.pair:
        raise InputError(f"{full}: a model of pairs with one output is wanted")
    searches = make_searches(read_texts(data, Columns(), task.kind), queries, documents, seed)
    scores = searches.shaped(classifier_logits(full, searches.rows, task))
    result: dict[str, Any] = {
        "queries": len(scores), "documents": documents, "k": k, "seed": seed, "machine": machine_card(),
        "bundles": {},
    }  # fmt: skip
    for path in bundle:
        ours = searches.shaped(bundle_logits(path, searches.rows))
        opened = Bundle.open(path)
        result["bundles"][path.name] = {
            "id": opened.id, "speedup": (opened.report() or {}).get("speedup"), **compare_rankings(scores, ours, k),
        }  # fmt: skip
    if out is not None:
        write_text(out, json.dumps(result, indent=2) + "\n")
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    typer.run(main)
