"""The commands that train: `prunella finetune` and `prunella pretrain`."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from models.store.results import Delivered, deliver
from models.task import Kind
from prunella.cli.options import NEAREST_HELP, SCORES_HELP, STORE, LabelColumn, Out, PairColumn, Store, TextColumn
from prunella.cli.output import need

Batch = Annotated[int, typer.Option(help="rows of a training step in each process")]
Accumulate = Annotated[
    int, typer.Option(help="number of parts into which a batch is split to save memory (gradient accumulation)")
]
Precision = Annotated[str, typer.Option(help="auto, fp32 or bf16; auto: bf16 if it is faster on this processor")]
WeightDecay = Annotated[float, typer.Option(help="weight decay of matrices; biases and norms have none")]
Dropout = Annotated[float, typer.Option(help="share of the values that are set to 0 in training, below 1")]
Seed = Annotated[int, typer.Option(help="seed of the order of rows, of dropout and of new weights")]
Warmup = Annotated[float, typer.Option(help="share of the steps in which the learning rate rises")]
Patience = Annotated[int | None, typer.Option(help="stop after this number of evaluations without a better metric")]
EvaluateEvery = Annotated[int | None, typer.Option(help="steps between evaluations; default: an epoch")]
SnapshotMinutes = Annotated[
    float, typer.Option(help="minutes between snapshots; a killed run resumes from the last one")
]


def finetune(
    train: Annotated[
        str,
        typer.Option(
            help="CSV, TSV, JSONL or Parquet file with columns text, label (and text_pair); hub:NAME:SPLIT; builtin:…"
        ),
    ],
    encoder: Annotated[
        str,
        typer.Option(
            help="pre-trained encoder: a Hugging Face folder, builtin:minilm-l6, builtin:mpnet-base or "
            "builtin:multilingual-e5"
        ),
    ] = "builtin:minilm-l6",
    validation: Annotated[
        str | None,
        typer.Option(help="labelled rows for the evaluations during training; default: a tenth of --train"),
    ] = None,
    test: Annotated[str | None, typer.Option(help="labelled rows on which the finished model is evaluated")] = None,
    task: Annotated[
        Kind, typer.Option(help="single: one label per row; multi: any number of labels; regression: a number")
    ] = "single",
    pooling: Annotated[
        Literal["cls", "mean"] | None,
        typer.Option(
            help="input of the head: the first token or the mean of all; default: the first token, or what the "
            "encoder's config.json says (ModernBERT)"
        ),
    ] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            help="classifier folder of Prunella or transformers whose answers are learned besides the labels; may be "
            "given several times"
        ),
    ] = None,
    teacher_scores: Annotated[
        Path | None,
        typer.Option(help=SCORES_HELP),
    ] = None,
    teacher_logits: Annotated[
        bool, typer.Option("--teacher-logits", help="--teacher-scores holds logits; default: probabilities")
    ] = False,
    teacher_weight: Annotated[
        float | None, typer.Option(help="weight of the teachers' answers, the labels have the rest; default: 0.5")
    ] = None,
    teacher_temperature: Annotated[
        float | None, typer.Option(help="temperature of the teachers' and the student's softmax; default: 2")
    ] = None,
    weak_teacher: Annotated[
        bool,
        typer.Option("--weak-teacher", help="continue with a teacher that is not better than one constant answer"),
    ] = False,
    texts: Annotated[str | None, typer.Option(help="further texts without labels, which teachers answer")] = None,
    nearest: Annotated[int | None, typer.Option(help=NEAREST_HELP)] = None,
    text_column: TextColumn = "text",
    pair_column: PairColumn = "text_pair",
    label_column: LabelColumn = "label",
    epochs: Annotated[
        int | None, typer.Option(help="passes over the training rows; default: as many as help, chosen from the data")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="limit on the training time in minutes")] = None,
    max_tokens: Annotated[
        int, typer.Option(help="maximum text length in tokens; longer texts are truncated and counted")
    ] = 128,
    batch_size: Batch = 32,
    accumulate: Accumulate = 1,
    learning_rate: Annotated[
        float | None, typer.Option(help="peak learning rate; default: chosen from the data and the encoder")
    ] = None,
    layer_decay: Annotated[
        float | None,
        typer.Option(help="factor of the learning rate from each layer to the layer below; default: chosen"),
    ] = None,
    warmup: Warmup = 0.1,
    weight_decay: WeightDecay = 0.01,
    dropout: Dropout = 0.1,
    label_smoothing: Annotated[
        float, typer.Option(help="share of a label's weight that all labels get; for labels that may be wrong")
    ] = 0.0,
    class_weights: Annotated[
        str, typer.Option(help="none, or balanced (rare labels have a larger weight in the loss)")
    ] = "none",
    freeze_embeddings: Annotated[
        bool | None, typer.Option(help="do not train the embedding tables, which is faster; default: chosen")
    ] = None,
    sparse_embeddings: Annotated[
        bool,
        typer.Option(
            help="if the embedding tables are trained, update only the rows of a batch's tokens, which is faster"
        ),
    ] = True,
    metric: Annotated[
        str | None, typer.Option(help="metric of the evaluations; the model with the best value is kept")
    ] = None,
    patience: Patience = None,
    evaluate_every: EvaluateEvery = None,
    precision: Precision = "auto",
    snapshot_minutes: SnapshotMinutes = 5,
    seed: Seed = 0,
    seeds: Annotated[
        int, typer.Option(min=1, help="number of models to train, with seeds from --seed on; reports mean and spread")
    ] = 1,
    store: Store = STORE,
    out: Out = None,
) -> Delivered:
    """Fine-tune a classifier from an encoder. A killed run resumes when the same command is run again."""
    need("torch", "train")
    from models.data.columns import Columns
    from models.data.texts import read_texts
    from models.finetuning.finetune import FinetuneConfig, Splits, check_teachers
    from models.finetuning.finetune import finetune as finetune_stage
    from models.finetuning.seeds import finetune_seeds
    from models.retrieval.nearest_texts import nearest_texts

    columns = Columns(text=text_column, text_pair=pair_column, label=label_column)
    rows = read_texts(train, columns, task)
    more = read_texts(texts, columns.unlabelled(), task) if texts else None
    numbered = [*rows.rows, *(more.rows if more else ())]
    teachers, teaching = _teachers(
        teacher, teacher_scores, columns, numbered, logits=teacher_logits, weight=teacher_weight,
        temperature=teacher_temperature, weak=weak_teacher, texts=texts, nearest=nearest,
    )  # fmt: skip
    rows, held_out = (rows, read_texts(validation, columns, task)) if validation else rows.split(0.1, seed)
    splits = Splits(
        rows, held_out, read_texts(test, columns, task) if test else None, not validation, teachers=teachers
    )
    if more and nearest is not None:
        check_teachers(splits, max_tokens)  # the choice of texts takes long
        held_out_parts = [part for part in (splits.validation, splits.test) if part is not None]
        more = nearest_texts(more, splits.train, held_out_parts, nearest, store)
    splits = splits.with_texts(more) if more else splits
    training = {
        "epochs": epochs, "batch_size": batch_size, "accumulate": accumulate, "learning_rate": learning_rate,
        "layer_decay": layer_decay, "warmup": warmup, "weight_decay": weight_decay, "metric": metric,
        "freeze_embeddings": freeze_embeddings, "sparse_embeddings": sparse_embeddings, "patience": patience,
        "evaluate_every": evaluate_every, "precision": precision, "snapshot_minutes": snapshot_minutes,
        "seed": seed,
    }  # fmt: skip
    config = FinetuneConfig.model_validate({
        "max_tokens": max_tokens, "dropout": dropout, "pooling": pooling, "minutes": minutes, "automatic": True,
        "teaching": teaching,
        "loss": {"class_weights": class_weights, "label_smoothing": label_smoothing},
        "training": {name: value for name, value in training.items() if value is not None},
    })  # fmt: skip
    if seeds > 1:
        best, spread = finetune_seeds(encoder, splits, config, store, seeds)
        return deliver(best, out, spread)
    return deliver(finetune_stage(encoder, splits, config, store), out)


def _teachers(
    folders: list[str] | None, scores: Path | None, columns: Any, numbered: list[Any], **options: Any
) -> tuple[Any, dict[str, float] | None]:
    """Return the teachers, and the settings of `TeachingConfig` that are given; None and None without teachers."""
    from models.errors import InputError
    from models.finetuning.finetune_config import Teachers

    if not folders and scores is None:
        needless = [name for name, value in options.items() if value not in (None, False)]
        if needless:
            flags = {"weak": "--weak-teacher", "texts": "--texts", "nearest": "--nearest"}
            flag = flags.get(needless[0], f"--teacher-{needless[0]}")
            raise InputError(f"{flag} needs a teacher: give --teacher FOLDER or --teacher-scores FILE")
        return None, None
    if options["nearest"] is not None and options["texts"] is None:
        raise InputError("--nearest takes lines of --texts FILE: give that too")
    if options["logits"] and scores is None:
        raise InputError("--teacher-logits says what --teacher-scores FILE holds: give that too")
    settings = {name: options[name] for name in ("weight", "temperature") if options[name] is not None}
    named = [folders] if isinstance(folders, str | Path) else folders or []  # Python callers may give one
    return Teachers(
        tuple(Path(folder) for folder in named), scores, options["logits"], columns, numbered, options["weak"]
    ), settings


def pretrain(
    corpus: Annotated[
        list[Path],
        typer.Option(
            help="training texts: text files (one paragraph per line, documents separated by blank lines) or JSONL"
        ),
    ],
    validation: Annotated[
        list[Path] | None, typer.Option(help="texts for validation; default: documents held out from --corpus")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="new (train WordPiece on the corpus), or a folder with a tokenizer")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="architecture: tiny, mini, small, base, or an architecture.json")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="continue from this encoder folder, builtin:minilm-l6 or builtin:mpnet-base; instead of --size"
        ),
    ] = None,
    vocabulary: Annotated[int, typer.Option(help="vocabulary size of a new tokenizer")] = 8192,
    lowercase: Annotated[bool, typer.Option(help="whether a new tokenizer lowercases and removes accents")] = True,
    length: Annotated[int, typer.Option(help="length of a training sequence in tokens")] = 128,
    hold_out: Annotated[int, typer.Option(help="hold out every N-th document for validation")] = 50,
    masked_share: Annotated[float, typer.Option(help="share of the tokens that are masked")] = 0.15,
    whole_words: Annotated[bool, typer.Option(help="mask all pieces of a word together")] = False,
    minutes: Annotated[
        float | None, typer.Option(help="training time in minutes; instead of --steps or --epochs")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="length in steps; instead of --epochs or --minutes")] = None,
    epochs: Annotated[int, typer.Option(help="length in passes over the corpus")] = 1,
    batch_size: Batch = 64,
    accumulate: Accumulate = 1,
    learning_rate: Annotated[float, typer.Option(help="peak learning rate")] = 5e-4,
    warmup: Warmup = 0.06,
    weight_decay: WeightDecay = 0.01,
    dropout: Dropout = 0.1,
    metric: Annotated[
        str | None, typer.Option(help="held_out_loss or masked_accuracy; the model with the best value is kept")
    ] = None,
    patience: Patience = None,
    evaluate_every: EvaluateEvery = None,
    precision: Precision = "auto",
    snapshot_minutes: SnapshotMinutes = 5,
    seed: Seed = 0,
    store: Store = STORE,
    out: Out = None,
) -> Delivered:
    """Pre-train an encoder by masked language modelling, from scratch or from another encoder."""
    need("torch", "train")
    from models.pretraining.pretrain import PretrainConfig, Sources
    from models.pretraining.pretrain import pretrain as pretrain_stage

    settings: dict[str, Any] = {
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
    return deliver(pretrain_stage(sources, PretrainConfig.model_validate(settings), store), out)
