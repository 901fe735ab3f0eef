"""`python -m bench.training_speed`: how fast fine-tuning is, beside transformers' Trainer and a bare matrix product.

Ours and the Trainer take turns: the same encoder, rows, batch size, precision and frozen embeddings, rows of like
length together, in this process. A turn is a few steps after warm-up; each turn is divided by the product's rate
around it. Model FLOP utilisation (Chowdhery et al. 2022, appendix B): 6 a weight and real token, and
12 · layers · width · tokens² a row for attention, over what the product does in the same time; padding is no work.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
import typer

from bench.timing import machine_card
from models.checkpoint import load_checkpoint
from models.data.builtin import MINILM
from models.data.texts import Texts, read_texts
from models.task import Task
from models.tokens import Tokenizer
from models.train.loop import TrainingConfig
from models.train.losses import LossConfig, loss_for
from models.train.precision import choose_precision
from models.train.source import resolve_encoder
from models.train.step import Place, Stepper
from models.train.text_objective import TextObjective

WARM_STEPS = 3
SIDE = 1024  # of the square matrices of the bare product


@dataclass(frozen=True, slots=True)
class Job:
    """One fine-tuning that both do."""

    encoder: str
    rows: Texts
    max_tokens: int
    config: TrainingConfig
    steps: int  # of a turn


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn did: seconds, rows, real tokens, and floating-point operations that those need."""

    seconds: float
    rows: int
    tokens: int
    flops: float


