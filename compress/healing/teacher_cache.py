"""teach(): compute the teacher's outputs for every text once, and store them: logits and the states of some layers.

The teacher is much larger than the student: if it ran in the training loop, it would take most of each step. States
are stored text after text, and a batch reads only its own texts, so memory use stays small.

The teacher always computes in fp32, whatever precision is used for training, so the outputs do not depend on which
precisions are fast on a processor. Logits are stored as float32; they differ from the model's only by the order of
sums, by less than 1e-5 of the largest logit. States are stored as float16, which adds an error of at most 2^-11 of
the value (2^-25 for values below 2^-14). Values beyond 65504, the largest of float16, are clamped to it, and a
message says how many there are.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.classifier import Classifier, TensorBatch
from models.distributed import join
from models.errors import CheckError
from models.messages import say
from models.store.answer_files import AnswerFile
from models.teachers.answer_batches import Outputs, answer_batches, write_answers
from models.tokenizer import Encoded, Tokenizer

LOGITS, STATES, INFO = "logits.bin", "states.bin", "teacher.json"
LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True, slots=True)
class Teacher:
    """Stored outputs of the teacher: logits (texts, labels), and the states of some layers."""

    folder: Path
    layers: tuple[int, ...]  # layers whose output states are stored
    width: int
    starts: NDArray[np.int64]  # (texts + 1,), number of tokens before each text
    logits: Tensor  # (texts, labels), float32

    @classmethod
    def open(cls, folder: Path, encoded: Sequence[Encoded]) -> "Teacher":
        """Open the folder that `teach` wrote for these texts."""
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
        logits = np.fromfile(folder / LOGITS, dtype=np.float32).reshape(-1, info["labels"])
        return cls(folder, tuple(info["layers"]), info["width"], _starts(encoded), torch.from_numpy(logits))

    def states(self, rows: Sequence[int], tokens: int) -> Tensor:
        """Read the states of some texts: (layers, rows, tokens, width), float32, padded with zeros."""
        layers, size = len(self.layers), len(self.layers) * self.width
        states = np.zeros((len(rows), tokens, layers, self.width), dtype=np.float16)
        with (self.folder / STATES).open("rb", buffering=0) as file:
            for place, row in enumerate(rows):
                begin, end = int(self.starts[row]), int(self.starts[row + 1])
                file.seek(begin * size * 2)
                values = np.frombuffer(file.read((end - begin) * size * 2), np.float16)
                states[place, : end - begin] = values.reshape(-1, layers, self.width)
        return torch.from_numpy(states).permute(2, 0, 1, 3).float()


@torch.inference_mode()
def teach(
    model: Classifier, encoded: Sequence[Encoded], tokenizer: Tokenizer, layers: Sequence[int], target: Path
) -> None:
    """Write the teacher's outputs for the texts `encoded` into the folder `target`; a killed run can be continued.

    They are computed on a GPU if there is one; the model is moved back to the CPU at the end.

    Args:
        model: the teacher.
        encoded: the texts; `Teacher` reads states by their index.
        tokenizer: pads the texts.
        layers: layers whose output states are stored.
        target: folder of the stage; files are written in its scratch folder first.

    Raises:
        CheckError: the disk has no room for all outputs, or an output is not a finite number.
        OSError: an output cannot be written; the same call continues from the last saved progress.
    """
    device = join().device
    model.to(device).eval()
    starts, width = _starts(encoded), model.architecture.width
    logit_bytes, state_bytes = model.labels * 4, len(layers) * width * 2  # of a text, and of a token
    clamped = 0

    def compute(_: int, rows: Sequence[int], files: Mapping[str, AnswerFile]) -> None:
        nonlocal clamped
        logits, states = _outputs(model, [encoded[i] for i in rows], tokenizer, layers)
        for place, row in enumerate(rows):
            values = states[place, : int(starts[row + 1] - starts[row])]  # the rest is padding
            clamped += int((np.abs(values) > LARGEST).sum())
            clipped = np.clip(values, -LARGEST, LARGEST).astype(np.float16)
            files[STATES].put(int(starts[row]) * state_bytes, clipped)
            files[LOGITS].put(row * logit_bytes, logits[place])

    sizes = {LOGITS: len(encoded) * logit_bytes, STATES: int(starts[-1]) * state_bytes}
    outputs = Outputs(sizes, "the full model's answers", "run the teacher")
    write_answers(answer_batches(encoded), outputs, target, compute)
    model.to("cpu")
    if clamped:
        say(f"{clamped} values of the teacher's hidden states are beyond {LARGEST:.0f} and were clamped to it")
    info = {"labels": model.labels, "layers": list(layers), "width": width}
    (target / INFO).write_text(json.dumps(info) + "\n", encoding="utf-8")


def _outputs(
    model: Classifier, texts: Sequence[Encoded], tokenizer: Tokenizer, layers: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return logits (texts, labels) and states (texts, tokens, layers, width).

    Raises:
        CheckError: one of them is not a finite number.
    """
    batch = TensorBatch(tokenizer.pad(texts), next(model.parameters()).device)
    all_logits, all_states = model(batch)
    logits = all_logits.float().cpu().numpy()
    states = torch.stack([all_states[i] for i in layers], dim=2).float().cpu().numpy()
    mask = batch.mask.bool().cpu().numpy()
    if not (np.isfinite(logits).all() and np.isfinite(states[mask]).all()):
        raise CheckError("an output of the full model is not a number: a student cannot be trained on it")
    return logits, states


def _starts(encoded: Sequence[Encoded]) -> NDArray[np.int64]:
    """Return the number of tokens before each text, and of all texts, (texts + 1,)."""
    return np.cumsum([0, *[len(e.ids) for e in encoded]], dtype=np.int64)
