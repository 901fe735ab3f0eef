"""`python -m tools.ablation MODEL --train F --validation F --test F`: an ablation study of pruning.

All students have the same time budget, computed from the latency table and not measured again. Each part of pruning
is left out in turn, or replaced by something simpler, with and without healing, and the student is compared with the
full method on the same test rows. `python -m tools.archive_run ablation/NAME python -m tools.ablation …` stores the
result.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from bench.measure.accuracy.difference import compare, mean_interval
from bench.measure.accuracy.task_metric import metric_value
from compress.config import AnalysisConfig, CompressConfig, DistillConfig, Order
from compress.context import CompressionContext
from compress.healing.heal import heal
from compress.inputs.inputs import CompressionInputs
from compress.inputs.source import check_inputs, open_source, source_kind
from compress.pipeline import prepare
from compress.pruning.analysis import Analysis
from compress.pruning.widths import widths
from compress.search.cost_table import CostTable
from compress.search.knapsack import Plan, choose, make_frontier
from compress.search.prune import Pruner
from compress.search.search_to_target import Target
from export.graph_precision import KINDS, Kind, LayerPrecision, Precision
from models.architecture import Architecture
from models.checkpoint import read_architecture, save_checkpoint
from models.classifier_folder import copy_texts, open_classifier
from models.data.texts import Texts, read_texts
from models.errors import InputError, TargetError
from models.finetuning.predict import predict
from models.messages import say
from models.schema import Record
from models.store.folder import ModelFolder
from models.store.stage import Stage, run_stage
from models.sublayer import SublayerId
from models.task import FILE, Task
from models.train.divergence import divergence
from prunella.cli.options import STORE, Store
from prunella.cli.output import show
from tools.tables.compression import students_table

VERSION = 1
WHOLE = "all of it"


class Variant(Record):
    """The full pruning method, or the method with a part replaced."""

    order: Order = "obs"  # in which heads and neurons are removed
    correct: bool = True  # the remaining weights of each matrix are corrected for the removed ones
    refit: bool = True  # the pruned model is fitted to the residual stream of the full one
    layers: Literal["free", "kept", "alike"] = "free"  # kept: no sublayer is dropped; alike: one width for all layers
    kinds: tuple[Kind, ...] = KINDS  # precisions that the search may choose for a sublayer
    states: bool = True  # healing also distills hidden states


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
    """One student on the test rows. Differences are to the full method, with healing if this one is healed."""

    name: str
    healed: bool
    shape: str  # heads/neurons of each layer
    accuracy: float  # 0 to 1, computed in fp32
    points: float  # of accuracy lost against the full method
    points_interval: tuple[float, float]  # 95 %
    divergence: float  # mean Kullback-Leibler divergence from the full model's answers
    more_divergence: float
    more_divergence_interval: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Ablation:
    """Inputs and settings that all students share."""

    inputs: CompressionInputs
    test: Texts
    speedup: float  # over the full model in fp32, by the latency table
    analysis: AnalysisConfig
    heal: DistillConfig
    store: Path

    def student(self, variant: Variant, healed: bool) -> ModelFolder:
        """Return the student of a variant.

        Raises:
            TargetError: No shape that the variant allows is that fast.
        """
        changes = variant.model_dump(include={"order", "correct"})
        distill = self.heal if variant.states else self.heal.model_copy(update={"hidden_weight": 0.0})
        config = CompressConfig(
            analysis=self.analysis.model_copy(update=changes), refit=variant.refit, heal=distill if healed else None
        )
        ready = prepare(self.inputs, config, self.store)
        settings = {
            **variant.model_dump(mode="json", exclude={"states"}),
            "speedup": self.speedup,
            "served": self.inputs.validation.sha256,
        }
        pruned = run_stage(
            Stage("ablate", VERSION, settings), [ready.base, ready.analysis], self.store,
            lambda folder: self._prune(variant, ready, config, folder),
        ).folder  # fmt: skip
        if not healed:
            return pruned
        assert ready.teacher is not None
        return heal(pruned, ready.teacher, config, self.store).folder

    def _prune(self, variant: Variant, ready: CompressionContext, config: CompressConfig, folder: Path) -> None:
        pruner = Pruner(Target(kind="speedup", value=self.speedup), ready, config, self.store)
        full = pruner.model.architecture
        table = pruner.latency_table(full)
        budget = table.total(full, Precision.all_fp32(full)) / self.speedup
        plan = choose_plan(variant, full, pruner.analysis, table, budget)
        save_checkpoint(pruner.fitted_to(plan.architecture), pruner.task, folder)
        copy_texts(ready.base, pruner.task, folder)

    def logits(self, folder: ModelFolder) -> torch.Tensor:
        """Return a model's logits for the test rows, (rows, labels)."""
        model, _, tokenizer = open_classifier(folder)
        return torch.from_numpy(predict(model, tokenizer.encode(self.test.rows), tokenizer))


