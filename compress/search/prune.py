"""prune(): search for an architecture that reaches a target, prune the model to it, and refit it."""

import json
import math
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from compress.config import CompressConfig
from compress.context import CompressionContext
from compress.inputs.length_matching import pad_texts
from compress.pruning.analysis import Analysis
from compress.pruning.hidden_width import CHANNELS, Channels, choose_channels, narrow, narrowed, refit_narrow
from compress.pruning.obs import Units
from compress.pruning.refit import refit
from compress.pruning.surgery import choose_pruned_sublayers, cut
from compress.quantization.int8_loss import table_cost, with_rounded_table
from compress.search.candidate_graphs import PlanGraphs
from compress.search.cost_table import CostTable, size_cost_table
from compress.search.knapsack import Plan, make_frontier
from compress.search.latency_meter import Measured, Sized, open_latency_meter
from compress.search.latency_table import load_latency
from compress.search.search_to_target import Space, Target, search_to_target
from export import graph_precision
from export.graph_precision import EmbeddingBits, Precision
from models import tokenizer as tokenizer_file
from models.architecture import Architecture
from models.checkpoint import save_checkpoint
from models.classifier import Classifier, TensorBatch
from models.classifier_folder import copy_texts, open_classifier
from models.data.sampling import choose_texts
from models.messages import say

