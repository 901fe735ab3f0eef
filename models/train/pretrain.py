"""pretrain(): texts → an encoder that has learned to guess hidden tokens, from scratch or onward from another.

BERT without next-sentence prediction, masked anew in each epoch (Devlin et al. 2019; Liu et al. 2019). The steps:
a tokenizer (models/data/wordpiece.py), packed sequences (models/data/corpus.py), masks (models/train/masking.py),
the model (models/masked.py), and the training loop that fine-tuning uses too (models/train/loop.py).
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from models import tokens
from models.architecture import Architecture, LayerShape
from models.atomic import write_text
from models.checkpoint import read_architecture
from models.data.corpus import Corpus, Packing, pack_corpus
from models.data.paragraphs import identify_files
from models.data.wordpiece import Vocabulary, open_backend, train_wordpiece
from models.distributed import join, processes
from models.errors import InputError
from models.folder import REPORT
from models.masked import HEADS, MaskedLanguageModel, load_masked_model, new_masked_model, save_masked_model
from models.record import Settings
from models.stage import Made, Stage, run_stage, scratch_folder
from models.train.history import History, keep_logs
from models.train.loop import Run, TrainingConfig, fit
from models.train.masked_objective import MaskedObjective, measure
from models.train.masking import MaskingConfig
from models.train.precision import computed_on, settle_precision
from models.train.source import PADDED_ROWS, copy_tokenizer, load_source_id, resolve_encoder

VERSION = 3
TOKENIZER_VERSION = 1
NEW = "new"
HEAD_SIZE = 64
SIZES = {"tiny": (2, 128), "mini": (4, 256), "small": (4, 512), "base": (12, 768)}  # layers, width (Turc et al. 2019)
DEFAULT_SIZE = "small"
ENDLESS = 10**9  # steps, where only the time counts
METRICS = ("held_out_loss", "masked_accuracy")
# what does not decide the weights, or is told by the packed corpus, which is a parent
UNTOLD: dict[str, Any] = {
    "packing": True, "vocabulary": True, "lowercase": True, "training": {"snapshot_minutes"}
}  # fmt: skip
HELD_OUT_SEED = 0  # of the masks that every model is measured with, whatever its training's seed


class PretrainConfig(Settings):
    """Settings of pretraining. A time or a number of steps may be given instead of epochs."""

    packing: Packing = Packing()
    vocabulary: int = Field(8192, ge=50, le=1_000_000, description="pieces of a new tokenizer")
    lowercase: bool = Field(True, description="a new tokenizer drops case and accents")
    masking: MaskingConfig = MaskingConfig()
    dropout: float = Field(0.1, ge=0, lt=1, description="part of the hidden states that is dropped in training")
    minutes: float | None = Field(None, gt=0, description="time to train: as many steps as fit")
    held_out_rows: int = Field(1024, ge=1, description="most held-out sequences that are measured")
    training: TrainingConfig = TrainingConfig(
        epochs=1, batch_size=64, learning_rate=5e-4, warmup=0.06, freeze_embeddings=False
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.minutes is not None and self.training.steps is not None:
            raise ValueError("give minutes or steps, not both")
        if self.training.metric not in (None, *METRICS):
            raise ValueError(f"the metric is {self.training.metric!r}: there are {', '.join(METRICS)}")
        if self.training.patience is not None and self.training.metric is None:
            raise ValueError(f"patience wants a metric that is watched: give one of {', '.join(METRICS)}")
        return self


@dataclass(frozen=True, slots=True)
class Sources:
    """What pretraining reads, and what it begins with: a size, or an encoder to go on from."""

    corpus: tuple[Path, ...]
    validation: tuple[Path, ...] = ()  # none: documents of the corpus are held out
    tokenizer: str | None = None  # "new" or a folder; None: the encoder's own, or a new one
    size: str | None = None  # of SIZES, or the path of an architecture.json; None: DEFAULT_SIZE
    encoder: str | None = None  # a folder or a built-in one

    def __post_init__(self) -> None:
        if self.encoder is not None and self.size is not None:
            raise InputError(f"found the size {self.size!r} and an encoder to go on from: wanted one of the two")
        if self.encoder is not None and self.tokenizer == NEW:
            raise InputError(
                "an encoder's embeddings belong to its tokenizer: leave out 'new' when going on from one"
            )


def pretrain(sources: Sources, config: PretrainConfig, store: Path) -> Made:
    """Return the folder of a masked-language model; its held-out loss is in report.json.

    The folder is one that fine-tuning takes, and that transformers' BertForMaskedLM loads. The same sources and
    settings give the same folder, made once; a killed run goes on from its last snapshot.

    Args:
        sources: texts, tokenizer, and what to begin with.
        config: sequences, masks and training.
        store: where the tokenizer, the packed corpus and the result are kept.

    Raises:
        InputError: a source cannot be used; says which and why.
        CheckError: the loss is no longer a number, or a file cannot be written.
    """
    tokenizer = _tokenizer_folder(sources, config, store)
    vocabulary = Vocabulary.of(open_backend(tokenizer))
    if config.masking.whole_words and not vocabulary.inside.any():
        raise InputError(f"{tokenizer} has no pieces that begin with ##, by which whole words are known")
    architecture = _architecture(sources, config.packing.length, vocabulary)
    corpus = pack_corpus(sources.corpus, sources.validation, tokenizer, config.packing, store)
    encoder = resolve_encoder(sources.encoder) if sources.encoder else None
    config = config.model_copy(update={"training": settle_precision(config.training, store)})
    settings = {
        "architecture": architecture.model_dump(mode="json"),
        "encoder": load_source_id(encoder) if encoder else None,
        **config.model_dump(mode="json", exclude=UNTOLD),
        **processes(),
        **computed_on(),
    }
    return run_stage(
        Stage("pretrain", VERSION, settings), [corpus.folder], store,
        lambda target: _make(target, encoder or architecture, tokenizer, corpus, config), together=True,
    )  # fmt: skip


def resolve_size(size: str, vocabulary: Vocabulary, length: int) -> Architecture:
    """Return the shape of a new encoder.

    Args:
        size: a name of `SIZES`, or the path of an `architecture.json`, whose number of tokens is not used.
        vocabulary: of the tokenizer.
        length: tokens of a training sequence; a named size takes no longer input, as it learns no further positions.

    Raises:
        InputError: there is no such size, or the file's encoder cannot be pretrained.
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
    if not Path(size).is_file():
        raise InputError(f"the size {size!r} is neither a file nor one of {', '.join(SIZES)}")
    return Architecture.read(Path(size)).model_copy(update={"vocabulary": vocabulary.size, "pad_id": vocabulary.pad})


