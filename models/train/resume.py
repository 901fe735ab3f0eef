"""Snapshot: all that a run needs to go on after kill -9, in one file that is there whole or not at all.

Batches, masks and dropout are functions of the seed and the step, so no random state is kept. Tensors and JSON
only: a file from elsewhere can do no more than be wrong.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from models.errors import CheckError, FolderError

FILE = "snapshot.safetensors"


@dataclass
class Counters:
    """How far a training has come, and how it went."""

    step: int = 0
    precision: Literal["fp32", "bf16"] | None = None  # of matrix products; None: not decided yet
    losses: list[float] = field(default_factory=list)  # mean of each finished epoch
    epoch_loss: float = 0.0  # sum over the steps of the epoch that is not finished
    epoch_steps: int = 0
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    best_step: int = 0
    best_value: float | None = None
    worse_in_a_row: int = 0
    seconds: float = 0.0  # of steps
    texts: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Weights, optimizer moments, the best weights so far (or none), and the counters of the run."""

    weights: dict[str, Tensor]
    moments: dict[str, Tensor]  # "<parameter number>.<name>"
    best: dict[str, Tensor]
    counters: Counters


def save_snapshot(snapshot: Snapshot, folder: Path) -> None:
    """Write the snapshot over the one before.

    Raises:
        CheckError: the disk is full or cannot be written; the snapshot before is still there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{FILE}.new"
    parts = {"weights": snapshot.weights, "moments": snapshot.moments, "best": snapshot.best}
    tensors = {f"{part}/{name}": t.detach().contiguous() for part, held in parts.items() for name, t in held.items()}
    try:
        save_file(_unshared(tensors), str(partial), metadata={"counters": json.dumps(asdict(snapshot.counters))})
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(folder / FILE)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        kept = "the snapshot before it is kept" if (folder / FILE).is_file() else "there is none before it"
        raise CheckError(
            f"cannot write a snapshot into {folder} ({error}); {kept}: make room and run the same command again"
        ) from None


def load_snapshot(folder: Path) -> Snapshot | None:
    """Return the snapshot in `folder`, or None when there is none.

    Raises:
        FolderError: the file is not a snapshot.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    parts: dict[str, dict[str, Tensor]] = {"weights": {}, "moments": {}, "best": {}}
    try:
        with safe_open(str(path), framework="pt") as file:
            counters = Counters(**json.loads((file.metadata() or {})["counters"]))
            for name in file.keys():  # noqa: SIM118  it is no mapping
                part, inner = name.split("/", 1)
                parts[part][inner] = file.get_tensor(name)
    except (SafetensorError, OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise FolderError(f"{path} is not a snapshot of a training ({error}): remove it to start again") from None
    return Snapshot(parts["weights"], parts["moments"], parts["best"], counters)


def moments_of(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's tensors by parameter number and name."""
    held = optimizer.state_dict()["state"]
    return {f"{number}.{name}": tensor for number, state in held.items() for name, tensor in state.items()}


def restore(model: nn.Module, optimizer: torch.optim.Optimizer, snapshot: Snapshot) -> None:
    """Put the snapshot's tensors back in place."""
    model.load_state_dict(snapshot.weights, strict=False)  # a tied weight is kept once
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in snapshot.moments.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keep one name of each storage: safetensors refuses two names for one tensor, as tied weights have."""
    seen: set[tuple[str, int]] = set()
    kept = {}
    for name, tensor in tensors.items():
        place = (name.split("/", 1)[0], tensor.data_ptr())
        if tensor.numel() == 0 or place not in seen:
            kept[name] = tensor
        seen.add(place)
    return kept
