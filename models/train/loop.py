"""fit(): the only training loop, on accelerate; pretraining, fine-tuning and distillation pass it their Objective.

All randomness (batches, masks, dropout) is a function of the seed and the step. So a killed run that resumes from its
snapshot ends with the same result, and a snapshot holds only tensors and counters.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from models.distributed import by_main, rank, world_size
from models.errors import InputError
from models.messages import progress
from models.train.history import Evaluation, History, Log, draw_training
from models.train.optimizer import warmup_steps
from models.train.precision import choose_precision
from models.train.snapshot import Counters, Snapshot, load_snapshot, moments_of, restore, save_snapshot
from models.train.step import Place, StepMetrics, Stepper
from models.train.training_config import Objective, TrainingConfig

__all__ = ["Objective", "Run", "TrainingConfig", "fit"]
LOG_STEPS = 20  # steps between two entries of the log
PATIENCE = 2  # evaluations without a better metric that end the phase of constant rate
DRY_RUNS = 2  # of the first step, if minutes are given: the first allocates memory and threads, the last is timed


@dataclass(frozen=True, slots=True)
class Run:
    """Where a training keeps its snapshot and log (None: nowhere), how it is evaluated, and its time limit."""

    scratch: Path | None = None
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None
    lower_is_better: bool = False  # refers to the watched metric
    minutes: float | None = None  # limit on the time spent in steps; at least one step is taken; other work is extra
    while_it_helps: bool = False  # the rate falls only when the metric stops improving; the steps are a maximum
    error_of: Callable[[float], float] | None = None  # standard error of a value of the watched metric; None: 0
    describe: str = "train"


def fit(model: nn.Module, objective: Objective, config: TrainingConfig, run: Run | None = None) -> History:
    """Train `model` in place and return the history of the training.

    Args:
        model: has its encoder as `encoder`; it is moved to the GPU, if there is one, and back.
        objective: rows, batches and loss.
        config: how long and how fast. A resumed run keeps the precision that `auto` chose at its start.
        run: where the snapshot is kept, how the model is evaluated, and the time limit. If the time ends before the
            steps do, the learning rate falls to 0 with the time. With `while_it_helps` the rate stays at its peak
            until `config.patience` (default: PATIENCE) evaluations have not improved the metric, at the longest for
            half of the steps; then it falls to 0 in as many steps as were taken. Of the evaluated steps that are
            worse than the best one by at most `error_of`, the last is kept: smaller differences are chance, and a
            step at a lower rate is better in general.

    Raises:
        CheckError: the loss is not finite (names the step and the rows), or a snapshot cannot be written.
        InputError: the watched metric is not among those that `run.evaluate` returns.
    """
    run = run or Run()
    if config.precision == "auto":
        precision = by_main(lambda: _snapshot_precision(run) or choose_precision(config))
        config = config.model_copy(update={"precision": precision})
    training = _Training(Stepper(model, objective, config), objective, config, run)
    try:
        return training.train()
    finally:
        training.log.close()


def _snapshot_precision(run: Run) -> str | None:
    """Return the precision of the run's snapshot, if there is one."""
    snapshot = load_snapshot(run.scratch) if run.scratch else None
    return snapshot.counters.precision if snapshot else None


