"""answers_of(): compute the logits of a teacher for rows once, and keep them in the store.

The teacher computes in fp32, in batches sorted by length. The stage's identity is the contents of the teacher and of
the rows, so that another student, seed or temperature reuses the answers. A killed run continues where it stopped.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from models.errors import CheckError, FolderError
from models.messages import progress
from models.store.answer_files import AnswerFile, check_space
from models.store.atomic import write_text
from models.store.stage import Stage, run_stage, scratch_folder
from models.teachers.teacher import Logits, Teacher
from models.tokenizer import Row
from models.train.batches import length_batches
from models.train.precision import computed_on

VERSION = 1
FILE, DONE = "logits.bin", "done.json"
BATCH = 32
KEEP_EVERY = 32  # batches after which the progress is saved


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


@torch.inference_mode()
def _answer(teacher: Teacher, rows: Sequence[Row], target: Path) -> None:
    """Write the logits into the folder `target`."""
    scratch = scratch_folder(target)
    scratch.mkdir(parents=True, exist_ok=True)
    encoded, answer = teacher.load(rows)
    width = len(teacher.task.labels) * 4  # bytes of a row
    done = json.loads((scratch / DONE).read_text(encoding="utf-8")) if (scratch / DONE).is_file() else 0
    file = AnswerFile(scratch / FILE, len(rows) * width)
    bar = progress(total=len(rows), desc=f"answers of {teacher.folder}", unit="text")
    with closing(file), closing(bar):
        check_space([file], scratch, f"the answers of {teacher.folder} to {len(rows):,} texts")
        for number, numbers in enumerate(length_batches(encoded, BATCH, seed=0)):
            if number >= done:
                logits = answer([encoded[i] for i in numbers])
                if logits.shape[1] != len(teacher.task.labels):
                    raise FolderError(
                        f"the teacher {teacher.folder} has {logits.shape[1]} outputs, and its config names "
                        f"{len(teacher.task.labels)} labels"
                    )
                if not np.isfinite(logits).all():
                    raise CheckError(
                        f"an answer of the teacher {teacher.folder} is not a number: nothing can learn it"
                    )
                for place, row in enumerate(numbers):
                    file.put(row * width, logits[place])
            bar.update(len(numbers))
            if (number + 1) % KEEP_EVERY == 0 and number >= done:
                file.sync()
                write_text(scratch / DONE, str(number + 1))
    (scratch / DONE).unlink(missing_ok=True)  # before the file is moved: a run killed from here on starts again
    shutil.move(scratch / FILE, target / FILE)
