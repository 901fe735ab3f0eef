"""ERNIE (Sun et al. 2019, 2020): BERT's encoder; some checkpoints add the embedding of a task to every token."""

from dataclasses import replace
from functools import cache
from typing import Any

from torch import Tensor

from models.errors import FolderError
from models.families.bert import BERT, ENCODER
from models.messages import say

TASKS = "embeddings.task_type_embeddings.weight"
SEGMENTS = f"{ENCODER['embeddings.types']}.weight"


def _fold_task(tensors: dict[str, Tensor], config: dict[str, Any], source: str) -> dict[str, Tensor]:
    """Return the tensors with the embedding of task 0 added to the segments': transformers adds it to every token.

    Raises:
        FolderError: there is no table of tasks or of segments, or their rows differ in size.
    """
    if not config.get("use_task_id"):
        return tensors  # a table of tasks that is not used is refused as any other unread part of the encoder
    names = [next((name for name in tensors if name.endswith(end)), None) for end in (TASKS, SEGMENTS)]
    tasks, segments = names
    if tasks is None or segments is None:
        missing = TASKS if tasks is None else SEGMENTS
        raise FolderError(f"{source} has use_task_id = True, and the weights lack {missing}")
    if not len(tensors[tasks]) or tensors[tasks].shape[1:] != tensors[segments].shape[1:]:
        sizes = [tuple(tensors[name].shape) for name in (tasks, segments)]
        raise FolderError(f"{source}: the tables of tasks and segments have shapes {sizes[0]} and {sizes[1]}")
    _say_folded(source, len(tensors[tasks]))
    rest = {name: tensor for name, tensor in tensors.items() if name != tasks}
    return rest | {segments: tensors[segments] + tensors[tasks][0]}


@cache
def _say_folded(source: str, tasks: int) -> None:
    say(
        f"{source} has use_task_id = True: the embedding of task 0 (of {tasks}) is added to the segment embeddings, "
        "as every text has task 0; saved folders have use_task_id = False"
    )


ERNIE = replace(
    BERT,
    name="ernie",
    classes="Ernie",
    names=replace(BERT.names, prefix="ernie", head={"dense": "ernie.pooler.dense", "out": "classifier"}),
    fold=_fold_task,
    write_extra=lambda _: {"use_task_id": False},
)
