"""fit(): the one training loop, on accelerate; pretraining, fine-tuning and distillation give it their Objective.

Everything random is a function of the seed and the step: batches, masks, dropout. So a run that was killed goes on
from its snapshot and ends where it would have ended, and nothing but tensors and counters must be remembered.
"""

import itertools
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from tqdm import tqdm

from models.distributed import by_main, rank, world_size
from models.errors import InputError
from models.train.config import Objective, TrainingConfig
from models.train.history import Evaluation, History, Log, draw_training
from models.train.precision import choose_precision
from models.train.resume import Counters, Snapshot, load_snapshot, moments_of, restore, save_snapshot
from models.train.step import Place, Stepper, Taken

__all__ = ["Objective", "Run", "TrainingConfig", "fit"]
LOG_STEPS = 20  # between two lines of the log
REHEARSALS = 2  # of the first step, where minutes are given: the first sets up memory and threads, the last is timed


@dataclass(frozen=True, slots=True)
class Run:
    """Where a training keeps its snapshot and its log (None: nowhere), how it is judged, and when it must end."""

    scratch: Path | None = None
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None
    lower_is_better: bool = False  # of the watched metric
    minutes: float | None = None  # most time in steps, of which one is taken at least; all else comes on top
    describe: str = "train"


def fit(model: nn.Module, objective: Objective, config: TrainingConfig, run: Run | None = None) -> History:
    """Train `model` in place and return what happened.

    Args:
        model: has its encoder as `encoder`; it is moved to the GPU, if there is one, and back.
        objective: rows, batches and loss.
        config: how long and how fast. A run that goes on keeps the precision that `auto` was when it began.
        run: where the snapshot is kept and found, how the model is judged, and for how long it may go on. Where the
            time ends before the steps do, the learning rate falls to 0 with the time.

    Raises:
        CheckError: the loss is no longer a number (says the step and the rows), or a snapshot cannot be written.
        InputError: the watched metric is not among those that `run.evaluate` gives.
    """
    run = run or Run()
    if config.precision == "auto":
        config = config.model_copy(update={"precision": by_main(lambda: _begun_in(run) or choose_precision(config))})
    training = _Training(Stepper(model, objective, config), objective, config, run)
    try:
        return training.run()
    finally:
        training.log.close()


def _begun_in(run: Run) -> str | None:
    """Return the precision of the run's snapshot, if there is one."""
    snapshot = load_snapshot(run.scratch) if run.scratch else None
    return snapshot.counters.precision if snapshot else None