class _Training:
    """State of one training: counters, the best weights so far, snapshots and log."""

    def __init__(self, stepper: Stepper, objective: Objective, config: TrainingConfig, run: Run) -> None:
        self.stepper, self.objective, self.config, self.run = stepper, objective, config, run
        self.batch_size = config.batch_size * world_size()  # rows of a step, over all processes
        self.max_steps = config.steps or config.epochs * len(objective.plan(0, self.batch_size, config.seed))
        self.counters, self.best = Counters(), dict[str, Tensor]()
        # read only after the stepper has joined the processes: until then another command may write the snapshot
        snapshot = load_snapshot(run.scratch) if run.scratch else None
        if snapshot:
            restore(stepper.model, stepper.optimizer, snapshot)
            self.counters, self.best = snapshot.counters, snapshot.best
        self.counters.precision = stepper.precision
        self.dry_run_seconds = self._time_dry_run() if run.minutes is not None and not self.counters.step else 0.0
        self.steps = self._total_steps()
        self.log = Log(run.scratch if rank() == 0 else None, self.counters.step)
        self.saved_at = time.monotonic()

    def train(self) -> History:
        """Take the remaining steps."""
        counters = self.counters
        with progress(
            total=self.steps, initial=counters.step, unit="step", desc=self.run.describe,
            disable=rank() != 0,
        ) as bar:  # fmt: skip
            for epoch, rows, ends_epoch in self._remaining_steps():
                start = time.perf_counter()
                metrics = self.stepper.take(rows, self._place(epoch))
                self._count(metrics, len(rows), time.perf_counter() - start, bar)
                if ends_epoch or counters.step >= self.steps:
                    counters.losses.append(counters.epoch_loss / counters.epoch_steps)
                    counters.epoch_loss, counters.epoch_steps = 0.0, 0
                every = self.config.evaluate_every
                if counters.step >= self.steps or (counters.step % every == 0 if every else ends_epoch):
                    self._evaluate()
                if self.run.while_it_helps:
                    self._decide_decay(bar)
                elif counters.worse_in_a_row >= (self.config.patience or self.steps + 1):
                    break
                if time.monotonic() - self.saved_at >= 60 * self.config.snapshot_minutes:
                    self._save()
        if self.best and counters.best_step != counters.step:
            self.stepper.model.load_state_dict(self.best, strict=False)
        self.stepper.release()
        if self.run.scratch and rank() == 0:
            draw_training(self.run.scratch, self.config.metric)
        return self._history()

    def _place(self, epoch: int) -> Place:
        holds, decay_from = self.run.while_it_helps, self.counters.decay_from
        return Place(self.counters.step, self.steps, epoch, holds, decay_from)

    def _decide_decay(self, bar: Any) -> None:
        """Let the learning rate fall from here, if the metric does not improve or half of the steps are taken."""
        counters = self.counters
        if counters.decay_from is not None or counters.step < warmup_steps(self.steps, self.config.warmup):
            return
        no_better = counters.worse_in_a_row >= (self.config.patience or PATIENCE)
        if no_better or 2 * counters.step >= self.steps:
            counters.decay_from = counters.step
            bar.total = self.steps = self._total_steps()

    def _remaining_steps(self) -> Iterator[tuple[int, Sequence[int], bool]]:
        """Yield (epoch, rows, whether it is the last step of the epoch) for each step not yet taken."""
        step, done = 0, self.counters.step
        for epoch in itertools.count():
            plan = self.objective.plan(epoch, self.batch_size, self.config.seed)
            for position, rows in enumerate(plan):
                if step >= self.steps:
                    return
                if step >= done:
                    yield epoch, rows, position == len(plan) - 1
                step += 1

    def _time_dry_run(self) -> float:
        """Return the seconds of a step, measured before the first one is taken.

        The learning rate of the first step depends on the total number of steps, which the time limit determines.
        """
        rows, seconds = self.objective.plan(0, self.batch_size, self.config.seed)[0], 0.0
        for _ in range(DRY_RUNS):
            start = time.perf_counter()
            self.stepper.dry_run(rows, Place(0, 1, 0))
            seconds = time.perf_counter() - start
        return seconds

    def _total_steps(self) -> int:
        """Return the number of steps of the training: the configured one, or as many as fit into the time limit.

        It is computed again after each step from the mean time of a step, so that a machine that becomes slower or
        faster changes the number of steps and not the time. A resumed run has the time that its snapshot had left.
        """
        minutes, counters = self.run.minutes, self.counters
        limit = self.max_steps if counters.decay_from is None else min(self.max_steps, 2 * counters.decay_from)
        if minutes is None:
            return limit

        def steps_in_time() -> int:
            step_seconds = counters.seconds / counters.step if counters.step else self.dry_run_seconds
            left = math.ceil((60 * minutes - counters.seconds) / max(step_seconds, 1e-9))
            return min(limit, counters.step + max(left, 0 if counters.step else 1))

        return by_main(steps_in_time)  # all processes must stop at the same step, and each has its own clock

    def _count(self, metrics: StepMetrics, rows: int, seconds: float, bar: Any) -> None:
        counters = self.counters
        counters.step += 1
        counters.epoch_steps += 1
        counters.epoch_loss += metrics.loss
        counters.seconds += seconds
        counters.texts += rows
        counters.tokens += metrics.tokens
        bar.total = self.steps = self._total_steps()
        if counters.step % LOG_STEPS == 0 or counters.step >= self.steps:
            self.log.add(
                counters.step, loss=metrics.loss, learning_rate=metrics.learning_rate,
                gradient_norm=metrics.gradient_norm, texts_per_second=rows / seconds,
                tokens_per_second=metrics.tokens / seconds,
            )  # fmt: skip
        bar.set_postfix_str(
            f"loss {metrics.loss:.3f}, {counters.texts / counters.seconds:,.0f} texts/s, "
            f"{counters.tokens / counters.seconds:,.0f} tokens/s, {self.stepper.precision}",
            refresh=False,
        )
        bar.update()

    def _evaluate(self) -> None:
        evaluate = self.run.evaluate
        if evaluate is None:
            return
        counters, watched = self.counters, self.config.metric
        # all processes must stop at the same step: the main one evaluates for all
        metrics = by_main(lambda: evaluate(self.stepper.model))
        counters.evaluations.append({"step": counters.step, "metrics": metrics})
        self.log.add(counters.step, **metrics)
        if watched is None:
            return
        if watched not in metrics:
            raise InputError(f"{watched!r} is not measured here; choose from {', '.join(metrics)}")
        value = -metrics[watched] if self.run.lower_is_better else metrics[watched]
        is_better = counters.best_value is None or value > counters.best_value
        counters.worse_in_a_row = 0 if is_better else counters.worse_in_a_row + 1
        best_value = value if counters.best_value is None else max(value, counters.best_value)
        error = self.run.error_of(abs(best_value)) if self.run.error_of else 0.0
        counters.best_value = best_value
        if is_better or (self.run.while_it_helps and value >= best_value - error):
            counters.best_step = counters.step
            self.best = {
                name: tensor.detach().cpu().clone() for name, tensor in self.stepper.model.state_dict().items()
            }

    def _save(self) -> None:
        if self.run.scratch and rank() == 0:
            weights, moments = self.stepper.model.state_dict(), moments_of(self.stepper.optimizer)
            save_snapshot(Snapshot(weights, moments, self.best, self.counters), self.run.scratch)
        self.saved_at = time.monotonic()

    def _history(self) -> History:
        counters = self.counters
        return History(
            steps=counters.step,
            best_step=counters.best_step if self.best else counters.step,
            losses=tuple(counters.losses),
            evaluations=tuple(Evaluation(**evaluation) for evaluation in counters.evaluations),
            seconds=counters.seconds,
            texts=counters.texts,
            tokens=counters.tokens,
            stopped_early=counters.step < self.steps,
        )
