"""finetune(): an encoder and labelled texts → a classifier folder."""

import json
import shutil
from pathlib import Path

import torch
import torch.nn.functional as functional
from pydantic import Field
from torch import Tensor

from models import task as task_file
from models import tokens
from models.builtin import MINILM, minilm_folder
from models.checkpoint import load_checkpoint, save_checkpoint
from models.classifier import Classifier, TensorBatch
from models.errors import InputError
from models.folder import ModelFolder, sha256_of
from models.record import Record
from models.stage import Made, Stage, run_stage
from models.task import Task
from models.texts import Texts
from models.tokens import Tokenizer
from models.training import TrainingConfig, fit, predict

VERSION = 1


class FinetuneConfig(Record):
    """Settings of fine-tuning."""

    max_tokens: int = Field(128, ge=4, description="longest input in tokens; longer texts are cut, and counted")
    training: TrainingConfig = TrainingConfig()


def resolve_encoder(encoder: str) -> Path:
    """Return the folder of `builtin:minilm-l6` or of a path."""
    return minilm_folder() if encoder == MINILM else Path(encoder)


def finetune(encoder: str, train: Texts, held_out: Texts, config: FinetuneConfig, store: Path) -> Made:
    """Return the folder of a classifier trained on `train`; its accuracy on `held_out` is in report.json."""
    folder = resolve_encoder(encoder)
    source = load_source_id(folder)
    labels = train.label_names()
    unknown = set(held_out.require_labels()) - set(labels)
    if unknown:
        raise InputError(f"{held_out.source} has labels that {train.source} has not: {', '.join(sorted(unknown))}")
    if len(labels) < 2:
        raise InputError(f"{train.source} has one label only ({labels[0]}): wanted two or more")
    task = Task(labels=labels, pair=train.pair, max_tokens=config.max_tokens)
    settings = {
        "encoder": source, "train": train.sha256, "held_out": held_out.sha256, "task": task.model_dump(mode="json"),
        **config.model_dump(mode="json"),
    }  # fmt: skip

    def make(target: Path) -> None:
        tokenizer = Tokenizer.open(folder, config.max_tokens)
        model = load_checkpoint(folder, labels=len(labels), seed=config.training.seed)
        if tokenizer.vocabulary != model.architecture.vocabulary:
            raise InputError(
                f"{folder}: the tokenizer knows {tokenizer.vocabulary} tokens, "
                f"the weights {model.architecture.vocabulary}"
            )
        encoded = tokenizer.encode(train.rows)
        truth = torch.tensor([labels.index(label) for label in train.require_labels()])

        def loss_of(model: Classifier, batch: TensorBatch, rows: "list[int]") -> Tensor:
            return functional.cross_entropy(model(batch)[0], truth[rows])

        losses = fit(model, encoded, tokenizer, loss_of, config.training)  # type: ignore[arg-type]
        answers = predict(model, tokenizer.encode(held_out.rows), tokenizer).argmax(1)
        expected = [labels.index(label) for label in held_out.require_labels()]
        save_checkpoint(model, task, target)
        task.write(target / task_file.FILE)
        shutil.copyfile(folder / tokens.FILE, target / tokens.FILE)
        cut = sum(len(e.ids) == config.max_tokens for e in encoded) / len(encoded)
        report = {
            "accuracy": float((answers == expected).mean()), "rows": len(expected), "epoch_losses": losses,
            "train_rows_at_max_tokens": cut,
        }  # fmt: skip
        (target / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")

    return run_stage(Stage("finetune", VERSION, settings), [], store, make)


def load_source_id(folder: Path) -> str:
    """Return what identifies a checkpoint: the id of a folder of ours, or the hash of the weights of another's."""
    if (folder / "manifest.json").is_file():
        return ModelFolder.open(folder).id
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return sha256_of(folder / name)
    raise InputError(f"{folder} is not a model folder: wanted model.safetensors in it")
