"""teach(): what the teacher says of every text, computed once and kept on disk: its logits and some hidden states.

A student is much smaller than its teacher: with the teacher in the loop, most of a training step would be the
teacher's. States are float16, text after text; a batch reads its own texts only, so memory stays small.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from compress.answer_files import AnswerFile, check_space
from models.atomic import write_text
from models.classifier import Classifier, TensorBatch
from models.distributed import join
from models.stage import scratch_folder
from models.tokens import Encoded, Tokenizer
from models.train.batches import length_batches
from models.train.config import TrainingConfig
from models.train.precision import uses_bf16

LOGITS, STATES, INFO = "logits.bin", "states.bin", "teacher.json"
KEEP_EVERY = 32  # batches between two notes of how far it is: a killed run goes on from there


@dataclass(frozen=True, slots=True)
class Teacher:
    """Answers that were kept: logits (texts, labels), and states of some layers."""

    folder: Path
    layers: tuple[int, ...]  # whose output states are kept
    width: int
    starts: NDArray[np.int64]  # (texts + 1,), tokens before each text
    logits: Tensor  # (texts, labels), float32

    @classmethod
    def open(cls, folder: Path, encoded: Sequence[Encoded]) -> "Teacher":
        """Open the folder that `teach` made for these texts."""
        told = json.loads((folder / INFO).read_text(encoding="utf-8"))
        logits = np.fromfile(folder / LOGITS, dtype=np.float32).reshape(-1, told["labels"])
        layers, width = tuple(told["layers"]), told["width"]
        return cls(folder, layers, width, _starts(encoded), torch.from_numpy(logits))

    def states(self, rows: Sequence[int], tokens: int) -> Tensor:
        """Return the states (layers, rows, tokens, width) of texts, padded with zeros, float32."""
        kept, size = len(self.layers), len(self.layers) * self.width
        found = np.zeros((len(rows), tokens, kept, self.width), dtype=np.float16)
        with (self.folder / STATES).open("rb", buffering=0) as file:
            for place, row in enumerate(rows):
                begin, end = int(self.starts[row]), int(self.starts[row + 1])
                file.seek(begin * size * 2)
                found[place, : end - begin] = np.frombuffer(file.read((end - begin) * size * 2), np.float16).reshape(
                    -1, kept, self.width
                )
        return torch.from_numpy(found).permute(2, 0, 1, 3).float()


@torch.inference_mode()
def teach(
    model: Classifier, encoded: Sequence[Encoded], tokenizer: Tokenizer, layers: Sequence[int], target: Path
) -> None:
    """Write the teacher's answers to the texts `encoded` into the folder `target`; goes on after a kill.

    They are computed on a GPU where there is one, and the model comes back from there.

    Args:
        model: the teacher.
        encoded: texts, in the order in which `Teacher` is asked for them.
        tokenizer: pads them.
        layers: whose output states are kept.
        target: the folder of the stage; work is done in the scratch folder beside it.

    Raises:
        CheckError: the disk has no room for all answers; says how much they take.
        OSError: an answer cannot be written; the same call goes on from the last note.
    """
    scratch = scratch_folder(target)
    scratch.mkdir(parents=True, exist_ok=True)
    device, in_bf16 = join().device, uses_bf16(TrainingConfig())
    model.to(device)
    starts, width = _starts(encoded), model.architecture.width
    plan = list(length_batches(encoded, 32, seed=0))
    progress = scratch / "taught.json"
    done = json.loads(progress.read_text(encoding="utf-8")) if progress.is_file() else 0
    logits = AnswerFile(scratch / LOGITS, len(encoded) * model.labels * 4)
    states = AnswerFile(scratch / STATES, int(starts[-1]) * len(layers) * width * 2)
    with closing(logits), closing(states):
        check_space([logits, states], scratch)
        bar = tqdm(total=len(encoded), desc="the teacher answers", unit="text", file=sys.stderr)
        for number, rows in enumerate(plan):
            if number >= done:
                batch = TensorBatch(tokenizer.pad([encoded[i] for i in rows]), device)
                with torch.autocast(device.type, torch.bfloat16, enabled=in_bf16):
                    logits_of, seen = model(batch)
                found = logits_of.float().cpu().numpy()
                kept = torch.stack([seen[i] for i in layers], dim=2).half().cpu().numpy()  # (batch, tokens, kept, …)
                for place, row in enumerate(rows):
                    count = int(starts[row + 1] - starts[row])
                    states.put(int(starts[row]) * len(layers) * width * 2, kept[place, :count])
                    logits.put(row * model.labels * 4, found[place])
            bar.update(len(rows))
            if (number + 1) % KEEP_EVERY == 0 and number >= done:
                states.sync()
                logits.sync()
                write_text(progress, str(number + 1))
        bar.close()
    model.to("cpu")
    progress.unlink(missing_ok=True)  # before the answers leave: what a kill leaves from here on is made anew
    for name in (LOGITS, STATES):
        shutil.move(scratch / name, target / name)
    told = {"labels": model.labels, "layers": list(layers), "width": width}
    (target / INFO).write_text(json.dumps(told) + "\n", encoding="utf-8")


def _starts(encoded: Sequence[Encoded]) -> NDArray[np.int64]:
    return np.cumsum([0, *[len(e.ids) for e in encoded]], dtype=np.int64)
