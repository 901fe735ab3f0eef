"""fit(): the one training loop, on accelerate; fine-tuning and distillation give it their loss.

Batches hold texts of similar length, so that little is padding. The order of batches is a function of the seed.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from models.classifier import Classifier, TensorBatch
from models.errors import CheckError
from models.processor import has_bf16
from models.record import Record
from models.tokens import Encoded, Tokenizer

LossOf = Callable[[Classifier, TensorBatch, Sequence[int]], Tensor]  # (model, batch, row numbers) → scalar


class TrainingConfig(Record):
    """How long and how fast to learn."""

    epochs: int = Field(3, ge=1, description="passes over the training rows")
    batch_size: int = Field(32, ge=1, description="rows of one optimizer step")
    learning_rate: float = Field(1e-4, gt=0, description="peak learning rate, after the warm-up")
    warmup: float = Field(0.1, ge=0, lt=1, description="part of the steps over which the learning rate rises")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's weight decay")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    freeze_embeddings: bool = Field(True, description="leave the embedding tables as they are (about twice as fast)")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the processor has it")
    seed: int = Field(0, description="of shuffling, dropout and new weights")


def fit(
    model: Classifier, encoded: Sequence[Encoded], tokenizer: Tokenizer, loss_of: LossOf, config: TrainingConfig
) -> list[float]:
    """Train `model` in place and return the mean loss of each epoch.

    Raises:
        CheckError: the loss is no longer a number; says at which step and on which rows.
    """
    set_seed(config.seed)
    accelerator = Accelerator(mixed_precision="bf16" if uses_bf16(config) else "no")
    model.encoder.embeddings.requires_grad_(not config.freeze_embeddings)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay)
    plan = [list(length_batches(encoded, config.batch_size, config.seed + epoch)) for epoch in range(config.epochs)]
    steps = sum(len(batches) for batches in plan)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warm_then_linear(steps, config.warmup))
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    wrapped.train()
    losses = []
    with tqdm(
        total=steps, unit="step", desc="train", file=sys.stderr, disable=not accelerator.is_main_process
    ) as bar:
        for batches in plan:
            total = 0.0
            for rows in batches:
                batch = TensorBatch(tokenizer.pad([encoded[i] for i in rows]), accelerator.device)
                with accelerator.autocast():
                    loss = loss_of(wrapped, batch, rows)
                value = float(loss.detach())
                if not np.isfinite(value):
                    raise CheckError(
                        f"the loss is {value} at step {bar.n}, rows {list(rows)}: lower the learning rate"
                    )
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(trained, config.clip)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                total += value
                bar.update()
                bar.set_postfix(loss=f"{value:.3f}", refresh=False)
            losses.append(total / len(batches))
    model.requires_grad_(True)
    model.eval()
    return losses


def uses_bf16(config: TrainingConfig) -> bool:
    """Whether matrices are multiplied in bf16; torch emulates it, slowly, on processors that do not have it."""
    if config.precision != "auto":
        return config.precision == "bf16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return has_bf16()


def length_batches(encoded: Sequence[Encoded], size: int, seed: int) -> Iterator[list[int]]:
    """Yield row numbers, `size` at a time, of similar length and in a seeded order; each row comes once."""
    generator = np.random.default_rng(seed)
    noise = generator.permutation(len(encoded))  # breaks ties between rows of one length anew each epoch
    order = sorted(range(len(encoded)), key=lambda i: (len(encoded[i].ids), noise[i]))
    starts = list(range(0, len(order), size))
    for start in generator.permutation(len(starts)):
        yield order[starts[start] : starts[start] + size]


@torch.inference_mode()
def predict(model: Classifier, encoded: Sequence[Encoded], tokenizer: Tokenizer, size: int = 32) -> np.ndarray:
    """Return logits (rows, labels), float32, in the order of `encoded`."""
    model.eval()
    logits = np.zeros((len(encoded), model.labels), dtype=np.float32)
    for rows in length_batches(encoded, size, seed=0):
        batch = TensorBatch(tokenizer.pad([encoded[i] for i in rows]))
        logits[rows] = model(batch)[0].numpy()
    return logits


def _warm_then_linear(steps: int, warmup: float) -> Callable[[int], float]:
    rise = max(1, round(steps * warmup))
    return lambda step: min((step + 1) / rise, max(0.0, (steps - step) / max(1, steps - rise)))
