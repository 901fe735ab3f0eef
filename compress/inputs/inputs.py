"""CompressionInputs: the source classifier of a compression and its texts, each set tokenized once per vocabulary."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.measure.accuracy.evaluate import classifier_logits
from compress.inputs.provenance import OnTrainingRows
from models import task as task_file
from models.data.encoded import EncodedTexts
from models.data.roles import RowRoles
from models.data.texts import Texts
from models.finetuning.finetune_config import Splits
from models.store.folder import ModelFolder
from models.task import Task
from models.tokenizer import Row, Tokenizer


@dataclass(frozen=True, slots=True)
class EncodedInputs:
    """The training and validation texts, tokenized with one vocabulary."""

    tokenizer: Tokenizer
    train: EncodedTexts
    validation: EncodedTexts


@dataclass(frozen=True, slots=True)
class CompressionInputs:
    """A classifier and its texts."""

    source: ModelFolder
    train: Texts  # the student is trained on them; labels are not needed
    validation: Texts  # labelled rows like the served texts: candidates are timed and chosen on them
    test: Texts | None = None  # labelled rows that only report the loss; None: it is reported on `validation`
    on_training_rows: OnTrainingRows = "unknown"  # whether the source was trained on the labelled rows
    parts: tuple[Texts, ...] = ()  # the files that `train` is made of, with their labels; (): `train` is one file
    numbered: Sequence[Row] = ()  # rows that the column `row` of a file of scores counts
    baseline: ModelFolder | None = None  # the large model that the source was distilled from; None: there is none
    _encoded: dict[str, EncodedInputs] = field(default_factory=dict, init=False, repr=False, compare=False)
    _logits: dict[str, NDArray[np.float32]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def roles(self) -> RowRoles:
        """Which labelled rows are used for choices, and which for reports."""
        return RowRoles(self.validation, self.test)

    @property
    def compared(self) -> ModelFolder:
        """The model that speed and answers of a result are compared with, in fp32."""
        return self.source if self.baseline is None else self.baseline

    @property
    def splits(self) -> Splits:
        """The rows as a fine-tuning takes them."""
        train, *more = self.parts or (self.train,)
        return Splits(train, self.validation, self.test, texts=more[0] if more else None)

    def encoded(self, folder: ModelFolder) -> EncodedInputs:
        """Return the texts as the tokenizer in `folder` encodes them; the result is cached for each folder."""
        if folder.id not in self._encoded:
            task = Task.read(folder.path / task_file.FILE)
            tokenizer = Tokenizer.open(folder.path, task.max_tokens)
            train, validation = (EncodedTexts.of(texts.rows, tokenizer) for texts in (self.train, self.validation))
            self._encoded[folder.id] = EncodedInputs(tokenizer, train, validation)
        return self._encoded[folder.id]

    def logits(self, folder: ModelFolder) -> NDArray[np.float32]:
        """Return a model's logits (rows, labels) for `roles.everything`; they are computed once for each folder."""
        if folder.id not in self._logits:
            task, rows = Task.read(folder.path / task_file.FILE), self.roles.everything.rows
            self._logits[folder.id] = classifier_logits(folder.path, rows, task)
        return self._logits[folder.id]

    def summary(self) -> dict[str, Any]:
        """Return the JSON keys that say where the reported rows come from."""
        return {**self.roles.summary(), "judged_on_training_rows": self.on_training_rows}
