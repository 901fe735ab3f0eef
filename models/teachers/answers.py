"""answers_of(): compute the logits of a teacher for rows once, and keep them in the store.

The teacher computes in fp32, in batches sorted by length, and float32 logits are stored. The stage's identity is the
contents of the teacher and of the rows, so that another student, seed or temperature reuses the answers. A killed run
continues where it stopped.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from models.errors import CheckError, FolderError
from models.messages import say
from models.store.answer_files import AnswerFile
from models.store.stage import Stage, run_stage
from models.store.units import duration
from models.teachers.answer_batches import Outputs, answer_batches, write_answers
from models.teachers.teacher import Logits, Teacher
from models.tokenizer import Encoded, Row
from models.train.precision import computed_on

VERSION = 1
FILE = "logits.bin"
TIMED = 4  # batches from whose time that of the others is estimated


def answers_of(teacher: Teacher, rows: Sequence[Row], store: Path) -> Logits:
    """Return the teacher's logits (rows, labels), float32, with its labels in its own order.

    Raises:
        CheckError: the disk has no room for them, or one is not a finite number.
        FolderError: transformers cannot open the teacher.
    """
    texts = hashlib.sha256()
    for row in rows:
        texts.update(json.dumps(row).encode())
    settings = {
        "teacher": teacher.digest, "texts": texts.hexdigest(), "precision": "fp32", **computed_on(),
    }  # fmt: skip
    stage = Stage("answers", VERSION, settings)
    result = run_stage(stage, [], store, lambda target: _answer(teacher, rows, target))
    return np.fromfile(result.folder.path / FILE, dtype=np.float32).reshape(len(rows), -1)


class _Clock:
    """Says, after a few batches, how long all the others will take."""

    def __init__(self, tokens: list[int]) -> None:
        self._tokens, self._first, self._start = tokens, -1, 0.0

    def before(self, number: int) -> None:
        """Note that the batch of this number begins."""
        if self._first < 0:
            self._first = number + 1  # the very first one is slower
        if number == self._first:
            self._start = perf_counter()
        elif number == self._first + TIMED:
            a_token = (perf_counter() - self._start) / sum(self._tokens[self._first : number])
            seconds = a_token * sum(self._tokens[number:])
            say(f"they take about {duration(seconds)} more; a killed run continues where it stopped")


def _padded(encoded: Sequence[Encoded], numbers: Sequence[int]) -> int:
    """Return the tokens of a batch, padding included."""
    return max(len(encoded[i].ids) for i in numbers) * len(numbers)


@torch.inference_mode()
def _answer(teacher: Teacher, rows: Sequence[Row], target: Path) -> None:
    """Write the logits into the folder `target`."""
    encoded, answer = teacher.load(rows)
    width = len(teacher.task.labels) * 4  # bytes of a row
    batches = answer_batches(encoded)
    clock = _Clock([_padded(encoded, numbers) for numbers in batches])

    def compute(number: int, numbers: Sequence[int], files: Mapping[str, AnswerFile]) -> None:
        clock.before(number)
        logits = answer([encoded[i] for i in numbers])
        if logits.shape[1] != len(teacher.task.labels):
            raise FolderError(
                f"the teacher {teacher.folder} has {logits.shape[1]} outputs, and its config names "
                f"{len(teacher.task.labels)} labels"
            )
        if not np.isfinite(logits).all():
            raise CheckError(f"an answer of the teacher {teacher.folder} is not a number: nothing can learn it")
        for place, row in enumerate(numbers):
            files[FILE].put(row * width, logits[place])

    contents = f"the answers of {teacher.folder} to {len(rows):,} texts (logits, float32)"
    outputs = Outputs({FILE: len(rows) * width}, contents, f"answers of {teacher.folder}")
    write_answers(batches, outputs, target, compute)
