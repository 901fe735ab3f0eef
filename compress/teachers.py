"""The options of teachers and students: checked before any work, and the teachers opened for the model's task."""

from pathlib import Path
from typing import Any

from compress.config import CompressConfig
from compress.inputs.inputs import CompressionInputs
from models import task as task_file
from models.errors import InputError
from models.finetuning.finetune_config import Teachers
from models.task import Task
from models.teachers.open_teachers import OpenTeachers


def check_teaching(options: dict[str, Any], config: CompressConfig) -> None:
    """Refuse options that would have no effect.

    Args:
        options: `teacher`, `teacher_scores`, `teacher_logits`, `student`, `student_minutes`, `nearest` and `texts`.
        config: settings of the compression.

    Raises:
        InputError: one of them needs another one, or a training that --mode leaves out.
    """
    needs = {
        "teacher_logits": ("teacher_scores", "--teacher-logits says what --teacher-scores FILE holds"),
        "student_minutes": ("student", "--student-minutes limits the training of --student ENCODER"),
        "nearest": ("texts", "--nearest takes lines of --texts FILE"),
    }
    for option, (other, sentence) in needs.items():
        if options[option] and not options[other]:
            raise InputError(f"{sentence}: give that too")
    if options["nearest"] is not None and options["nearest"] < 1:
        raise InputError(f"--nearest is {options['nearest']}: wanted 1 line or more")
    if options["student_minutes"] is not None and not options["student_minutes"] > 0:
        raise InputError(f"--student-minutes is {options['student_minutes']:g}: wanted more than 0")
    if config.heal is None and not options["student"] and (options["teacher"] or options["teacher_scores"]):
        raise InputError("--mode instant trains nothing: leave out --teacher and --teacher-scores, or give --student")


def open_teachers(inputs: CompressionInputs, named: Teachers) -> OpenTeachers:
    """Open the teachers, and check that each answers the task of the model.

    Raises:
        FolderError: a folder has no classifier.
        InputError: a teacher has another task or other labels, or the file of scores has a bad row or lacks one.
    """
    teachers = find_teachers(inputs, named)
    teachers.check_covered(inputs.splits)
    return teachers


def find_teachers(inputs: CompressionInputs, named: Teachers) -> OpenTeachers:
    """Open the teachers before it is known which texts they answer; raises what `open_teachers` does."""
    source: Path = inputs.source.path
    return OpenTeachers.open(named, Task.read(source / task_file.FILE), f"the model {source}")
