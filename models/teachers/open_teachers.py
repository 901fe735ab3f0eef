"""OpenTeachers: teachers that fit a task, whose answers are computed after all checks that need none."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from models.data.texts import Texts
from models.errors import InputError
from models.finetuning.finetune_config import Splits, Teachers, TeachingConfig
from models.messages import WARNING, say
from models.task import Task
from models.teachers.answers import answers_of
from models.teachers.guidance import Guidance, Source
from models.teachers.matching import check_agreement, match_labels
from models.teachers.scores_file import read_scores
from models.teachers.teacher import Teacher, open_teacher
from models.tokenizer import Row

JUDGED_ROWS = 1_000  # labelled rows that are answered first, to compare a teacher with the labels
TRAINING_ROWS = "the training rows"


@dataclass(frozen=True, slots=True)
class OpenTeachers:
    """Teachers that fit the task; their answers are not computed yet."""

    task: Task
    named: Teachers
    models: tuple[tuple[Path, tuple[Teacher, ...]], ...]
    scores: Source | None
    learner: str = TRAINING_ROWS

    @classmethod
    def open(cls, named: Teachers, task: Task, learner: str = TRAINING_ROWS) -> "OpenTeachers":
        """Open the teachers, and check that each answers the task.

        Args:
            named: the folders and the file of scores.
            task: what is learned.
            learner: what has this task, for messages: the training rows, or a model.

        Raises:
            FolderError: a folder has no classifier.
            InputError: a teacher has another kind of task or other labels, or the file of scores has a bad row.
        """
        models = []
        for path in named.folders:
            members = tuple(open_teacher(path, task.pair, learner))
            for member in members:
                if member.task.kind != task.kind:
                    raise InputError(
                        f"the teacher {member.folder} is a {member.task.kind} model, and the task of {learner} is "
                        f"{task.kind}{' (--task)' if learner == TRAINING_ROWS else ''}"
                    )
                match_labels(str(member.folder), member.task.labels, task, learner)
            if len(members) > 1:
                say(f"{path} is one of {len(members)} models of `finetune --seeds`: their mean is the teacher")
            models.append((path, members))
        scores = None
        if named.scores is not None:
            index, logits = read_scores(
                named.scores, task, named.columns, named.scores_are_logits, named.numbered, learner
            )
            scores = Source(str(named.scores), index, (logits,))
        return cls(task, named, tuple(models), scores, learner)

    def identity(self) -> list[Any]:
        """Return what decides the answers: the digest of each model, and of the file of scores."""
        digests: list[Any] = [[member.digest for member in members] for _, members in self.models]
        if self.scores is not None:
            rows = sorted((list(row), self.scores.logits[0][i].tolist()) for row, i in self.scores.index.items())
            digests.append(sha256(repr(rows).encode()).hexdigest())
        return digests

    def teach(self, splits: Splits, config: TeachingConfig, store: Path) -> Guidance:
        """Compute the answers to all rows, or take them from the store.

        The teachers answer JUDGED_ROWS labelled rows first: one that does not agree with the labels is refused before
        the long work.

        Args:
            splits: training rows, with or without labels; labelled rows for validation; if given, rows for the test
                and further texts. A file of scores needs the training rows and the further texts only.
            config: of the loss.
            store: folder of finished stages.

        Raises:
            CheckError: the disk is full, or an answer is not a finite number.
            InputError: the file of scores lacks a row that is learned, or a teacher agrees with the labels no better
                than a constant answer.
        """
        self.check_covered(splits)
        if self.scores is not None:
            self._check(self.scores, splits)
        # sorted: another held-out part of the same rows, drawn with another seed, reuses the answers
        labelled = sorted({*splits.train.rows, *splits.validation.rows})
        parts = [labelled, *(texts.rows for texts in (splits.texts, splits.test) if texts is not None)]
        for path, members in self.models:
            first = sorted(set(_sample(splits).rows))
            self._check(self._source(path, members, [first], store), splits)
        sources = [self._source(path, members, parts, store) for path, members in self.models]
        return Guidance((*sources, *([self.scores] if self.scores is not None else [])), config)

    def check_covered(self, splits: Splits) -> None:
        """Check that the file of scores has all rows that are learned.

        Raises:
            InputError: it lacks one.
        """
        if self.scores is None:
            return
        for texts in (one for one in (splits.train, splits.texts) if one is not None):
            missing = [row for row in texts.rows if row not in self.scores.index]
            if missing:
                alike = {_loose(row) for row in self.scores.index}
                differ = sum(_loose(row) in alike for row in missing)
                hint = f" ({differ} differ from rows of the file in spaces or upper case only)" if differ else ""
                raise InputError(
                    f"{self.scores.name} has no scores for {len(missing)} of {len(texts)} rows of {texts.source}, "
                    f"such as {missing[0][0][:60]!r}{hint}: wanted scores for every row that is trained on"
                )

    def _source(self, path: Path, members: Sequence[Teacher], parts: Sequence[Sequence[Row]], store: Path) -> Source:
        index = {row: number for number, row in enumerate(row for part in parts for row in part)}
        logits = []
        for member in members:
            order = match_labels(str(member.folder), member.task.labels, self.task, self.learner, quiet=True)
            logits.append(np.concatenate([answers_of(member, part, store) for part in parts])[:, order])
        return Source(str(path), index, tuple(logits))

    def _check(self, source: Source, splits: Splits) -> None:
        """Compare a teacher with the labels of the rows that it answered."""
        sample = _sample(splits, source)
        if not len(sample):
            say(
                f"{WARNING}{source.name} has no scores for rows with labels ({sample.source}): whether it answers "
                "the task is not checked, and no loss against it is reported"
            )
            return
        check_agreement(source.name, self.task, sample, source.scores(self.task, sample.rows), self.named.weak)


def _loose(row: Row) -> Row:
    """Return the row without upper case and repeated spaces."""
    return tuple(" ".join(text.split()).casefold() for text in row)


def _sample(splits: Splits, source: Source | None = None) -> Texts:
    """Return JUDGED_ROWS labelled rows or fewer, the same ones for all teachers that have answers to all rows.

    With a source, only rows that it answered.
    """
    parts = [part for part in (splits.train, splits.validation) if part.labels is not None]
    pairs = [pair for part in parts for pair in zip(part.rows, part.require_labels(), strict=True)]
    name = " and ".join(dict.fromkeys(part.source for part in parts))
    texts = Texts([row for row, _ in pairs], [label for _, label in pairs], name, splits.validation.kind)
    if len(texts) > JUDGED_ROWS:
        order = sorted(range(len(texts)), key=lambda i: sha256(repr(texts.rows[i]).encode()).digest())
        texts = texts.take(order[:JUDGED_ROWS])
    if source is None or source.index.keys() >= set(texts.rows):
        return texts
    return texts.take([i for i, row in enumerate(texts.rows) if row in source.index])