class _Training:
    """A training on its way: counters, the best weights so far, snapshots and log."""

    def __init__(self, stepper: Stepper, objective: Objective, config: TrainingConfig, run: Run) -> None:
        self.stepper, self.objective, self.config, self.told = stepper, objective, config, run
        self.size = config.batch_size * world_size()
        self.asked = config.steps or config.epochs * len(objective.plan(0, self.size, config.seed))
        self.counters, self.best = Counters(), dict[str, Tensor]()
        # read after the processes have met in the stepper: another command may have written it until then
        snapshot = load_snapshot(run.scratch) if run.scratch else None
        if snapshot:
            restore(stepper.model, stepper.optimizer, snapshot)
            self.counters, self.best = snapshot.counters, snapshot.best
        self.counters.precision = stepper.precision
        self.rehearsed = self._rehearse() if run.minutes is not None and not self.counters.step else 0.0
        self.steps = self._steps()
        self.log = Log(run.scratch if rank() == 0 else None, self.counters.step)
        self.saved = time.monotonic()

    def run(self) -> History:
        """Take the steps that are left."""
        counters = self.counters
        with tqdm(
            total=self.steps, initial=counters.step, unit="step", desc=self.told.describe, file=sys.stderr,
            disable=rank() != 0,
        ) as bar:  # fmt: skip
            for epoch, rows, ends_epoch in self._left():
                begun = time.perf_counter()
                taken = self.stepper.take(rows, Place(counters.step, self.steps, epoch))
                self._count(taken, len(rows), time.perf_counter() - begun, bar)
                if ends_epoch or counters.step >= self.steps:
                    counters.losses.append(counters.epoch_loss / counters.epoch_steps)
                    counters.epoch_loss, counters.epoch_steps = 0.0, 0
                every = self.config.evaluate_every
                if counters.step >= self.steps or (counters.step % every == 0 if every else ends_epoch):
                    self._evaluate()
                if counters.worse_in_a_row >= (self.config.patience or self.steps + 1):
                    break
                if time.monotonic() - self.saved >= 60 * self.config.snapshot_minutes:
                    self._save()
        if self.best and counters.best_step != counters.step:
            self.stepper.model.load_state_dict(self.best, strict=False)
        self.stepper.release()
        if self.told.scratch and rank() == 0:
            draw_training(self.told.scratch, self.config.metric)
        return self._history()

    def _left(self) -> Iterator[tuple[int, Sequence[int], bool]]:
        """Yield (epoch, rows, whether it is the epoch's last step) of the steps that are left."""
        step, done = 0, self.counters.step
        for epoch in itertools.count():
            plan = self.objective.plan(epoch, self.size, self.config.seed)
            for position, rows in enumerate(plan):
                if step >= self.steps:
                    return
                if step >= done:
                    yield epoch, rows, position == len(plan) - 1
                step += 1

    def _rehearse(self) -> float:
        """Return the seconds of a step, of which none is taken yet.

        The learning rate of the first step is a share of the whole training: how many steps that has must be known.
        """
        rows, seconds = self.objective.plan(0, self.size, self.config.seed)[0], 0.0
        for _ in range(REHEARSALS):
            begun = time.perf_counter()
            self.stepper.rehearse(rows, Place(0, 1, 0))
            seconds = time.perf_counter() - begun
        return seconds

    def _steps(self) -> int:
        """Return how many steps the training has: those asked for, or as many as the time allows at the mean pace.

        Counted anew after each step, so that a machine that gets slower or faster changes the steps and not the time.
        A run that goes on after a kill has the time that its snapshot had left.
        """
        minutes, counters = self.told.minutes, self.counters
        if minutes is None:
            return self.asked

        def allowed() -> int:
            pace = counters.seconds / counters.step if counters.step else self.rehearsed
            left = math.ceil((60 * minutes - counters.seconds) / max(pace, 1e-9))
            return min(self.asked, counters.step + max(left, 0 if counters.step else 1))

        return by_main(allowed)  # all must stop at the same step, and each has its own clock

    def _count(self, taken: Taken, rows: int, seconds: float, bar: tqdm) -> None:
        counters = self.counters
        counters.step += 1
        counters.epoch_steps += 1
        counters.epoch_loss += taken.loss
        counters.seconds += seconds
        counters.texts += rows
        counters.tokens += taken.tokens
        bar.total = self.steps = self._steps()
        if counters.step % LOG_STEPS == 0 or counters.step >= self.steps:
            self.log.add(
                counters.step, loss=taken.loss, learning_rate=taken.learning_rate, gradient_norm=taken.gradient_norm,
                texts_per_second=rows / seconds, tokens_per_second=taken.tokens / seconds,
            )  # fmt: skip
        bar.set_postfix_str(
            f"loss {taken.loss:.3f}, {counters.texts / counters.seconds:,.0f} texts/s, "
            f"{counters.tokens / counters.seconds:,.0f} tokens/s, {self.stepper.precision}",
            refresh=False,
        )
        bar.update()

    def _evaluate(self) -> None:
        judge = self.told.evaluate
        if judge is None:
            return
        counters, watched = self.counters, self.config.metric
        metrics = by_main(lambda: judge(self.stepper.model))  # all must stop at the same step: one judges for all
        counters.evaluations.append({"step": counters.step, "metrics": metrics})
        self.log.add(counters.step, **metrics)
        if watched is None:
            return
        if watched not in metrics:
            raise InputError(f"{watched!r} is not measured here: there are {', '.join(metrics)}")
        value = -metrics[watched] if self.told.lower_is_better else metrics[watched]
        if counters.best_value is None or value > counters.best_value:
            counters.best_value, counters.best_step, counters.worse_in_a_row = value, counters.step, 0
            self.best = {
                name: tensor.detach().cpu().clone() for name, tensor in self.stepper.model.state_dict().items()
            }
        else:
            counters.worse_in_a_row += 1

    def _save(self) -> None:
        if self.told.scratch and rank() == 0:
            weights, moments = self.stepper.model.state_dict(), moments_of(self.stepper.optimizer)
            save_snapshot(Snapshot(weights, moments, self.best, self.counters), self.told.scratch)
        self.saved = time.monotonic()

    def _history(self) -> History:
        counters = self.counters
        return History(
            steps=counters.step,
            best_step=counters.best_step if self.best else counters.step,
            losses=tuple(counters.losses),
            evaluations=tuple(Evaluation(**found) for found in counters.evaluations),
            seconds=counters.seconds,
            texts=counters.texts,
            tokens=counters.tokens,
            stopped_early=counters.step < self.steps,
        )
