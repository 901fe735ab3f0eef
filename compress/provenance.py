"""Which rows a full model learned from: what a student is judged on must be none of them.

A folder that `finetune` made records the digests of its rows; of another nothing is known.
"""

from pathlib import Path
from typing import Any, Literal

from models.console import say
from models.data.roles import shared_rows
from models.data.texts import Texts
from models.folder import MANIFEST, ModelFolder

HELD_OUT = 0.1  # of --train, as `finetune` holds out
SEEDS = 10  # before the recorded one: of several seeds, all share the split of the first
OnTrainingRows = bool | Literal["unknown"]


def split_train(rows: Texts, model: Path, seed: int) -> tuple[Texts, Texts, OnTrainingRows]:
    """Return a part to learn from, a tenth to judge on, and whether the full model learned from that tenth.

    The tenth is the one that `finetune` held out, where the recorded digest shows which that was; else it is drawn,
    with a warning.

    Raises:
        InputError: the rows have no labels, or cannot be split.
    """
    recorded = read_training(model)
    for number in _seeds(recorded, seed):
        train, held_out = rows.split(HELD_OUT, number)
        if recorded and train.sha256 == recorded["train"]:
            say(f"judged on the {len(held_out)} rows of {rows.source} that fine-tuning held out (seed {number})")
            return train, held_out, False
    train, held_out = rows.split(HELD_OUT, seed)
    learned = recorded is not None and rows.sha256 == recorded["train"]
    why = "it learned from all of them" if learned else "whether it learned from them is not known"
    say(
        f"WARNING: there is no --validation. {model} is judged on {len(held_out)} rows of {rows.source}, and {why}. "
        "A model answers the rows that it learned from better than new ones, and a student cannot: what is reported "
        "as lost is not what will be lost. Give --validation FILE, rows that no model was trained on"
    )
    return train, held_out, True if learned else "unknown"


def judged_on_training_rows(train: Texts, judged: Texts, model: Path, seed: int) -> OnTrainingRows:
    """Return whether the full model learned from the rows `judged`, and warn where it may have.

    It is known where the digest of a `finetune` folder is that of `train`, or of what `finetune` keeps of `train`.
    """
    shared = shared_rows(judged, train)
    if shared:
        say(
            f"WARNING: {shared} of {len(judged)} rows of {judged.source} are in {train.source}, too, from which the "
            "student learns: it answers these better than new ones"
        )
    recorded = read_training(model)
    if recorded is None:
        return "unknown"
    if recorded["train"] == judged.sha256:
        say(
            f"WARNING: {model} learned from the rows of {judged.source}: what is reported as lost is not what is lost"
        )
        return True
    if recorded["train"] == train.sha256:
        return shared > 0
    if train.labels is not None:
        for number in _seeds(recorded, seed):
            learned, _ = train.split(HELD_OUT, number)
            if learned.sha256 == recorded["train"]:
                return shared_rows(judged, learned) > 0
    return "unknown"


def read_training(model: Path) -> dict[str, Any] | None:
    """Return the recorded settings of the fine-tuning that a folder of ours came from; None: there are none."""
    if not (model / MANIFEST).is_file():
        return None
    steps = [step for step in ModelFolder.open(model).manifest.lineage if step.stage == "finetune"]
    return steps[-1].config if steps and "train" in steps[-1].config else None


def _seeds(recorded: dict[str, Any] | None, seed: int) -> list[int]:
    """Return the seeds by which the rows may have been split, the likeliest first."""
    if recorded is None:
        return []
    last = int(recorded.get("training", {}).get("seed", seed))
    return list(dict.fromkeys([last, seed, *range(last - 1, max(-1, last - SEEDS), -1)]))