def _make(target: Path, begin: Path | Architecture, tokenizer: Path, corpus: Corpus, config: PretrainConfig) -> None:
    """Fill the folder; `begin` is an encoder's folder to go on from, or a shape."""
    if isinstance(begin, Path):
        model = load_masked_model(begin, config.dropout, config.training.seed)
    else:
        model = new_masked_model(begin, config.dropout, config.training.seed)
    vocabulary, device = Vocabulary.of(open_backend(tokenizer)), join().device
    judge = MaskedObjective(corpus.held_out[: config.held_out_rows], vocabulary, config.masking, HELD_OUT_SEED)
    before = measure(model.to(device), judge, _piece(config.training))
    history = _train(model, corpus, judge, config, scratch_folder(target))
    save_masked_model(model, target)
    copy_tokenizer(tokenizer, target)
    keep_logs(scratch_folder(target), target)
    saved = load_masked_model(target).to(device)  # what is measured is what the folder holds
    after = measure(saved, judge, _piece(config.training))
    write_text(target / REPORT, json.dumps(_report(before, after, history, corpus), indent=2) + "\n")


def _report(before: dict[str, float], after: dict[str, float], history: History, corpus: Corpus) -> dict[str, Any]:
    """Return what report.json tells; losses are in nats a hidden token, over the same masks before and after."""
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
    model: MaskedLanguageModel, corpus: Corpus, judge: MaskedObjective, config: PretrainConfig, scratch: Path
) -> History:
    training = config.training
    objective = MaskedObjective(corpus.train, judge.vocabulary, config.masking, training.seed)
    if config.minutes is not None:
        training = training.model_copy(update={"steps": ENDLESS})
    run = Run(
        scratch=scratch,
        evaluate=lambda found: measure(found, judge, _piece(training)),
        lower_is_better=training.metric == "held_out_loss",
        minutes=config.minutes,
        describe="pretrain",
    )
    return fit(model, objective, training, run)


def _piece(training: TrainingConfig) -> int:
    """Return the rows that are computed together: what fits in training fits in measuring."""
    return max(1, training.batch_size // training.accumulate)


def _tokenizer_folder(sources: Sources, config: PretrainConfig, store: Path) -> Path:
    if sources.encoder is not None:
        return Path(sources.tokenizer) if sources.tokenizer else resolve_encoder(sources.encoder)
    if sources.tokenizer not in (None, NEW):
        return Path(sources.tokenizer)
    settings = {
        "corpus": identify_files(sources.corpus), "size": config.vocabulary, "lowercase": config.lowercase
    }  # fmt: skip

    def make(target: Path) -> None:
        found = train_wordpiece(sources.corpus, config.vocabulary, config.lowercase)
        found.save(str(target / tokens.FILE))
        # transformers would lower the case of a tokenizer that does not say otherwise
        told = {"tokenizer_class": "BertTokenizer", "do_lower_case": config.lowercase, "strip_accents": None}
        write_text(target / "tokenizer_config.json", json.dumps(told, indent=2) + "\n")

    return run_stage(Stage("tokenizer", TOKENIZER_VERSION, settings), [], store, make).folder.path


def _architecture(sources: Sources, length: int, vocabulary: Vocabulary) -> Architecture:
    """Return the shape to train, checked against the tokenizer and the sequences."""
    if sources.encoder is None:
        named = sources.size or DEFAULT_SIZE
        shape = resolve_size(named, vocabulary, length)
    else:
        named = str(resolve_encoder(sources.encoder))
        shape = read_architecture(Path(named))
    if shape.family not in HEADS:
        raise InputError(f"{named} is a {shape.family!r} encoder: pretrained here are {', '.join(HEADS)}")
    if not 0 <= shape.vocabulary - vocabulary.size <= PADDED_ROWS:
        raise InputError(f"{named} has {shape.vocabulary} token embeddings, the tokenizer {vocabulary.size} tokens")
    if shape.positions < length:
        raise InputError(
            f"{named} takes {shape.positions} tokens, and the sequences have {length}: ask for shorter sequences"
        )
    return shape