LENGTHS = 5  # number of quantiles of the served lengths at which sublayers are timed


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Result of the search at one hidden width."""

    full: Architecture  # unpruned, at that width
    plan: Plan
    measured: Sized  # `Measured` if the target is a speed
    table: CostTable


@dataclass(frozen=True, slots=True)
class Student:
    """A pruned model, fitted to the full one."""

    model: Classifier
    search: SearchResult
    channels: Units | None = None  # channels of the hidden state that are kept; None: all


def prune(target: Target, context: CompressionContext, config: CompressConfig, store: Path, folder: Path) -> None:
    """Write the student that reaches the target into `folder`.

    Raises:
        TargetError: no architecture reaches the target on this machine.
    """
    pruner = Pruner(target, context, config, store)
    student = pruner.at(config.hidden_width)
    save_checkpoint(student.model, pruner.task, folder)
    if student.channels is not None:
        np.save(folder / CHANNELS, student.channels)
    search = student.search
    search.plan.precision.write(folder / graph_precision.FILE)
    copy_texts(context.base, pruner.task, folder)
    predicted = search.table.total(search.plan.architecture, search.plan.precision)
    document: dict[str, Any] = {
        "target": target.model_dump(), "measured": search.measured.model_dump(), "predicted": predicted,
        "plan": search.plan.summary(), "table": search.table.model_dump(),
    }  # fmt: skip
    (folder / "plan.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


class Pruner:
    """Prunes one model to one target, at any hidden width."""

    def __init__(self, target: Target, context: CompressionContext, config: CompressConfig, store: Path) -> None:
        self.target, self.context, self.config, self.store = target, context, config, store
        self.model, self.task, self.tokenizer = open_classifier(context.base)
        self.analysis = Analysis.open(context.analysis.path)
        self.meter = open_latency_meter(context.inputs, context.base, context.reference, context.load)
        encoded = context.inputs.encoded(context.base)
        self.train, self.served = encoded.train, encoded.validation.lengths

    def at(self, width: int | None) -> Student:
        """Return the student with the hidden width `width`; None: the full one.

        Raises:
            TargetError: no architecture of that width reaches the target.
        """
        full = self.model.architecture if width is None else narrowed(self.model.architecture, width)
        search = self._search(full)
        architecture, bits = search.plan.architecture, search.plan.precision.embedding_bits
        if width is None:
            student = self.fitted_to(architecture, bits)
            if architecture == full:
                say(f"int8 alone reaches {self.target.describe(search.measured)}: nothing is pruned")
            return Student(student, search)
        student, batches = self.fitted_to(architecture), self._batches(self._fitted)
        channels = choose_channels(student, batches, full.width)
        narrower = with_rounded_table(narrow(student, channels), bits)
        if self.config.refit:
            refit_narrow(narrower, student, self.model, batches, channels)
        return Student(narrower, search, channels.hidden)

    def fitted_to(self, shape: Architecture, bits: EmbeddingBits = 8) -> Classifier:
        """Return a student with these layers, fitted to the full model; the full model itself if nothing is pruned.

        If the token table will have 4 bits, it is rounded before the fit, which then corrects for the rounding too.
        """
        student = with_rounded_table(self._build(shape), bits)
        if self.config.refit and student is not self.model:
            refit(student, self.model, self._batches(self._fitted))
        return student

    def latency_table(self, full: Architecture) -> CostTable:
        """Return the seconds of each sublayer at the lengths that are served."""
        lengths = [int(q) for q in np.quantile(self.served, np.linspace(0.1, 0.9, LENGTHS))]
        return load_latency(full, lengths, self.context.load, self.store)

    @cached_property
    def _fitted(self) -> list[int]:
        """Training texts that students are fitted on, as indices."""
        return choose_texts(self.train.lengths, self.served, self.config.analysis.texts, self.config.seed)

    @cached_property
    def _held_out(self) -> list[int]:
        """Training texts that students are not fitted on; if there are none, those that they are fitted on."""
        free = np.setdiff1d(np.arange(len(self.train)), self._fitted)
        lengths, count = [self.train.lengths[i] for i in free], self.config.analysis.cost_texts
        held_out = [int(free[i]) for i in choose_texts(lengths, self.served, count, self.config.seed)]
        return held_out or self._fitted

    def _batches(self, rows: list[int]) -> list[TensorBatch]:
        return [TensorBatch(batch) for batch in pad_texts(self.train.tokens, rows, self.tokenizer)]

    def _build(self, shape: Architecture) -> Classifier:
        if shape.layers == self.model.architecture.layers:
            return self.model
        return cut(self.model, choose_pruned_sublayers(self.analysis.sublayer_widths, shape))

    def _search(self, full: Architecture) -> SearchResult:
        target = self.target
        with tempfile.TemporaryDirectory() as scratch:
            graphs = self._graphs(full, Path(scratch))
            reference_ms = 0.0
            if target.timed:
                empty = full.with_layers([(0, 0)] * len(full.layers))
                bits = self._bits_offered()[0]
                smallest = graphs.measure(Plan(empty, Precision.all_int8(empty, embedding_bits=bits)), "search")
                assert isinstance(smallest, Measured)
                reference_ms = smallest.reference_ms
            space = self._space(full, graphs, target.budget(reference_ms))
            plan, measured = search_to_target(target, space, reference_ms, graphs.measure, self.config.tolerance)
            return SearchResult(full, graphs.served(plan), measured, space.table)

    def _graphs(self, full: Architecture, scratch: Path) -> PlanGraphs:
        def build(shape: Architecture) -> Classifier:
            model = self._build(shape)
            return model if full is self.model.architecture else narrow(model, Channels.first(full.width))

        meter = self.meter if self.target.timed else None
        samples = [self.tokenizer.batch([row]) for row in self.meter.texts["search"]]
        tokenizer_bytes = (self.context.base.path / tokenizer_file.FILE).stat().st_size
        return PlanGraphs(build, self.task.pair, samples, tokenizer_bytes, scratch, meter)

    def _space(self, full: Architecture, graphs: PlanGraphs, budget: float) -> Space:
        int8_loss = self.analysis.int8_loss | dict.fromkeys(self.context.keep_fp32, math.inf)
        spaces, empty = {}, full.with_layers([(0, 0)] * len(full.layers))
        for bits in self._bits_offered():
            if self.target.timed:
                table = self.latency_table(full)
            else:
                table = size_cost_table(
                    full, graphs.size(Plan(empty, Precision.all_int8(empty, embedding_bits=bits)))
                )
            # the time that 4 bits take more is not in the table, only in the measurements
            table = table.model_copy(update={"embedding_bits": bits})
            spaces[bits] = Space(full, make_frontier(full, self.analysis.costs, int8_loss, table), table)
        return self._choose_bits(spaces, budget)

    def _bits_offered(self) -> tuple[EmbeddingBits, ...]:
        """Return the choices for the token table: as configured; by default 8, and 4 too if the target is a size."""
        if self.config.embedding_bits is not None:
            return (self.config.embedding_bits,)
        return (8, 4) if self.target.kind == "size_mb" else (8,)

    def _choose_bits(self, spaces: dict[EmbeddingBits, Space], budget: float) -> Space:
        """Return the space whose best plan has the least cost, including the cost of rounding the token table."""
        costs = {bits: space.frontier.cost(budget - space.table.fixed) for bits, space in spaces.items()}
        if len(costs) > 1 and costs[8] > costs[4]:
            costs[4] += table_cost(self.model, self._batches(self._held_out), self.task.kind)
        # 8 if both have the same cost; but 4, which is nearer to the target, if neither reaches it
        bits = min(costs) if min(costs.values()) == math.inf else min(costs, key=lambda bits: costs[bits])
        if len(costs) > 1 and bits == 4:
            say(f"token table in 4 bits: divergence {costs[4]:.4f}; with 8 bits and more pruning: {costs[8]:.4f}")
        return spaces[bits]