def main(
    data: str,
    max_tokens: int = 128,
    batch_size: int = 32,
    steps: Annotated[int, typer.Option(help="of one turn")] = 20,
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
    told = compare(job, rounds)
    told |= {"data": rows.source.rsplit("/", 2)[-2:], "batch_size": batch_size, "max_tokens": max_tokens}
    sys.stdout.write(json.dumps(told | {"machine": machine_card()}) + "\n")


def compare(job: Job, rounds: int) -> dict[str, Any]:
    """Return rates of both and their ratio, medians over the rounds with the values."""
    takers: dict[str, Callable[[int], Turn]] = {"ours": _ours(job), "trainer": _trainer(job)}
    turns: dict[str, list[tuple[Turn, float]]] = {name: [] for name in takers}
    for turn in range(rounds):
        for name in sorted(takers, reverse=bool(turn % 2)):
            before = _product_rate(job)
            taken = takers[name](turn)
            turns[name].append((taken, (before + _product_rate(job)) / 2))
            sys.stderr.write(f"{name}: {taken.tokens / taken.seconds:,.0f} tokens/s\n")
    return {name: _told(found) for name, found in turns.items()} | {
        "ours_over_trainer": _spread(
            [
                (one.tokens / one.seconds) / (other.tokens / other.seconds)
                for (one, _), (other, _) in zip(turns["ours"], turns["trainer"], strict=True)
            ]
        ),
        "product_gflops": _spread([rate / 1e9 for found in turns.values() for _, rate in found]),
        "precision": job.config.precision,
    }


def _told(turns: list[tuple[Turn, float]]) -> dict[str, Any]:
    return {
        "texts_per_second": _spread([t.rows / t.seconds for t, _ in turns]),
        "tokens_per_second": _spread([t.tokens / t.seconds for t, _ in turns]),
        "flop_utilisation": _spread([t.flops / t.seconds / rate for t, rate in turns]),
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def _product_rate(job: Job) -> float:
    """Return floating-point operations a second of a square matrix product in the precision of the training."""
    dtype = torch.bfloat16 if job.config.precision == "bf16" else torch.float32
    left = torch.randn(SIDE, SIDE, dtype=dtype)
    seconds = []
    for _ in range(12):
        begun = time.perf_counter()
        left @ left
        seconds.append(time.perf_counter() - begun)
    return 2 * SIDE**3 / statistics.median(seconds[2:])


def _weights(model: torch.nn.Module) -> int:
    """Return how many weights a token is multiplied with."""
    return sum(p.numel() for name, p in model.named_parameters() if "embeddings" not in name and p.ndim > 1)


def _flops(weights: int, layers: int, width: int, lengths: "np.ndarray[Any, Any]") -> float:
    return 6.0 * weights * float(lengths.sum()) + 12.0 * layers * width * float((lengths**2).sum())


def _ours(job: Job) -> Callable[[int], Turn]:
    folder = resolve_encoder(job.encoder)
    tokenizer = Tokenizer.open(folder, job.max_tokens)
    task = Task(labels=job.rows.label_names())
    model = load_checkpoint(folder, len(task.labels))
    encoded = tokenizer.encode(job.rows.rows)
    lengths = np.array([len(e.ids) for e in encoded], dtype=np.float64)
    objective = TextObjective(encoded, tokenizer, loss_for(task, job.rows.targets(task), LossConfig()))
    stepper = Stepper(model, objective, job.config)
    weights = _weights(model)
    shape = model.architecture

    def take(turn: int) -> Turn:
        plan = objective.plan(turn, job.config.batch_size, 0)[: job.steps + WARM_STEPS]
        for index, rows in enumerate(plan):
            if index == WARM_STEPS:
                begun = time.perf_counter()
            stepper.take(rows, Place(index, 10**6, turn))
        seconds = time.perf_counter() - begun
        timed = [row for rows in plan[WARM_STEPS:] for row in rows]
        flops = _flops(weights, len(shape.layers), shape.width, lengths[timed])
        return Turn(seconds, len(timed), int(lengths[timed].sum()), flops)

    return take


def _trainer(job: Job) -> Callable[[int], Turn]:
    import transformers as hub

    folder = resolve_encoder(job.encoder)
    hub.logging.set_verbosity_error()
    labels = job.rows.label_names()
    tokenizer = hub.AutoTokenizer.from_pretrained(folder)
    model = hub.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(labels))
    model.base_model.embeddings.requires_grad_(False)
    weights = _weights(model)
    rows = [
        {**tokenizer(*row, truncation=True, max_length=job.max_tokens), "labels": labels.index(str(label))}
        for row, label in zip(job.rows.rows, job.rows.require_labels(), strict=True)
    ]
    clock = _Clock()

    class Watch(hub.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:  # noqa: ARG002
            clock.tick(state.global_step)

    def collate(batch: list[dict[str, Any]]) -> Any:
        clock.lengths += [len(row["input_ids"]) for row in batch]
        return hub.DataCollatorWithPadding(tokenizer)(batch)

    def take(turn: int) -> Turn:
        with tempfile.TemporaryDirectory() as scratch:
            arguments = hub.TrainingArguments(
                scratch, max_steps=job.steps + WARM_STEPS, per_device_train_batch_size=job.config.batch_size,
                learning_rate=job.config.learning_rate, bf16=job.config.precision == "bf16", use_cpu=True,
                group_by_length=True, report_to="none", save_strategy="no", logging_strategy="no",
                disable_tqdm=True, seed=turn,
            )  # fmt: skip
            clock.lengths.clear()
            hub.Trainer(model, arguments, data_collator=collate, train_dataset=rows, callbacks=[Watch()]).train()
        size = job.config.batch_size
        lengths = np.array(clock.lengths[WARM_STEPS * size : (WARM_STEPS + job.steps) * size], dtype=np.float64)
        flops = _flops(weights, model.config.num_hidden_layers, model.config.hidden_size, lengths)
        return Turn(clock.seconds, len(lengths), int(lengths.sum()), flops)

    return take


class _Clock:
    """The lengths of the rows that the Trainer took, and the time from the end of its warm-up to its last step."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.seconds = self._begun = 0.0

    def tick(self, step: int) -> None:
        if step == WARM_STEPS:
            self._begun = time.perf_counter()
        self.seconds = time.perf_counter() - self._begun


if __name__ == "__main__":
    typer.run(main)
