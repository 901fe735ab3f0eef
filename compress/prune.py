"""prune(): a target → the student that reaches it, cut and fitted to the full model, and what was measured of it.

With `hidden_width="auto"` the target is met at several widths of the hidden state, and the student whose answers are
nearest to the full model's is kept: a narrower stream leaves time for more heads and neurons.
"""

import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.analysis import Analysis
from compress.budget import BudgetTable, size_table
from compress.calibration import choose_texts, lengths_of, pad_texts
from compress.clock import ALONE, Load, Measured, Sized, open_clock
from compress.config import CompressConfig
from compress.divergence import divergence
from compress.graphs import PlanGraphs
from compress.healing import CHANNELS, Taught, copy_texts, open_classifier
from compress.ladder import Units
from compress.latency import load_latency
from compress.narrow import STEP, Channels, choose_channels, narrow, narrowed, refit_narrow
from compress.refit import refit
from compress.rounding import table_cost, with_rounded_table
from compress.search import Plan, make_frontier
from compress.source import Inputs
from compress.surgery import choose_rungs, cut
from compress.target import Space, Target, meet
from export import precision
from export.precision import EmbeddingBits, Precision
from models import tokens
from models.architecture import Architecture
from models.checkpoint import save_checkpoint
from models.classifier import Classifier, TensorBatch
from models.console import say
from models.errors import TargetError
from models.folder import ModelFolder
from models.tokens import Encoded

LENGTHS = 5  # quantiles of the served lengths at which sublayers are timed
SHARES = (2 / 3, 1 / 2, 1 / 3)  # of the hidden width, that are tried one after the other


@dataclass(frozen=True, slots=True)
class Prepared:
    """What every target shares."""

    inputs: Inputs
    base: ModelFolder  # the source, or the source with fewer tokens: it is cut, and it teaches
    analysis: ModelFolder
    teacher: Taught | None
    reference: Path  # the source's graph in fp32, as optimum exports it
    load: Load = ALONE  # under which models are timed
    held: frozenset[str] = frozenset()  # sublayers, such as "5.ffn", that are left in fp32


@dataclass(frozen=True, slots=True)
class Shape:
    """What the search found at one hidden width."""

    full: Architecture  # uncut, at that width
    plan: Plan
    measured: Sized  # the figure that the target names, with the speed where that is the target
    table: BudgetTable


@dataclass(frozen=True, slots=True)
class Student:
    """A cut model, fitted to the full one."""

    model: Classifier
    shape: Shape
    channels: Units | None = None  # of the hidden state, those that are left; None: all


