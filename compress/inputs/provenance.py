"""Find out whether the full model was trained on the rows that its student is evaluated on.

A folder from `finetune` records digests of its training rows. Nothing is known about other folders.
"""

from pathlib import Path
from typing import Any, Literal

from models.data.roles import shared_rows
from models.data.texts import Texts
from models.messages import say
from models.store.folder import MANIFEST, ModelFolder

HELD_OUT = 0.1  # share of --train, the same as in `finetune`
SEEDS = 10  # seeds tried before the recorded one: models of several seeds all use the split of the first seed
OnTrainingRows = bool | Literal["unknown"]


def split_train(rows: Texts, model: Path, seed: int) -> tuple[Texts, Texts, OnTrainingRows]:
    """Split `--train` into training rows and a tenth for evaluation.

    If the recorded digest shows which tenth `finetune` held out, it is this one. If not, the tenth is drawn with
    `seed`, with a warning.

    Returns:
        The training rows, the held-out rows, and whether the full model was trained on the held-out rows.

    Raises:
        InputError: the rows have no labels, or cannot be split.
    """
    recorded = read_training(model)
    for candidate in _seeds(recorded, seed):
        train, held_out = rows.split(HELD_OUT, candidate)
        if recorded and train.sha256 == recorded["train"]:
            say(f"evaluated on the {len(held_out)} rows of {rows.source} that finetune held out (seed {candidate})")
            return train, held_out, False
    train, held_out = rows.split(HELD_OUT, seed)
    learned = recorded is not None and rows.sha256 == recorded["train"]
    reason = "it learned from all of them" if learned else "whether it learned from them is not known"
    say(
        f"WARNING: there is no --validation. {model} is evaluated on {len(held_out)} rows of {rows.source}, and "
        f"{reason}. The full model is better on rows that it was trained on than on new rows, and the student is "
        "not: the reported loss is not the loss on new rows. Give --validation FILE with rows that no model was "
        "trained on"
    )
    return train, held_out, True if learned else "unknown"


def judged_on_training_rows(train: Texts, judged: Texts, model: Path, seed: int) -> OnTrainingRows:
    """Return whether the full model was trained on the rows `judged`, and warn if it may have been.

    This is known if the digest in a `finetune` folder is that of `judged`, of `train`, or of the training part of a
    split of `train`.
    """
    shared = shared_rows(judged, train)
    if shared:
        say(
            f"WARNING: {shared} of {len(judged)} rows of {judged.source} are also in {train.source}, which the "
            "student is trained on: it is better on these rows than on new ones"
        )
    recorded = read_training(model)
    if recorded is None:
        return "unknown"
    if recorded["train"] == judged.sha256:
        say(
            f"WARNING: {model} was trained on the rows of {judged.source}: the reported loss is not the loss on new "
            "rows"
        )
        return True
    if recorded["train"] == train.sha256:
        return shared > 0
    if train.labels is not None:
        for candidate in _seeds(recorded, seed):
            learned, _ = train.split(HELD_OUT, candidate)
            if learned.sha256 == recorded["train"]:
                return shared_rows(judged, learned) > 0
    return "unknown"


def read_training(model: Path) -> dict[str, Any] | None:
    """Return the recorded settings of the `finetune` stage that a folder comes from; None: there are none."""
    if not (model / MANIFEST).is_file():
        return None
    steps = [step for step in ModelFolder.open(model).manifest.lineage if step.stage == "finetune"]
    return steps[-1].config if steps and "train" in steps[-1].config else None


def _seeds(recorded: dict[str, Any] | None, seed: int) -> list[int]:
    """Return the seeds with which the rows may have been split, the most likely first."""
    if recorded is None:
        return []
    last = int(recorded.get("training", {}).get("seed", seed))
    return list(dict.fromkeys([last, seed, *range(last - 1, max(-1, last - SEEDS), -1)]))
