"""`python -m compress.ablation MODEL --train F --validation F --test F`: what each part of pruning is worth.

One budget of time, read from the latency table and not timed anew, so that every student may spend the same. Each
part is left out in turn, or replaced by something simpler, before healing and after it, and the student is held
against the whole on the same test rows. `python -m bench.record ablation/NAME python -m compress.ablation …` keeps
what it tells.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from bench.accuracy import compare, mean_interval
from bench.compression_table import students_table
from bench.judging import judge
from compress.analysis import Analysis, AnalysisConfig, Order
from compress.budget import BudgetTable, widths
from compress.config import CompressConfig
from compress.distill import DistillConfig
from compress.divergence import divergence
from compress.healing import copy_texts, heal, open_classifier
from compress.pipeline import prepare
from compress.prune import Prepared, Pruner
from compress.search import Plan, choose, make_frontier
from compress.source import Inputs, check_inputs, open_source, source_kind
from compress.target import Target
from export.precision import KINDS, Kind, LayerPrecision, Precision
from models.architecture import Architecture
from models.checkpoint import read_architecture, save_checkpoint
from models.console import STORE, Store, say, show
from models.data.texts import Texts, read_texts
from models.errors import InputError, TargetError
from models.folder import ModelFolder
from models.record import Record
from models.stage import Stage, run_stage
from models.task import FILE, Task
from models.train.predict import predict

VERSION = 1
WHOLE = "all of it"


class Variant(Record):
    """Pruning as it is, or with a part replaced."""

    order: Order = "obs"  # by which heads and neurons go
    correct: bool = True  # what stays makes up for what goes, matrix by matrix
    refit: bool = True  # the cut model is fitted to the full one's residual stream
    layers: Literal["free", "kept", "alike"] = "free"  # kept: no sublayer goes as a whole; alike: one width for all
    kinds: tuple[Kind, ...] = KINDS  # that the search may compute a sublayer in
    states: bool = True  # hidden states are learned in healing, too


UNHEALED = {
    WHOLE: Variant(),
    "order: Fisher": Variant(order="fisher"),
    "order: random": Variant(order="random"),
    "matrices not corrected": Variant(correct=False),
    "no refit": Variant(refit=False),
    "neither": Variant(correct=False, refit=False),
    "no sublayer dropped": Variant(layers="kept"),
    "all layers alike": Variant(layers="alike"),
    "int8 only": Variant(kinds=("int8",)),
    "fp32 only": Variant(kinds=("fp32",)),
}
HEALED = {name: UNHEALED[name] for name in (WHOLE, "order: random", "neither", "all layers alike")} | {
    "answers only, no states": Variant(states=False)
}


class Row(Record):
    """One student on the test rows. Differences are from the student with every part, healed or not as this one."""

    name: str
    healed: bool
    shape: str  # heads/neurons of each layer
    accuracy: float  # 0 to 1, computed in fp32
    points: float  # of accuracy that the whole has more
    points_interval: tuple[float, float]  # 95 %
    divergence: float  # Kullback-Leibler from the full model's answers, mean
    more_divergence: float
    more_divergence_interval: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Ablation:
    """What all students share."""

    inputs: Inputs
    test: Texts
    speedup: float  # over the full model in fp32, by the table
    analysis: AnalysisConfig
    heal: DistillConfig
    store: Path

    def student(self, variant: Variant, healed: bool) -> ModelFolder:
        """Return the student of a variant.

        Raises:
            TargetError: no shape of its kind is that fast.
        """
        told = variant.model_dump(include={"order", "correct"})
        lessons = self.heal if variant.states else self.heal.model_copy(update={"hidden_weight": 0.0})
        config = CompressConfig(
            analysis=self.analysis.model_copy(update=told), refit=variant.refit, heal=lessons if healed else None
        )
        ready = prepare(self.inputs, config, self.store)
        settings = {
            **variant.model_dump(mode="json", exclude={"states"}),
            "speedup": self.speedup,
            "served": self.inputs.validation.sha256,
        }
        cut = run_stage(
            Stage("ablate", VERSION, settings), [ready.base, ready.analysis], self.store,
            lambda folder: self._cut(variant, ready, config, folder),
        ).folder  # fmt: skip
        if not healed:
            return cut
        assert ready.teacher is not None
        return heal(cut, ready.teacher, config, self.store).folder

    def _cut(self, variant: Variant, ready: Prepared, config: CompressConfig, folder: Path) -> None:
        pruner = Pruner(Target(kind="speedup", value=self.speedup), ready, config, self.store)
        full = pruner.model.architecture
        table = pruner.latency_table(full)
        budget = table.total(full, Precision.all_fp32(full)) / self.speedup
        plan = choose_plan(variant, full, pruner.analysis, table, budget)
        save_checkpoint(pruner.fitted_to(plan.architecture), pruner.task, folder)
        copy_texts(ready.base, pruner.task, folder)

    def logits(self, folder: ModelFolder) -> torch.Tensor:
        """Return a model's answers to the test rows, (rows, labels)."""
        model, _, tokenizer = open_classifier(folder)
        return torch.from_numpy(predict(model, tokenizer.encode(self.test.rows), tokenizer))