def choose_plan(variant: Variant, full: Architecture, analysis: Analysis, table: CostTable, budget: float) -> Plan:
    """Return the best plan that the variant allows within `budget` seconds per text.

    Raises:
        TargetError: There is none.
    """
    costs = analysis.costs
    if variant.layers == "kept":
        costs = {name: {width: cost for width, cost in by_width.items() if width} for name, by_width in costs.items()}
    if variant.layers == "alike":
        plan = _best_alike(variant, full, analysis, table, budget)
    else:
        plan = choose(full, make_frontier(full, costs, analysis.int8_loss, table, variant.kinds), table, budget)
    if plan is None:
        raise TargetError(f"no shape takes {budget * 1e3:.3g} ms a text")
    return plan


def _best_alike(
    variant: Variant, full: Architecture, analysis: Analysis, table: CostTable, budget: float
) -> Plan | None:
    """Return the plan of least cost among those in which all layers have the same number of heads and of neurons."""
    best, least = None, np.inf
    for plan in _alike(variant, full):
        layer = plan.architecture.layers[0]
        width = {"attention": layer.heads, "ffn": layer.ffn}
        cost = sum(by_width[width[SublayerId.parse(name).part]] for name, by_width in analysis.costs.items())
        if plan.precision != Precision.all_fp32(full):
            cost += sum(analysis.int8_loss.values())
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


def ablate(ablation: Ablation) -> Iterator[Row]:
    """Yield a row for each student, without healing and then with it; the full method comes first.

    Raises:
        TargetError: The full method does not reach the budget.
    """
    task = Task.read(ablation.inputs.source.path / FILE)
    truth, full = ablation.test.targets(task), ablation.logits(ablation.inputs.source)
    for healed, variants in ((False, UNHEALED), (True, HEALED)):
        whole: torch.Tensor | None = None
        for name, variant in variants.items():
            try:
                student = ablation.student(variant, healed)
            except TargetError as error:
                if whole is None:  # there is nothing to compare the others with
                    raise
                say(f"{name}: {error}")
                continue
            logits = ablation.logits(student)
            whole = logits if whole is None else whole
            shape = read_architecture(student.path).shape()
            row = Row(name=name, healed=healed, shape=shape, **_compared(task, truth, full, whole, logits))
            say(f"{'healed, ' if healed else ''}{name}: {row.accuracy:.2%}, divergence {row.divergence:.4f}")
            yield row


def _compared(
    task: Task, truth: NDArray[Any], full: torch.Tensor, whole: torch.Tensor, student: torch.Tensor
) -> dict[str, Any]:
    """Compare the logits of a student with those of the full method, `whole`; `full`: logits of the full model."""
    before, after = (np.asarray(task.decide(task.scores(logits.numpy()))) for logits in (whole, student))
    difference = compare(truth, before, after)
    divergence_before, divergence_after = (divergence(task.kind, logits, full).numpy() for logits in (whole, student))
    return {
        "accuracy": metric_value(task.kind, truth, after),
        "points": difference.loss_points, "points_interval": difference.loss_interval,
        "divergence": float(divergence_after.mean()),
        "more_divergence": float((divergence_after - divergence_before).mean()),
        "more_divergence_interval": mean_interval(divergence_after - divergence_before),
    }  # fmt: skip


def main(
    model: Path,
    train: Annotated[str, typer.Option(help="texts for pruning and healing")],
    validation: Annotated[str, typer.Option(help="labelled rows, as long as the texts in production")],
    test: Annotated[str, typer.Option(help="labelled rows that no model was trained on")],
    speedup: Annotated[float, typer.Option(help="speed-up over the full model in fp32, by the latency table")] = 6.0,
    epochs: Annotated[int, typer.Option(help="epochs of healing")] = 10,
    texts: Annotated[int, typer.Option(help="texts whose activations correct the remaining weights")] = 1024,
    cost_texts: Annotated[int, typer.Option(help="texts on which the cost of each width is measured")] = 128,
    store: Store = STORE,
) -> None:
    """Measure what each part of pruning contributes. An interrupted run continues where it stopped."""
    kind = source_kind(model)
    if kind == "regression":
        raise InputError("the model is a regression, which has no accuracy: wanted a model that gives labels")
    rows = read_texts(train, kind=kind)
    source = open_source(model, store, rows.pair)
    inputs = CompressionInputs(source, rows, read_texts(validation, kind=kind))
    check_inputs(inputs)
    training = DistillConfig().training.model_copy(update={"epochs": epochs})
    analysis = AnalysisConfig(texts=texts, cost_texts=cost_texts)
    ablation = Ablation(
        inputs, read_texts(test, kind=kind), speedup, analysis, DistillConfig(training=training), store
    )
    students = [row.model_dump(mode="json") for row in ablate(ablation)]
    say("\n" + students_table(students))
    result = {"verb": "ablation", "model": source.id, "speedup": speedup, "epochs": epochs}
    show({**result, "rows": len(ablation.test), "students": students})


if __name__ == "__main__":
    typer.run(main)
