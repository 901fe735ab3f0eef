"""`python -m tools.teacher_ablation NAME --train F --validation F --test F --teacher A --teacher B --teacher C`.

Trains one encoder from labels only, from teachers only, and from both; from one teacher and from all of them; with
and without further texts (`--texts`). Each way is trained with the same seeds and compared with labels only, paired
by seed and by row (`tools.compare_seeds`). The result is written to docs/results/teachers/NAME.json. An interrupted
run continues where it stopped, because the store has the finished models.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from bench.measure.accuracy.difference import right
from bench.measure.accuracy.evaluate import answer, read_task
from bench.measure.latency.timing import machine_card
from models.data.texts import Texts, read_texts
from models.errors import InputError
from models.messages import say
from models.store.atomic import write_text
from prunella.api import finetune
from prunella.cli.options import STORE, Store
from prunella.cli.output import show
from tools.compare_seeds import compare_seeds

RESULTS = Path("docs/results/teachers")
LABELS = "labels only"


def ways(teachers: Sequence[str], texts: str | None, weight: float) -> dict[str, dict[str, Any]]:
    """Return the options of `finetune` for each way; the first is what the others are compared with.

    Args:
        teachers: folders; the first one teaches alone.
        texts: file of further texts; None: the ways with texts are left out.
        weight: of the teachers' answers in the ways that learn from labels too.
    """
    series = {"one teacher": list(teachers[:1])}
    if len(teachers) > 1:
        series[f"{len(teachers)} teachers"] = list(teachers)
    options: dict[str, dict[str, Any]] = {LABELS: {}}
    for more in [None, *([texts] if texts else [])]:
        for name, folders in series.items():
            for sources, share in ((f"{name} only", 1.0), (f"labels and {name}", weight)):
                way = f"{sources}, with texts" if more else sources
                options[way] = {"teacher": folders, "teacher_weight": share, "texts": more}
    return options


def answered(folders: Sequence[str], test: Texts) -> NDArray[np.bool_]:
    """Return which rows each model answers right, (models, rows)."""
    return np.stack([right(*answer(Path(folder), read_task(Path(folder)), test)) for folder in folders])


def study(options: dict[str, dict[str, Any]], shared: dict[str, Any], test: Texts) -> list[dict[str, Any]]:
    """Train the models of each way, and return their scores and their difference from the first way."""
    rows: list[dict[str, Any]] = []
    before: NDArray[np.bool_] | None = None
    for way, own in options.items():
        report = finetune(**shared, **{name: value for name, value in own.items() if value is not None}).report
        after = answered(report["folders"], test)
        before = after if before is None else before
        row = {
            "way": way, "accuracy": after.mean(axis=1).tolist(), "mean": float(after.mean()),
            "deviation": float(after.mean(axis=1).std(ddof=1)), "training_seconds": report["seconds"],
            "steps": report["steps"], "teachers": _named(report.get("teachers", [])),
        }  # fmt: skip
        if way != LABELS:
            difference = compare_seeds(before, after)
            row |= {"points": difference.mean_points, "points_interval": difference.interval}
            row |= {"is_real": difference.is_real}
        say(f"{way}: {row['mean']:.2%} of {len(test)} rows of {test.source} are answered right")
        rows.append(row)
    return rows


def _named(teachers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the entries of a report, with the names of folders instead of paths."""
    return [{**entry, "teacher": Path(entry["teacher"]).name} for entry in teachers]


def main(  # noqa: PLR0913
    name: Annotated[str, typer.Argument(help="name of the result, such as trec")],
    train: Annotated[str, typer.Option(help="labelled rows")],
    validation: Annotated[str, typer.Option(help="labelled rows that choose the step")],
    test: Annotated[str, typer.Option(help="labelled rows that are reported")],
    teacher: Annotated[list[str], typer.Option(help="a teacher's folder; the first one teaches alone too")],
    texts: Annotated[str | None, typer.Option(help="further texts without labels")] = None,
    nearest: Annotated[int | None, typer.Option(help="take only so many of --texts, the nearest")] = None,
    encoder: Annotated[str, typer.Option(help="the student")] = "builtin:minilm-l6",
    weight: Annotated[float, typer.Option(help="weight of the teachers beside the labels")] = 0.5,
    seeds: Annotated[int, typer.Option(min=2, help="models of each way")] = 3,
    epochs: Annotated[int | None, typer.Option(help="passes over the rows; default: chosen from the data")] = None,
    max_tokens: Annotated[int, typer.Option(help="longest text in tokens")] = 128,
    results: Annotated[Path, typer.Option(help="folder of the result")] = RESULTS,
    store: Store = STORE,
) -> None:
    """Measure what labels, teachers and further texts contribute to a student."""
    if Path(name).name != name:
        raise InputError(f"{name!r} is not a name: wanted one such as trec, --results chooses the folder")
    rows = read_texts(test)
    shared = {
        "train": train, "validation": validation, "encoder": encoder, "seeds": seeds, "max_tokens": max_tokens,
        "store": store, **({"epochs": epochs} if epochs is not None else {}),
    }  # fmt: skip
    options = ways(teacher, texts, weight)
    for one in options.values():
        if one.get("texts") and nearest is not None:
            one["nearest"] = nearest
    rows_of_ways = study(options, shared, rows)
    document = {
        "name": name, "encoder": Path(encoder).name, "seeds": seeds, "test_rows": len(rows), "weight": weight,
        "teachers": [Path(one).name for one in teacher], "texts": Path(texts).name if texts else None,
        "nearest": nearest, "machine": machine_card(), "ways": rows_of_ways,
    }  # fmt: skip
    results.mkdir(parents=True, exist_ok=True)
    write_text(results / f"{name}.json", json.dumps(document, indent=2) + "\n")
    show({"verb": "teacher_ablation", "result": str(results / f"{name}.json"), **document})


if __name__ == "__main__":
    typer.run(main)
