"""Settings, data and teachers of a fine-tuning; complete(): checks them and chooses what is not given."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import Field

from models.architecture import Architecture, Pooling
from models.checkpoint import read_architecture
from models.compatibility import check_tokenizer
from models.data.check_labels import check_labels
from models.data.columns import Columns
from models.data.overlap import without
from models.data.roles import FEWEST_ROWS
from models.data.texts import Texts
from models.distributed import world_size
from models.errors import InputError
from models.finetuning.losses import LossConfig, check_loss
from models.finetuning.metrics import METRICS, check_metric
from models.finetuning.recipe import Facts, Recipe, choose_recipe, explain_recipe
from models.messages import say
from models.schema import Settings
from models.task import Kind
from models.tokenizer import Row, Tokenizer
from models.train.loop import TrainingConfig
from models.train.starting_point import PADDED_ROWS, resolve_encoder

FACT_ROWS = 1_000  # rows whose tokens are counted for the recipe
CHOSEN = {"epochs", "learning_rate", "layer_decay", "freeze_embeddings"}  # settings that a recipe chooses


class TeachingConfig(Settings):
    """How much teachers count."""

    weight: float = Field(0.5, gt=0, le=1, description="weight of the teachers' answers; the labels have the rest")
    temperature: float = Field(
        2.0, ge=0.01, le=100, description="divides the logits of the teachers and of the student"
    )


class FinetuneConfig(Settings):
    """Settings of fine-tuning."""

    max_tokens: int = Field(128, ge=4, description="longest input in tokens; longer texts are truncated, and counted")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of activations set to zero during training")
    pooling: Pooling | None = Field(None, description="input of the head; None: as the encoder's folder says")
    one_of_several: bool = Field(False, description="whether the best of several models is selected")
    automatic: bool = Field(False, description="whether settings of `training` that are not given are chosen")
    while_it_helps: bool = Field(False, description="`epochs` is a maximum: the held-out metric ends the training")
    minutes: float | None = Field(None, gt=0, description="limit on the training time")
    loss: LossConfig = LossConfig()
    teaching: TeachingConfig | None = Field(None, description="None: no teachers")
    training: TrainingConfig = TrainingConfig()


@dataclass(frozen=True, slots=True)
class Teachers:
    """Teachers as they are named by a user: folders of classifiers, and one file of scores."""

    folders: tuple[Path, ...] = ()
    scores: Path | None = None
    scores_are_logits: bool = False
    columns: Columns = field(default_factory=Columns)  # of the file of scores
    numbered: Sequence[Row] = ()  # rows that its column `row` counts
    weak: bool = False  # continue with a teacher that is no better than a constant answer

    @property
    def all(self) -> tuple[Path, ...]:
        """The folders, and the file of scores."""
        return self.folders if self.scores is None else (*self.folders, self.scores)


@dataclass(frozen=True, slots=True)
class Splits:
    """Training rows, validation rows, and test rows that are used once, after everything is decided.

    If a step, thresholds or one of several models is selected on the validation rows, one half of them is used for
    the selection, and the score on the other half is reported. Fewer than 100 rows serve both purposes (`RowRoles`).
    """

    train: Texts
    validation: Texts
    test: Texts | None = None
    is_held_out: bool = False  # whether `validation` was split from the training rows
    texts: Texts | None = None  # rows without labels, which only teachers answer
    teachers: Teachers | None = None  # their answers to the rows are learned; `FinetuneConfig.teaching` weighs them

    labels: tuple[str, ...] | None = None  # of the task, in the order of the outputs; None: those of `train`

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels of the task."""
        return self.train.label_names() if self.labels is None else self.labels

    def with_texts(self, texts: Texts) -> "Splits":
        """Add rows without labels; those that are among the labelled rows, or come again, are left out.

        Of validation and test rows, also those that differ in case, punctuation and spaces only.

        Raises:
            InputError: no row is left, or one side has pairs and the other single texts.
        """
        self.train.joined(texts)  # raises for rows of another form
        held_out = [row for part in (self.validation, self.test) if part is not None for row in part.rows]
        learned = set(self.train.rows)
        rows = [row for row in dict.fromkeys(without(texts, held_out).rows) if row not in learned]
        if not rows:
            raise InputError(
                f"all {len(texts)} rows of {texts.source} are labelled rows as well: wanted further texts"
            )
        if len(rows) < len(texts):
            say(f"{len(texts) - len(rows)} of {len(texts)} rows of {texts.source} are labelled rows or come twice")
        return replace(self, texts=Texts(rows, None, texts.source, texts.kind))

    @property
    def training_rows(self) -> list[Row]:
        """The rows with labels, then those without."""
        return [*self.train.rows, *(self.texts.rows if self.texts is not None else ())]


