"""steps_within(): minutes → optimizer steps, decided once and kept, so that a killed run ends at the same step."""

import copy
from pathlib import Path

from torch import nn

from models.atomic import write_text
from models.distributed import rank, wait_for_everyone
from models.record import Record
from models.train.config import Objective, TrainingConfig
from models.train.loop import fit

FILE = "pace.json"
WARM_STEPS, TIMED_STEPS = 3, 8  # the first steps set up memory and threads


class Pace(Record):
    """How fast the steps were, and how many were decided on."""

    seconds_per_step: float
    steps: int


def steps_within(
    minutes: float, model: nn.Module, objective: Objective, config: TrainingConfig, scratch: Path
) -> int:
    """Return how many steps of this training take `minutes`; evaluations and snapshots come on top.

    A few steps are timed on a copy of the model. The number is in `scratch` before the training begins: the same
    command, run again after a kill, reads it there.
    """
    path = scratch / FILE
    is_known = path.is_file()
    wait_for_everyone()  # all have looked before one writes
    if not is_known:
        throw_away = copy.deepcopy(model)
        unwatched: dict[str, None] = {"evaluate_every": None, "metric": None, "patience": None}
        fit(throw_away, objective, config.model_copy(update={**unwatched, "steps": WARM_STEPS}))
        history = fit(throw_away, objective, config.model_copy(update={**unwatched, "steps": TIMED_STEPS}))
        seconds = history.seconds / history.steps
        if rank() == 0:
            scratch.mkdir(parents=True, exist_ok=True)
            pace = Pace(seconds_per_step=seconds, steps=max(1, int(60 * minutes / seconds)))
            write_text(path, pace.model_dump_json(indent=2) + "\n")
        wait_for_everyone()
    return Pace.read(path).steps