def choose_plan(variant: Variant, full: Architecture, analysis: Analysis, table: BudgetTable, budget: float) -> Plan:
    """Return the best plan of the variant's kind within `budget` seconds a text.

    Raises:
        TargetError: there is none.
    """
    costs = analysis.costs
    if variant.layers == "kept":
        costs = {name: {width: cost for width, cost in found.items() if width} for name, found in costs.items()}
    if variant.layers == "alike":
        found = _best_alike(variant, full, analysis, table, budget)
    else:
        found = choose(full, make_frontier(full, costs, analysis.rounding, table, variant.kinds), table, budget)
    if found is None:
        raise TargetError(f"no shape takes {budget * 1e3:.3g} ms a text")
    return found


def _best_alike(
    variant: Variant, full: Architecture, analysis: Analysis, table: BudgetTable, budget: float
) -> Plan | None:
    """Return the plan with the least costs of those in which all layers have one width of each sublayer."""
    best, least = None, np.inf
    for plan in _alike(variant, full):
        layer = plan.architecture.layers[0]
        width = {"attention": layer.heads, "ffn": layer.ffn}
        cost = sum(found[width[name.split(".")[1]]] for name, found in analysis.costs.items())
        if plan.precision != Precision.all_fp32(full):
            cost += sum(analysis.rounding.values())
        if table.total(plan.architecture, plan.precision) <= budget and cost < least:
            best, least = plan, cost
    return best


def _alike(variant: Variant, full: Architecture) -> Iterator[Plan]:
    heads, neurons, count = *widths(full), len(full.layers)
    for kind in variant.kinds:
        precision = Precision(layers=(LayerPrecision(attention=kind, ffn=kind),) * count)
        for h in heads:
            for n in neurons:
                yield Plan(full.with_layers([(h, n)] * count), precision)


def ablate(asked: Ablation) -> Iterator[Row]:
    """Yield a row for each student; the whole comes first, before healing and after.

    Raises:
        TargetError: pruning with every part does not reach the budget.
    """
    task = Task.read(asked.inputs.source.path / FILE)
    truth, full = asked.test.targets(task), asked.logits(asked.inputs.source)
    for healed, variants in ((False, UNHEALED), (True, HEALED)):
        whole: torch.Tensor | None = None
        for name, variant in variants.items():
            try:
                student = asked.student(variant, healed)
            except TargetError as error:
                if whole is None:  # nothing is there to hold the others against
                    raise
                say(f"{name}: {error}")
                continue
            found = asked.logits(student)
            whole = found if whole is None else whole
            shape = read_architecture(student.path).shape()
            told = Row(name=name, healed=healed, shape=shape, **_held_against(task, truth, full, whole, found))
            say(f"{'healed, ' if healed else ''}{name}: {told.accuracy:.2%}, divergence {told.divergence:.4f}")
            yield told


def _held_against(
    task: Task, truth: NDArray[Any], full: torch.Tensor, whole: torch.Tensor, found: torch.Tensor
) -> dict[str, Any]:
    was, now = (np.asarray(task.decide(task.scores(logits.numpy()))) for logits in (whole, found))
    difference = compare(truth, was, now)
    far, further = (divergence(task.kind, logits, full).numpy() for logits in (whole, found))
    return {
        "accuracy": judge(task.kind, truth, now),
        "points": difference.loss_points, "points_interval": difference.loss_interval,
        "divergence": float(further.mean()), "more_divergence": float((further - far).mean()),
        "more_divergence_interval": mean_interval(further - far),
    }  # fmt: skip


def main(
    model: Path,
    train: Annotated[str, typer.Option(help="texts to prune and to heal on")],
    validation: Annotated[str, typer.Option(help="labelled rows of the length that is served")],
    test: Annotated[str, typer.Option(help="labelled rows that no model has seen")],
    speedup: Annotated[float, typer.Option(help="over the full model in fp32, by the latency table")] = 6.0,
    epochs: Annotated[int, typer.Option(help="of healing")] = 10,
    texts: Annotated[int, typer.Option(help="whose activations correct what stays")] = 1024,
    cost_texts: Annotated[int, typer.Option(help="on which the cost of each width is measured")] = 128,
    store: Store = STORE,
) -> None:
    """Say what each part of pruning is worth for this model. A killed run goes on where it was."""
    kind = source_kind(model)
    if kind == "regression":
        raise InputError("a regression has no right and wrong rows: wanted a model that gives labels")
    rows = read_texts(train, kind=kind)
    source = open_source(model, store, rows.pair)
    inputs = Inputs(source, rows, read_texts(validation, kind=kind))
    check_inputs(inputs)
    training = DistillConfig().training.model_copy(update={"epochs": epochs})
    analysis = AnalysisConfig(texts=texts, cost_texts=cost_texts)
    asked = Ablation(inputs, read_texts(test, kind=kind), speedup, analysis, DistillConfig(training=training), store)
    told_rows = [row.model_dump(mode="json") for row in ablate(asked)]
    say("\n" + students_table(told_rows))
    told = {"verb": "ablation", "model": source.id, "speedup": speedup, "epochs": epochs, "rows": len(asked.test),
            "students": told_rows}  # fmt: skip
    show(told)


if __name__ == "__main__":
    typer.run(main)