def complete(encoder: str, splits: Splits, config: FinetuneConfig, store: Path) -> FinetuneConfig:
    """Check the data and the settings; if `config.automatic`, choose the settings that are not given, and print them.

    If `training.epochs` is given, it is the length of the training. If not, the metric on the held-out rows ends the
    training (`fit`, `while_it_helps`), provided that there are enough of them.

    Raises:
        InputError: the data, the encoder or the settings do not fit together.
    """
    train, validation = splits.train, splits.validation
    for evaluated in (validation, splits.test):
        if evaluated is not None:
            check_labels(train, evaluated, splits.labels)
    _check_settings(train.kind, config)
    if splits.is_held_out:
        say(f"{len(validation)} of {len(train) + len(validation)} rows of {train.source} are held out for validation")
    if not config.automatic or config.training.model_fields_set >= CHOSEN:
        return config
    facts = _facts(resolve_encoder(encoder, store), splits, config.max_tokens)
    recipe = choose_recipe(facts, config.training.batch_size * world_size())
    config = _with_recipe(config, recipe, facts, train.kind)
    _announce(encoder, config, explain_recipe(facts, recipe))
    return config


def _facts(folder: Path, splits: Splits, max_tokens: int) -> Facts:
    """Return the facts that decide the recipe; the tokens are counted in FACT_ROWS rows at most."""
    train, validation = splits.train, splits.validation
    shape, tokenizer = read_architecture(folder), Tokenizer.open(folder, max_tokens)
    check_encoder(folder, tokenizer, shape, train.pair)
    encoded = tokenizer.encode(train.rows[:: math.ceil(len(train) / FACT_ROWS)])
    return Facts(
        rows=len(splits.training_rows),
        labels=len(splits.label_names),
        tokens=sum(len(row.ids) for row in encoded) / len(encoded),
        held_out=0 if len(validation) < FEWEST_ROWS else len(validation) // 2,
        width=shape.width,
        table=shape.vocabulary * shape.table_width,
    )


def _with_recipe(config: FinetuneConfig, recipe: Recipe, facts: Facts, kind: Kind) -> FinetuneConfig:
    """Return `config` with the recipe in place of the settings that were not given."""
    given, training = config.training.model_fields_set, config.training
    chosen = recipe.model_dump(include=CHOSEN)
    while_it_helps = recipe.while_it_helps and not {"epochs", "steps"} & given
    if while_it_helps:
        steps = recipe.epochs * math.ceil(facts.rows / (training.batch_size * world_size()))
        chosen |= {"metric": METRICS[kind][0], "evaluate_every": max(1, steps // recipe.evaluations)}
    elif "epochs" not in given and "patience" in given:  # the flag needs a metric
        chosen |= {"metric": METRICS[kind][0]}
    update = {name: value for name, value in chosen.items() if name not in given}
    return config.model_copy(
        update={
            "training": training.model_copy(update=update),
            "while_it_helps": while_it_helps,
            "automatic": False,
        }
    )


def _announce(encoder: str, config: FinetuneConfig, reason: str) -> None:
    """Print the encoder, the recipe and the reason."""
    training, most = config.training, "at most " if config.while_it_helps else ""
    ends = (
        f", as long as {training.metric} on held-out rows rises, best step kept (within its standard error the last)"
        if config.while_it_helps
        else ""
    )
    limit = f", {config.minutes:g} minutes at most" if config.minutes else ""
    tables = "frozen" if training.freeze_embeddings else "trained"
    say(
        f"recipe for {encoder}: {most}{training.epochs} epochs, learning rate {training.learning_rate:g}, "
        f"layer decay {training.layer_decay:g}, embeddings {tables}{ends}{limit}; "
        f"chosen from {reason}; flags that you give win"
    )


def _check_settings(kind: Kind, config: FinetuneConfig) -> None:
    """Refuse a setting that the training would ignore."""
    training = config.training
    metric = check_metric(kind, training.metric)
    check_loss(kind, config.loss)
    watches = config.automatic and "epochs" not in training.model_fields_set
    if training.patience is not None and training.metric is None and not watches:
        raise InputError(
            f"--patience is {training.patience} and no metric is watched: give one, such as --metric {metric}"
        )


def check_encoder(folder: Path, tokenizer: Tokenizer, shape: Architecture, pair: bool) -> None:
    """Check that a tokenizer fits an encoder, and that they belong together.

    Raises:
        InputError: they do not, or the encoder has fewer positions than `tokenizer.max_tokens`.
    """
    check_tokenizer(folder, tokenizer, shape, pair)
    rows, tokens = shape.vocabulary, tokenizer.vocabulary
    if rows - tokens > PADDED_ROWS:
        raise InputError(
            f"{folder}: the tokenizer has {tokens} tokens and the embedding table {rows} rows: "
            "they belong to different models"
        )
