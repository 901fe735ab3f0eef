"""pretrain(): trains an encoder with masked language modelling, from scratch or starting from an existing encoder.

BERT without next-sentence prediction, with masks that differ in each epoch (Devlin et al. 2019; Liu et al. 2019). The
parts: a tokenizer (wordpiece.py), packed sequences (corpus.py), masks (masking.py), the model (masked_lm.py), and the
training loop that it shares with fine-tuning (models/train/loop.py).
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from models import tokenizer as tokenizer_file
from models.architecture import Architecture, LayerShape
from models.checkpoint import read_architecture
from models.distributed import join, processes
from models.errors import InputError
from models.pretraining.corpus import Corpus, Packing, pack_corpus
from models.pretraining.masked_lm import (
    HEADS,
    MaskedLanguageModel,
    load_masked_model,
    new_masked_model,
    save_masked_model,
)
from models.pretraining.masking import MaskingConfig
from models.pretraining.objective import MaskedObjective, maskable_rows, measure
from models.pretraining.paragraphs import identify_files
from models.pretraining.wordpiece import Vocabulary, open_backend, train_wordpiece
from models.schema import Settings
from models.store.atomic import write_text
from models.store.folder import REPORT
from models.store.stage import Stage, StageResult, run_stage, scratch_folder
from models.train.history import History, keep_logs
from models.train.loop import Run, TrainingConfig, fit
from models.train.precision import computed_on, settle_precision
from models.train.starting_point import PADDED_ROWS, copy_tokenizer, load_source_id, resolve_encoder

VERSION = 3
TOKENIZER_VERSION = 1
NEW = "new"
HEAD_SIZE = 64
SIZES = {"tiny": (2, 128), "mini": (4, 256), "small": (4, 512), "base": (12, 768)}  # layers, width (Turc et al. 2019)
DEFAULT_SIZE = "small"
ENDLESS = 10**9  # steps of a training that only the time limits
METRICS = ("held_out_loss", "masked_accuracy")
# settings that do not affect the weights, or are part of the identity of the packed corpus, which is a parent
NOT_IN_IDENTITY: dict[str, Any] = {
    "packing": True, "vocabulary": True, "lowercase": True, "training": {"snapshot_minutes"}
}  # fmt: skip
HELD_OUT_SEED = 0  # of the masks for evaluation, the same for all seeds of the training


class PretrainConfig(Settings):
    """Settings of pretraining. A time or a number of steps can be given instead of epochs."""

    packing: Packing = Packing()
    vocabulary: int = Field(8192, ge=50, le=1_000_000, description="pieces of a new tokenizer")
    lowercase: bool = Field(True, description="a new tokenizer drops case and accents")
    masking: MaskingConfig = MaskingConfig()
    dropout: float = Field(0.1, ge=0, lt=1, description="share of the hidden states set to zero during training")
    minutes: float | None = Field(None, gt=0, description="time to train: as many steps as fit")
    held_out_rows: int = Field(1024, ge=1, description="maximum number of held-out sequences that are evaluated")
    training: TrainingConfig = TrainingConfig(
        epochs=1, batch_size=64, learning_rate=5e-4, warmup=0.06, freeze_embeddings=False
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.minutes is not None and self.training.steps is not None:
            raise ValueError("give minutes or steps, not both")
        if self.training.metric not in (None, *METRICS):
            raise ValueError(f"unknown metric {self.training.metric!r}; choose from {', '.join(METRICS)}")
        if self.training.patience is not None and self.training.metric is None:
            raise ValueError(f"patience needs a metric to watch; choose from {', '.join(METRICS)}")
        return self


@dataclass(frozen=True, slots=True)
class Sources:
    """The inputs of pretraining: texts, tokenizer, and the size of a new encoder or an existing encoder."""

    corpus: tuple[Path, ...]
    validation: tuple[Path, ...] = ()  # empty: documents of the corpus are held out
    tokenizer: str | None = None  # "new" or a folder; None: that of the encoder, or a new one
    size: str | None = None  # a key of SIZES, or the path of an architecture.json; None: DEFAULT_SIZE
    encoder: str | None = None  # a folder or the name of a built-in encoder

    def __post_init__(self) -> None:
        if self.encoder is not None and self.size is not None:
            raise InputError(f"found the size {self.size!r} and an encoder to continue from: wanted one of the two")
        if self.encoder is not None and self.tokenizer == NEW:
            raise InputError(
                "an encoder's embeddings belong to its tokenizer: leave out 'new' to continue from an encoder"
            )


def pretrain(sources: Sources, config: PretrainConfig, store: Path) -> StageResult:
    """Return the folder of a masked-language model; its held-out loss is in report.json.

    Fine-tuning accepts the folder as its encoder, and transformers' BertForMaskedLM loads it. The same sources and
    settings give the same folder, created once; a killed run resumes from its last snapshot.

    Args:
        sources: texts, tokenizer, and the size of a new encoder or an existing encoder.
        config: settings of sequences, masks and training.
        store: where the tokenizer, the packed corpus and the result are stored.

    Raises:
        InputError: a source cannot be used; the message says which and why.
        CheckError: the loss is not finite, or a file cannot be written.
    """
    _check_size(sources.size or DEFAULT_SIZE)  # before a tokenizer is trained
    tokenizer = _tokenizer_folder(sources, config, store)
    vocabulary = Vocabulary.of(open_backend(tokenizer))
    if config.masking.whole_words and not vocabulary.inside.any():
        raise InputError(f"{tokenizer} has no pieces that begin with ##: masking whole words needs them")
    architecture = _architecture(sources, config.packing.length, vocabulary, store)
    corpus = pack_corpus(sources.corpus, sources.validation, tokenizer, config.packing, store)
    encoder = resolve_encoder(sources.encoder, store) if sources.encoder else None
    config = config.model_copy(update={"training": settle_precision(config.training, store)})
    settings = {
        "architecture": architecture.model_dump(mode="json"),
        "encoder": load_source_id(encoder) if encoder else None,
        **config.model_dump(mode="json", exclude=NOT_IN_IDENTITY),
        **processes(),
        **computed_on(),
    }
    return run_stage(
        Stage("pretrain", VERSION, settings), [corpus.folder], store,
        lambda target: _fill_folder(target, encoder or architecture, tokenizer, corpus, config), together=True,
    )  # fmt: skip


def resolve_size(size: str, vocabulary: Vocabulary, length: int) -> Architecture:
    """Return the architecture of a new encoder.

    Args:
        size: a key of `SIZES`, or the path of an `architecture.json`, whose vocabulary size is replaced.
        vocabulary: the vocabulary of the tokenizer.
        length: tokens of a training sequence, which is the longest input of an encoder of a named size.

    Raises:
        InputError: there is neither such a size nor such a file.
        FolderError: the file is not a valid architecture.
    """
    if size in SIZES:
        count, width = SIZES[size]
        return Architecture(
            vocabulary=vocabulary.size,
            positions=length,
            token_types=2,
            width=width,
            head_size=HEAD_SIZE,
            layers=(LayerShape(heads=width // HEAD_SIZE, ffn=4 * width),) * count,
            pad_id=vocabulary.pad,
        )
    _check_size(size)
    return Architecture.read(Path(size)).model_copy(update={"vocabulary": vocabulary.size, "pad_id": vocabulary.pad})


def _check_size(size: str) -> None:
    if size not in SIZES and not Path(size).is_file():
        raise InputError(f"the size {size!r} is neither a file nor one of {', '.join(SIZES)}")


def _fill_folder(
    target: Path, initial: Path | Architecture, tokenizer: Path, corpus: Corpus, config: PretrainConfig
) -> None:
    """Train and fill the folder; `initial` is the folder of an encoder to continue from, or an architecture."""
    if isinstance(initial, Path):
        model = load_masked_model(initial, config.dropout, config.training.seed)
    else:
        model = new_masked_model(initial, config.dropout, config.training.seed)
    vocabulary, device = Vocabulary.of(open_backend(tokenizer)), join().device
    rows = maskable_rows(corpus.held_out, vocabulary, config.held_out_rows)
    held_out = MaskedObjective(rows, vocabulary, config.masking, HELD_OUT_SEED)
    before = measure(model.to(device), held_out, _micro_batch_size(config.training))
    history = _train(model, corpus, held_out, config, scratch_folder(target))
    save_masked_model(model, target)
    copy_tokenizer(tokenizer, target)
    keep_logs(scratch_folder(target), target)
    saved = load_masked_model(target).to(device)  # evaluate the weights that the folder holds
    after = measure(saved, held_out, _micro_batch_size(config.training))
    write_text(target / REPORT, json.dumps(_report(before, after, history, corpus), indent=2) + "\n")


def _report(before: dict[str, float], after: dict[str, float], history: History, corpus: Corpus) -> dict[str, Any]:
    """Return the contents of report.json; losses are in nats per masked token, same masks before and after."""
    return {
        **after,
        "hidden_tokens": int(after["hidden_tokens"]),
        "perplexity": math.exp(after["held_out_loss"]),
        "held_out_loss_before": before["held_out_loss"],
        "tokens_seen": history.tokens,
        "seconds": round(history.seconds, 1),
        "tokens_per_second": round(history.tokens / history.seconds),
        "details": {
            "corpus": corpus.header.model_dump(mode="json"),
            "history": history.model_dump(mode="json"),
        },
    }


def _train(
    model: MaskedLanguageModel, corpus: Corpus, held_out: MaskedObjective, config: PretrainConfig, scratch: Path
) -> History:
    training = config.training
    objective = MaskedObjective(corpus.train, held_out.vocabulary, config.masking, training.seed)
    if config.minutes is not None:
        training = training.model_copy(update={"steps": ENDLESS})
    run = Run(
        scratch=scratch,
        evaluate=lambda current: measure(current, held_out, _micro_batch_size(training)),
        lower_is_better=training.metric == "held_out_loss",
        minutes=config.minutes,
        describe="pretrain",
    )
    return fit(model, objective, training, run)


def _micro_batch_size(training: TrainingConfig) -> int:
    """Return the rows per forward pass in training; their memory suffices for the evaluation, too."""
    return max(1, training.batch_size // training.accumulate)


def _tokenizer_folder(sources: Sources, config: PretrainConfig, store: Path) -> Path:
    if sources.encoder is not None:
        return Path(sources.tokenizer) if sources.tokenizer else resolve_encoder(sources.encoder, store)
    if sources.tokenizer not in (None, NEW):
        return Path(sources.tokenizer)
    settings = {
        "corpus": identify_files(sources.corpus), "size": config.vocabulary, "lowercase": config.lowercase
    }  # fmt: skip

    def make(target: Path) -> None:
        tokenizer = train_wordpiece(sources.corpus, config.vocabulary, config.lowercase)
        tokenizer.save(str(target / tokenizer_file.FILE))
        # without do_lower_case, transformers lowercases
        fields = {"tokenizer_class": "BertTokenizer", "do_lower_case": config.lowercase, "strip_accents": None}
        write_text(target / "tokenizer_config.json", json.dumps(fields, indent=2) + "\n")

    return run_stage(Stage("tokenizer", TOKENIZER_VERSION, settings), [], store, make).folder.path


def _architecture(sources: Sources, length: int, vocabulary: Vocabulary, store: Path) -> Architecture:
    """Return the architecture to train, checked against the tokenizer and the sequence length."""
    if sources.encoder is None:
        source = sources.size or DEFAULT_SIZE
        shape = resolve_size(source, vocabulary, length)
    else:
        source = str(resolve_encoder(sources.encoder, store))
        shape = read_architecture(Path(source))
    if shape.family not in HEADS:
        raise InputError(f"{source} is a {shape.family!r} encoder; pretraining supports {', '.join(HEADS)}")
    if not 0 <= shape.vocabulary - vocabulary.size <= PADDED_ROWS:
        raise InputError(f"{source} has {shape.vocabulary} token embeddings, the tokenizer {vocabulary.size} tokens")
    if shape.positions < length:
        raise InputError(
            f"{source} takes {shape.positions} tokens, and the sequences have {length}: choose shorter sequences"
        )
    return shape
