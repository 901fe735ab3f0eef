"""The command `prunella cascade`."""

from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from models.errors import InputError, NoEffectError
from prunella.cli.options import STORE, LabelColumn, Labels, Out, Store, TextColumn, read_columns
from prunella.cli.output import need, show

if TYPE_CHECKING:
    from service.model.bundle import Bundle

Folder = Annotated[Path, typer.Argument(help="folder of the bundle that gets the gate")]
Train = Annotated[str, typer.Option(help="texts from which the gate learns (CSV, TSV, JSONL, Parquet); labels help")]
Validation = Annotated[
    str, typer.Option(help="labelled rows that nothing was trained or chosen on: they decide the threshold")
]
ExtraTexts = Annotated[str | None, typer.Option(help="further texts to learn from, without labels")]
Test = Annotated[str | None, typer.Option(help="labelled rows on which losses and times are reported")]
Model = Annotated[
    Path | None,
    typer.Option(
        help="the unpruned classifier: the gate learns from its answers, and losses and times are reported against "
        "it; default: found in --store, else the bundle's own model takes its place"
    ),
]
MaxLoss = Annotated[float, typer.Option(help="points of accuracy that may be lost, with 95 % confidence")]
Against = Annotated[
    Literal["student", "model"],
    typer.Option(help="what --max-loss is counted against: the bundle's own model, or the unpruned one"),
]
Megabytes = Annotated[float, typer.Option(min=0.01, max=64, help="limit of the gate's size")]
Seed = Annotated[int, typer.Option(min=0, help="seed of all random choices")]


def learn_cascade(
    bundle: Folder,
    train: Train,
    validation: Validation,
    texts: ExtraTexts = None,
    test: Test = None,
    model: Model = None,
    max_loss: MaxLoss = 0.5,
    against: Against = "student",
    megabytes: Megabytes = 4.0,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    labels: Labels = None,
    seed: Seed = 0,
    store: Store = STORE,
    out: Out = None,
) -> dict[str, Any]:
    """Give a bundle a gate: a linear model that answers easy texts in microseconds, before the bundle's model.

    The threshold is the loosest one of which the rows of --validation show that the cascade loses at most --max-loss
    points.

    Returns:
        The keys of the command's last line: `folder`, `id` and `cascade`. Where no threshold qualifies, `cascade` is
        None, `cascade_problem` says why, and `folder` is the bundle that was given.
    """
    need("torch", "train")
    from compress.cascade.add_gate import CascadeConfig, CascadeTexts, add_gate, check_task
    from compress.cascade.learn_gate import LearnConfig
    from models.data.texts import Texts, read_texts
    from models.schema import wrong_values
    from models.store.results import deliver
    from service.model.bundle import Bundle

    opened = Bundle.open(bundle)
    check_task(opened.task, bundle)  # before its labels are looked for in the files
    with wrong_values():
        config = CascadeConfig(
            max_loss=max_loss, against="student" if against == "student" else "full model", seed=seed,
            learn=LearnConfig(bytes=int(megabytes * 2**20), seed=seed),
        )  # fmt: skip
    columns, kind = read_columns(text_column, "text_pair", label_column, labels), opened.task.kind

    def read(source: str | None) -> Texts | None:
        return None if source is None else read_texts(source, columns, kind)

    extra = None if texts is None else read_texts(texts, columns.unlabelled(), kind)
    rows = CascadeTexts(read_texts(train, columns, kind), read_texts(validation, columns, kind), read(test), extra)
    cascade = add_gate(opened.folder, rows, model or _full_model(opened, store), config, store)
    if cascade.result is None:
        return {"folder": str(bundle), "id": opened.id, "reused": False, **cascade.summary}
    delivered = deliver(cascade.result, out)
    return {"folder": delivered.folder, "id": delivered.id, "reused": delivered.reused, **cascade.summary}


@wraps(learn_cascade, assigned=("__annotations__",))
def cascade(**options: Any) -> None:
    """Give a bundle a gate: a linear model that answers easy texts in microseconds, before the bundle's model.

    The threshold is the loosest one of which the rows of --validation show that the cascade loses at most --max-loss
    points. Exit code 1: there is no such threshold, and no bundle is written.
    """
    result = learn_cascade(**options)
    show({"verb": "cascade", **result})  # printed before the command fails
    if result["cascade"] is None:
        raise NoEffectError(f"the bundle gets no gate: {result['cascade_problem']}")


def _full_model(bundle: "Bundle", store: Path) -> Path | None:
    """Return the classifier that the bundle was made from, if the store has it."""
    from bench.engines.reference import find_reference

    try:
        return find_reference(bundle, store).path
    except InputError:
        return None
