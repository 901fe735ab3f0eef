"""plan_gate(): how `compress --cascade` gives its bundle a gate."""

from dataclasses import dataclass

from compress.cascade.add_gate import CascadeConfig, CascadeTexts, check_task
from compress.cascade.learn_gate import check_count
from compress.cascade.row_checks import say_of_threshold
from compress.inputs.inputs import CompressionInputs
from models import task as task_file
from models.data.split import halve_rows
from models.data.texts import Texts
from models.distributed import world_size
from models.errors import InputError
from models.messages import say
from models.schema import wrong_values
from models.task import Task


@dataclass(frozen=True, slots=True)
class GatePlan:
    """The settings and the rows of a gate, and the rows that are left to choose the compressed model."""

    config: CascadeConfig
    choosing: Texts
    texts: CascadeTexts


def plan_gate(inputs: CompressionInputs, max_loss: float, seed: int) -> GatePlan:
    """Set half of the rows that choose aside: they decide the gate's threshold, and nothing else.

    Raises:
        InputError: the task has no gate, there are too few training texts, or several processes were started.
    """
    if world_size() > 1:
        raise InputError("--cascade works in one process: compress without it, then run `prunella cascade`")
    with wrong_values():
        config = CascadeConfig(max_loss=max_loss, seed=seed)
    task = Task.read(inputs.source.path / task_file.FILE)
    check_task(task, inputs.source.path)
    choosing, threshold = (
        inputs.validation.take(rows)
        for rows in halve_rows(inputs.validation.labels, task.kind, len(inputs.validation), seed)
    )
    say(f"{len(threshold)} rows of {threshold.source} decide the threshold of the gate only")
    say_of_threshold(threshold, task, max_loss)
    train, *more = inputs.parts or (inputs.train,)  # apart: the labels of the training texts help
    check_count(len(train))
    return GatePlan(config, choosing, CascadeTexts(train, threshold, inputs.test, *more))
