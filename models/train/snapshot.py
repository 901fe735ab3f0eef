"""Snapshot: everything that a run needs to resume after kill -9, in one file that is written atomically.

Batches, masks and dropout are functions of the seed and the step, so no random state is kept. The file holds tensors
and JSON only, so that loading a file from an untrusted source cannot run code.
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
    """Progress of a training, and its history so far."""

    step: int = 0
    precision: Literal["fp32", "bf16"] | None = None  # None: not decided yet
    losses: list[float] = field(default_factory=list)  # mean loss of each finished epoch
    epoch_loss: float = 0.0  # sum over the steps of the current epoch
    epoch_steps: int = 0
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    best_step: int = 0
    best_value: float | None = None
    worse_in_a_row: int = 0
    decay_from: int | None = None  # the step from which the learning rate falls, if that is decided while training
    seconds: float = 0.0  # spent in steps
    texts: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Weights, optimizer moments, the best weights so far (empty: none), and the counters of the run."""

    weights: dict[str, Tensor]
    moments: dict[str, Tensor]  # "<parameter number>.<name>"
    best: dict[str, Tensor]
    counters: Counters


def save_snapshot(snapshot: Snapshot, folder: Path) -> None:
    """Write the snapshot, replacing the previous one.

    Raises:
        CheckError: the disk is full or not writable; the previous snapshot is still there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{FILE}.new"
    parts = {"weights": snapshot.weights, "moments": snapshot.moments, "best": snapshot.best}
    tensors = {
        f"{part}/{name}": tensor.detach().contiguous()
        for part, group in parts.items()
        for name, tensor in group.items()
    }
    try:
        metadata = {"counters": json.dumps(asdict(snapshot.counters))}
        save_file(_without_shared(tensors), str(partial), metadata=metadata)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(folder / FILE)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        previous = "the snapshot before it is kept" if (folder / FILE).is_file() else "there is none before it"
        raise CheckError(
            f"cannot write a snapshot into {folder} ({error}); {previous}: make room and run the same command again"
        ) from None


def load_snapshot(folder: Path) -> Snapshot | None:
    """Return the snapshot in `folder`, or None if there is none.

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
            for name in file.keys():  # noqa: SIM118  safe_open() is not a mapping
                part, inner = name.split("/", 1)
                parts[part][inner] = file.get_tensor(name)
    except (SafetensorError, OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise FolderError(f"{path} is not a snapshot of a training ({error}): remove it to start again") from None
    return Snapshot(parts["weights"], parts["moments"], parts["best"], counters)


def moments_of(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's tensors, named "<parameter number>.<name>"."""
    states = optimizer.state_dict()["state"]
    return {f"{number}.{name}": tensor for number, state in states.items() for name, tensor in state.items()}


def restore(model: nn.Module, optimizer: torch.optim.Optimizer, snapshot: Snapshot) -> None:
    """Load the snapshot's weights into the model and its moments into the optimizer."""
    model.load_state_dict(snapshot.weights, strict=False)  # of tied weights only one name is saved
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in snapshot.moments.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _without_shared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keep one name for each storage: safetensors refuses two names for one tensor, as tied weights have."""
    seen: set[tuple[str, int]] = set()
    unique = {}
    for name, tensor in tensors.items():
        storage = (name.split("/", 1)[0], tensor.data_ptr())
        if tensor.numel() == 0 or storage not in seen:
            unique[name] = tensor
        seen.add(storage)
    return unique