def prune(target: Target, ready: Prepared, config: CompressConfig, store: Path, folder: Path) -> None:
    """Write the student that reaches the target into `folder`.

    Raises:
        TargetError: no shape reaches the target on this machine.
    """
    pruner, width = Pruner(target, ready, config, store), config.hidden_width
    student = pruner.best() if width == "auto" else pruner.at(width)
    save_checkpoint(student.model, pruner.task, folder)
    if student.channels is not None:
        np.save(folder / CHANNELS, student.channels)
    shape = student.shape
    shape.plan.precision.write(folder / precision.FILE)
    copy_texts(ready.base, pruner.task, folder)
    predicted = shape.table.total(shape.plan.architecture, shape.plan.precision)
    told: dict[str, Any] = {
        "target": target.model_dump(), "measured": shape.measured.model_dump(), "predicted": predicted,
        "plan": shape.plan.summary(), "table": shape.table.model_dump(),
    }  # fmt: skip
    (folder / "plan.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


class Pruner:
    """One target of one model, at any hidden width."""

    def __init__(self, target: Target, ready: Prepared, config: CompressConfig, store: Path) -> None:
        self.target, self.ready, self.config, self.store = target, ready, config, store
        self.model, self.task, self.tokenizer = open_classifier(ready.base)
        self.analysis = Analysis.open(ready.analysis.path)
        self.clock = open_clock(ready.inputs, ready.base, ready.reference, ready.load)
        self.served = lengths_of(self.tokenizer.encode(ready.inputs.validation.rows))

    def best(self) -> Student:
        """Return the student that is nearest to the full model, of those at its width and at narrower ones.

        A narrower width is tried as long as it brings the student nearer.

        Raises:
            TargetError: no width reaches the target; what was near at the last one.
        """
        found, problem, least = None, None, math.inf
        for width in self._widths():
            try:
                student = self.at(width)
            except TargetError as error:
                problem = error
                continue
            if student.shape.plan.architecture == self.model.architecture:  # nothing need be cut
                return student
            distance = self.distance(student)
            say(f"hidden width {student.shape.full.width}: divergence {distance:.4f} before healing")
            if found is not None and distance >= least:
                break
            found, least = student, distance
        if found is None:
            assert problem is not None, "either a student or a problem for each width"
            raise problem
        return found

    def at(self, width: int | None) -> Student:
        """Return the student whose hidden state is `width` wide; None: as wide as it was.

        Raises:
            TargetError: no shape of that width reaches the target.
        """
        full = self.model.architecture if width is None else narrowed(self.model.architecture, width)
        shape = self._shape(full)
        bits = shape.plan.precision.embedding_bits
        if width is None:
            student = self.fitted_to(shape.plan.architecture, bits)
            if shape.plan.architecture == full:
                say(f"int8 alone gives {self.target.told(shape.measured)}: nothing is cut")
            return Student(student, shape)
        student, fitted = self.fitted_to(shape.plan.architecture), self._batches(self._fitted)
        chosen = choose_channels(student, fitted, full.width)
        narrower = with_rounded_table(narrow(student, chosen), bits)
        if self.config.refit:
            refit_narrow(narrower, student, self.model, fitted, chosen)
        return Student(narrower, shape, chosen.stream)

    def fitted_to(self, shape: Architecture, bits: EmbeddingBits = 8) -> Classifier:
        """Return a student of these layers, fitted to the full model; the full model itself where nothing is cut.

        Its token table is rounded first where it will have 4 bits: the fit makes up for that too.
        """
        student = with_rounded_table(self._build(shape), bits)
        if self.config.refit and student is not self.model:
            refit(student, self.model, self._batches(self._fitted))
        return student

    def latency_table(self, full: Architecture) -> BudgetTable:
        """Return what each sublayer takes at the lengths that are served, in seconds."""
        lengths = [int(q) for q in np.quantile(self.served, np.linspace(0.1, 0.9, LENGTHS))]
        return load_latency(full, lengths, self.ready.load, self.store)

    @torch.no_grad()
    def distance(self, student: Student) -> float:
        """Return the mean divergence of its answers from the full model's, on texts that it was not fitted on."""
        found = [
            divergence(self.task.kind, student.model(batch)[0], self.model(batch)[0])
            for batch in self._batches(self._judged)
        ]
        return float(torch.cat(found).mean())

    @cached_property
    def _encoded(self) -> list[Encoded]:
        return self.tokenizer.encode(self.ready.inputs.train.rows)

    @cached_property
    def _fitted(self) -> list[int]:
        """The training texts that students are fitted on."""
        return choose_texts(lengths_of(self._encoded), self.served, self.config.analysis.texts, self.config.seed)

    @cached_property
    def _judged(self) -> list[int]:
        """Training texts that students are not fitted on; those that they are, where there are no others."""
        free = np.setdiff1d(np.arange(len(self._encoded)), self._fitted)
        lengths, asked = lengths_of([self._encoded[place] for place in free]), self.config.analysis.cost_texts
        judged = [int(free[i]) for i in choose_texts(lengths, self.served, asked, self.config.seed)]
        return judged or self._fitted

    def _batches(self, rows: list[int]) -> list[TensorBatch]:
        return [TensorBatch(batch) for batch in pad_texts(self._encoded, rows, self.tokenizer)]

    def _widths(self) -> Iterator[int | None]:
        yield None
        full = self.model.architecture
        if full.modern is not None:  # its norms stand before the sublayers: it cannot be narrower
            return
        for width in dict.fromkeys(int(full.width * share) // STEP * STEP for share in SHARES):
            if width and full.embedding_width not in (full.width, width):
                yield width

    def _build(self, shape: Architecture) -> Classifier:
        uncut = shape.layers == self.model.architecture.layers
        return self.model if uncut else cut(self.model, choose_rungs(self.analysis.ladders, shape))

    def _shape(self, full: Architecture) -> Shape:
        target = self.target
        with tempfile.TemporaryDirectory() as scratch:
            graphs = self._graphs(full, Path(scratch))
            reference_ms = 0.0
            if target.timed:
                empty = full.with_layers([(0, 0)] * len(full.layers))
                bits = self._bits_offered()[0]
                bare = graphs.measure(Plan(empty, Precision.all_int8(empty, embedding_bits=bits)), "search")
                assert isinstance(bare, Measured)
                reference_ms = bare.reference_ms
            space = self._space(full, graphs, target.budget(reference_ms))
            plan, measured = meet(target, space, reference_ms, graphs.measure, self.config.tolerance)
            return Shape(full, graphs.served(plan), measured, space.table)

    def _graphs(self, full: Architecture, scratch: Path) -> PlanGraphs:
        def build(shape: Architecture) -> Classifier:
            model = self._build(shape)
            return model if full is self.model.architecture else narrow(model, Channels.first(full.width))

        clock = self.clock if self.target.timed else None
        samples = [self.tokenizer.batch([row]) for row in self.clock.texts["search"]]
        more_bytes = (self.ready.base.path / tokens.FILE).stat().st_size
        return PlanGraphs(build, self.task.pair, samples, more_bytes, scratch, clock)

    def _space(self, full: Architecture, graphs: PlanGraphs, budget: float) -> Space:
        rounding = self.analysis.rounding | dict.fromkeys(self.ready.held, math.inf)
        spaces, empty = {}, full.with_layers([(0, 0)] * len(full.layers))
        for bits in self._bits_offered():
            if self.target.timed:
                table = self.latency_table(full)
            else:
                table = size_table(full, graphs.size(Plan(empty, Precision.all_int8(empty, embedding_bits=bits))))
            table = table.model_copy(update={"embedding_bits": bits})  # what 4 take more time is in what is measured
            spaces[bits] = Space(full, make_frontier(full, self.analysis.costs, rounding, table), table)
        return self._cheapest(spaces, budget)

    def _bits_offered(self) -> tuple[EmbeddingBits, ...]:
        """Return what the token table may have: what was asked for, 8 where time counts, either for a size."""
        if self.config.embedding_bits is not None:
            return (self.config.embedding_bits,)
        return (8, 4) if self.target.kind == "size_mb" else (8,)

    def _cheapest(self, spaces: dict[EmbeddingBits, Space], budget: float) -> Space:
        """Return the space whose best plan costs least, with what rounding its token table costs."""
        costs = {bits: space.frontier.cost(budget - space.table.fixed) for bits, space in spaces.items()}
        if len(costs) > 1 and costs[8] > costs[4]:
            costs[4] += table_cost(self.model, self._batches(self._judged), self.task.kind)
        # 8 where both cost the same, but 4, the nearest to the target, where neither reaches it
        bits = min(costs) if min(costs.values()) == math.inf else min(costs, key=lambda bits: costs[bits])
        if len(costs) > 1 and bits == 4:
            say(f"the token table has 4 bits: divergence {costs[4]:.4f}, {costs[8]:.4f} with 8 and more cut")
        return spaces[bits]
