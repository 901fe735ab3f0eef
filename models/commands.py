"""The verbs that train: `prunella finetune` and `prunella pretrain`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from models.console import STORE, Out, Store, finish, need
from models.task import Kind

Batch = Annotated[int, typer.Option(help="rows of one step, on each process")]
Accumulate = Annotated[int, typer.Option(help="pieces in which a step is computed, to save memory")]
Precision = Annotated[str, typer.Option(help="auto, fp32 or bf16; auto: bf16 where this processor is faster with it")]
WeightDecay = Annotated[float, typer.Option(help="of matrices; biases and norms have none")]
Warmup = Annotated[float, typer.Option(help="part of the steps over which the learning rate rises")]
SnapshotMinutes = Annotated[float, typer.Option(help="minutes between snapshots, from which a killed run goes on")]


def finetune(
    train: Annotated[
        str,
        typer.Option(
            help="CSV, TSV, JSONL or Parquet with columns text, label (and text_pair); hub:NAME:SPLIT; builtin:…"
        ),
    ],
    encoder: Annotated[str, typer.Option(help="Hugging Face folder, or builtin:minilm-l6")] = "builtin:minilm-l6",
    validation: Annotated[str | None, typer.Option(help="rows to watch; default: a tenth of --train")] = None,
    test: Annotated[str | None, typer.Option(help="rows that the finished model is scored on")] = None,
    task: Annotated[Kind, typer.Option(help="one label a row, any number of labels, or a number")] = "single",
    text_column: str = "text",
    pair_column: str = "text_pair",
    label_column: str = "label",
    epochs: int = 3,
    max_tokens: Annotated[int, typer.Option(help="longer texts are cut, and counted")] = 128,
    batch_size: Batch = 32,
    accumulate: Accumulate = 1,
    learning_rate: float = 1e-4,
    layer_decay: Annotated[float, typer.Option(help="factor on the rate from a layer to that below")] = 1.0,
    warmup: Warmup = 0.1,
    weight_decay: WeightDecay = 0.01,
    dropout: float = 0.1,
    label_smoothing: float = 0.0,
    class_weights: Annotated[str, typer.Option(help="none, or balanced: rare labels count more")] = "none",
    freeze_embeddings: Annotated[bool, typer.Option(help="the embedding tables stay as they are: faster")] = True,
    sparse_embeddings: Annotated[
        bool, typer.Option(help="where they are trained, a step updates only the rows of its tokens: faster")
    ] = True,
    metric: Annotated[str | None, typer.Option(help="watched: the best step is kept, not the last")] = None,
    patience: Annotated[int | None, typer.Option(help="evaluations without a better metric before it stops")] = None,
    evaluate_every: Annotated[int | None, typer.Option(help="steps between evaluations; default: an epoch")] = None,
    precision: Precision = "auto",
    snapshot_minutes: SnapshotMinutes = 5,
    seed: int = 0,
    seeds: Annotated[int, typer.Option(min=1, help="train so many models, from --seed on: mean and spread")] = 1,
    store: Store = STORE,
    out: Out = None,
) -> None:
    """Train a classifier on an encoder. A killed run goes on when the same command is given again."""
    need("torch", "train")
    from models.data.texts import Columns, read_texts
    from models.train.finetune import FinetuneConfig, Splits
    from models.train.finetune import finetune as work
    from models.train.seeds import finetune_seeds

    columns = Columns(text=text_column, text_pair=pair_column, label=label_column)
    rows = read_texts(train, columns, task)
    rows, held_out = (rows, read_texts(validation, columns, task)) if validation else rows.split(0.1, seed)
    splits = Splits(rows, held_out, read_texts(test, columns, task) if test else None)
    config = FinetuneConfig.model_validate({
        "max_tokens": max_tokens, "dropout": dropout,
        "loss": {"class_weights": class_weights, "label_smoothing": label_smoothing},
        "training": {
            "epochs": epochs, "batch_size": batch_size, "accumulate": accumulate, "learning_rate": learning_rate,
            "layer_decay": layer_decay, "warmup": warmup, "weight_decay": weight_decay, "metric": metric,
            "freeze_embeddings": freeze_embeddings, "sparse_embeddings": sparse_embeddings, "patience": patience,
            "evaluate_every": evaluate_every, "precision": precision, "snapshot_minutes": snapshot_minutes,
            "seed": seed,
        },
    })  # fmt: skip
    if seeds > 1:
        made, spread = finetune_seeds(encoder, splits, config, store, seeds)
        finish("finetune", made, out, **spread)
    else:
        finish("finetune", work(encoder, splits, config, store), out)


def pretrain(
    corpus: Annotated[
        list[Path], typer.Option(help="text files (a paragraph a line, a blank line between documents) or JSONL")
    ],
    validation: Annotated[
        list[Path] | None, typer.Option(help="held-out texts; default: documents of --corpus")
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="new: WordPiece from the corpus; or a folder")] = None,
    size: Annotated[str | None, typer.Option(help="tiny, mini, small, base, or an architecture.json")] = None,
    encoder: Annotated[
        str | None, typer.Option(help="go on from this folder, or builtin:minilm-l6; instead of --size")
    ] = None,
    vocabulary: Annotated[int, typer.Option(help="pieces of a new tokenizer")] = 8192,
    lowercase: Annotated[bool, typer.Option(help="a new tokenizer drops case and accents")] = True,
    length: Annotated[int, typer.Option(help="tokens of a training sequence")] = 128,
    hold_out: Annotated[int, typer.Option(help="every so manieth document is held out")] = 50,
    masked_share: Annotated[float, typer.Option(help="part of the tokens to guess")] = 0.15,
    whole_words: Annotated[bool, typer.Option(help="hide all pieces of a word together")] = False,
    minutes: Annotated[float | None, typer.Option(help="time to train; instead of --steps or --epochs")] = None,
    steps: int | None = None,
    epochs: int = 1,
    batch_size: Batch = 64,
    accumulate: Accumulate = 1,
    learning_rate: float = 5e-4,
    warmup: Warmup = 0.06,
    weight_decay: WeightDecay = 0.01,
    dropout: float = 0.1,
    metric: Annotated[str | None, typer.Option(help="held_out_loss or masked_accuracy: keep the best")] = None,
    patience: Annotated[int | None, typer.Option(help="evaluations without a better metric before it stops")] = None,
    evaluate_every: Annotated[int | None, typer.Option(help="steps between evaluations; default: an epoch")] = None,
    precision: Precision = "auto",
    snapshot_minutes: SnapshotMinutes = 5,
    seed: int = 0,
    store: Store = STORE,
    out: Out = None,
) -> None:
    """Teach an encoder a language by letting it guess hidden words, from scratch or onward from another."""
    need("torch", "train")
    from models.train.pretrain import PretrainConfig, Sources
    from models.train.pretrain import pretrain as work

    told: dict[str, Any] = {
        "packing": {"length": length, "hold_out": hold_out}, "vocabulary": vocabulary, "lowercase": lowercase,
        "masking": {"share": masked_share, "whole_words": whole_words}, "dropout": dropout, "minutes": minutes,
        "training": {
            "epochs": epochs, "steps": steps, "batch_size": batch_size, "accumulate": accumulate,
            "learning_rate": learning_rate, "warmup": warmup, "weight_decay": weight_decay,
            "freeze_embeddings": False, "metric": metric, "patience": patience, "evaluate_every": evaluate_every,
            "precision": precision, "snapshot_minutes": snapshot_minutes, "seed": seed,
        },
    }  # fmt: skip
    sources = Sources(tuple(corpus), tuple(validation or ()), tokenizer, size, encoder)
    finish("pretrain", work(sources, PretrainConfig.model_validate(told), store), out)
