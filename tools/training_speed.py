"""`python -m tools.training_speed`: speed of fine-tuning against transformers' Trainer and a bare matrix product.

Ours and the Trainer alternate in this process, with the same encoder, rows, batch size, precision and frozen
embeddings, and with batches of rows of similar length. A turn is a few training steps after warm-up, and the rate of
a matrix product is measured before and after each turn. Model FLOP utilisation (Chowdhery et al. 2022, appendix B) is
6 operations per weight and real token, plus 12 · layers · width · tokens² per row for attention, divided by the
operations of the matrix product in the same time; padding does not count as work.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from bench.measure.latency.timing import machine_card
from models.checkpoint import load_checkpoint
from models.data.builtin import MINILM
from models.data.texts import Texts, read_texts
from models.finetuning.losses import LossConfig, loss_for
from models.finetuning.text_objective import TextObjective
from models.task import Task
from models.tokenizer import Tokenizer
from models.train.loop import TrainingConfig
from models.train.precision import choose_precision
from models.train.starting_point import resolve_encoder
from models.train.step import Place, Stepper

WARM_STEPS = 3
STORE = Path("store")  # with a built-in encoder that is unpacked
SIDE = 1024  # rows and columns of the matrices of the bare product


@dataclass(frozen=True, slots=True)
class Job:
    """The fine-tuning that both trainers run."""

    encoder: str
    rows: Texts
    max_tokens: int
    config: TrainingConfig
    steps: int  # timed steps of one turn


@dataclass(frozen=True, slots=True)
class Turn:
    """The time and the work of one turn."""

    seconds: float
    rows: int
    tokens: int  # without padding
    flops: float  # floating-point operations for these tokens


def main(
    data: str,
    max_tokens: int = 128,
    batch_size: int = 32,
    steps: Annotated[int, typer.Option(help="timed steps of one turn")] = 20,
    rounds: int = 5,
) -> None:
    """Time fine-tuning on the rows of DATA."""
    rows = read_texts(data)
    rows = rows.take(
        np.random.default_rng(0).permutation(len(rows))[: 2 * batch_size * (steps + WARM_STEPS)].tolist()
    )
    config = TrainingConfig(batch_size=batch_size, steps=10**6)
    config = config.model_copy(update={"precision": choose_precision(config)})
    job = Job(MINILM, rows, max_tokens, config, steps)
    result = compare(job, rounds)
    result |= {"data": rows.source.rsplit("/", 2)[-2:], "batch_size": batch_size, "max_tokens": max_tokens}
    sys.stdout.write(json.dumps(result | {"machine": machine_card()}) + "\n")


def compare(job: Job, rounds: int) -> dict[str, Any]:
    """Return the rates of both and their ratio: medians over the rounds, with the least and the largest value."""
    trainers: dict[str, Callable[[int], Turn]] = {"ours": _ours(job), "trainer": _trainer(job)}
    turns: dict[str, list[tuple[Turn, float]]] = {name: [] for name in trainers}
    for number in range(rounds):
        for name in sorted(trainers, reverse=bool(number % 2)):
            before = _product_rate(job)
            turn = trainers[name](number)
            turns[name].append((turn, (before + _product_rate(job)) / 2))
            sys.stderr.write(f"{name}: {turn.tokens / turn.seconds:,.0f} tokens/s\n")
    return {name: _rates(timed) for name, timed in turns.items()} | {
        "ours_over_trainer": _spread(
            [
                (ours.tokens / ours.seconds) / (theirs.tokens / theirs.seconds)
                for (ours, _), (theirs, _) in zip(turns["ours"], turns["trainer"], strict=True)
            ]
        ),
        "product_gflops": _spread([rate / 1e9 for timed in turns.values() for _, rate in timed]),
        "precision": job.config.precision,
    }


def _rates(turns: list[tuple[Turn, float]]) -> dict[str, Any]:
    """Return the rates of turns, each given with the rate of the matrix product at its time."""
    return {
        "texts_per_second": _spread([t.rows / t.seconds for t, _ in turns]),
        "tokens_per_second": _spread([t.tokens / t.seconds for t, _ in turns]),
        "flop_utilisation": _spread([t.flops / t.seconds / rate for t, rate in turns]),
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def _product_rate(job: Job) -> float:
    """Return the floating-point operations per second of a matrix product in the precision of the training."""
    dtype = torch.bfloat16 if job.config.precision == "bf16" else torch.float32
    left = torch.randn(SIDE, SIDE, dtype=dtype)
    seconds = []
    for _ in range(12):
        start = time.perf_counter()
        left @ left
        seconds.append(time.perf_counter() - start)
    return 2 * SIDE**3 / statistics.median(seconds[2:])


def _weights(model: torch.nn.Module) -> int:
    """Return the number of weights that each token is multiplied with."""
    return sum(p.numel() for name, p in model.named_parameters() if "embeddings" not in name and p.ndim > 1)


def _flops(weights: int, layers: int, width: int, lengths: "np.ndarray[Any, Any]") -> float:
    return 6.0 * weights * float(lengths.sum()) + 12.0 * layers * width * float((lengths**2).sum())


def _ours(job: Job) -> Callable[[int], Turn]:
    folder = resolve_encoder(job.encoder, STORE)
    tokenizer = Tokenizer.open(folder, job.max_tokens)
    task = Task(labels=job.rows.label_names())
    model = load_checkpoint(folder, len(task.labels))
    encoded = tokenizer.encode(job.rows.rows)
    lengths = np.array([len(e.ids) for e in encoded], dtype=np.float64)
    objective = TextObjective(encoded, tokenizer, loss_for(task, job.rows.targets(task), LossConfig()))
    stepper = Stepper(model, objective, job.config)
    weights = _weights(model)
    shape = model.architecture

    def run(number: int) -> Turn:
        plan = objective.plan(number, job.config.batch_size, 0)[: job.steps + WARM_STEPS]
        for index, rows in enumerate(plan):
            if index == WARM_STEPS:
                start = time.perf_counter()
            stepper.take(rows, Place(index, 10**6, number))
        seconds = time.perf_counter() - start
        timed = [row for rows in plan[WARM_STEPS:] for row in rows]
        flops = _flops(weights, len(shape.layers), shape.width, lengths[timed])
        return Turn(seconds, len(timed), int(lengths[timed].sum()), flops)

    return run


def _trainer(job: Job) -> Callable[[int], Turn]:
    import transformers as hub

    folder = resolve_encoder(job.encoder, STORE)
    hub.logging.set_verbosity_error()
    labels = job.rows.label_names()
    tokenizer = hub.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = hub.AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=len(labels), trust_remote_code=False
    )
    model.base_model.embeddings.requires_grad_(False)
    weights = _weights(model)
    rows = [
        {**tokenizer(*row, truncation=True, max_length=job.max_tokens), "labels": labels.index(str(label))}
        for row, label in zip(job.rows.rows, job.rows.require_labels(), strict=True)
    ]
    clock = _Clock()

    class StepTimer(hub.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:  # noqa: ARG002
            clock.tick(state.global_step)

    def collate(batch: list[dict[str, Any]]) -> Any:
        clock.lengths += [len(row["input_ids"]) for row in batch]
        return hub.DataCollatorWithPadding(tokenizer)(batch)

    def run(number: int) -> Turn:
        with tempfile.TemporaryDirectory() as scratch:
            arguments = hub.TrainingArguments(
                scratch, max_steps=job.steps + WARM_STEPS, per_device_train_batch_size=job.config.batch_size,
                learning_rate=job.config.learning_rate, bf16=job.config.precision == "bf16", use_cpu=True,
                group_by_length=True, report_to="none", save_strategy="no", logging_strategy="no",
                disable_tqdm=True, seed=number,
            )  # fmt: skip
            clock.lengths.clear()
            hub.Trainer(model, arguments, data_collator=collate, train_dataset=rows, callbacks=[StepTimer()]).train()
        size = job.config.batch_size
        lengths = np.array(clock.lengths[WARM_STEPS * size : (WARM_STEPS + job.steps) * size], dtype=np.float64)
        flops = _flops(weights, model.config.num_hidden_layers, model.config.hidden_size, lengths)
        return Turn(clock.seconds, len(lengths), int(lengths.sum()), flops)

    return run


class _Clock:
    """Records the lengths of the Trainer's rows, and the time from the end of its warm-up to its last step."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.seconds = self._start = 0.0

    def tick(self, step: int) -> None:
        if step == WARM_STEPS:
            self._start = time.perf_counter()
        self.seconds = time.perf_counter() - self._start


if __name__ == "__main__":
    typer.run(main)
