"""teach(): the teacher's answers to every text, computed once and kept on disk: logits and some hidden states.

A student is much smaller than its teacher: with the teacher in the loop, most of a training step would be the
teacher's. States are stored text after text; a batch reads its own texts only, so memory stays small.

Everything is computed in fp32, whatever precision a training has: answers do not depend on what a processor is fast
in. Logits are stored as float32, and differ from the model's by the order of sums only: by less than 1e-5 of the
largest logit. States are stored as float16: each differs by at most 2^-11 of itself (2^-25 where it is below 2^-14)
more than that. One beyond float16's largest number, 65504, is stored as that number, and a notice says how many are.
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
from models.console import say
from models.distributed import join
from models.errors import CheckError
from models.stage import scratch_folder
from models.tokens import Encoded, Tokenizer
from models.train.batches import length_batches

LOGITS, STATES, INFO = "logits.bin", "states.bin", "teacher.json"
LARGEST = float(np.finfo(np.float16).max)
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
        CheckError: the disk has no room for all answers, or an answer is not a number.
        OSError: an answer cannot be written; the same call goes on from the last note.
    """
    scratch = scratch_folder(target)
    scratch.mkdir(parents=True, exist_ok=True)
    device = join().device
    model.to(device).eval()
    starts, width = _starts(encoded), model.architecture.width
    state_bytes = len(layers) * width * 2  # of a token
    plan = list(length_batches(encoded, 32, seed=0))
    progress = scratch / "taught.json"
    done = json.loads(progress.read_text(encoding="utf-8")) if progress.is_file() else 0
    logits = AnswerFile(scratch / LOGITS, len(encoded) * model.labels * 4)
    states = AnswerFile(scratch / STATES, int(starts[-1]) * state_bytes)
    clamped = 0
    with closing(logits), closing(states):
        check_space([logits, states], scratch)
        bar = tqdm(total=len(encoded), desc="the teacher answers", unit="text", file=sys.stderr)
        for number, rows in enumerate(plan):
            if number >= done:
                answers, kept = _answers(model, [encoded[i] for i in rows], tokenizer, layers)
                for place, row in enumerate(rows):
                    own = kept[place, : int(starts[row + 1] - starts[row])]  # the rest is padding
                    clamped += int((np.abs(own) > LARGEST).sum())
                    states.put(int(starts[row]) * state_bytes, np.clip(own, -LARGEST, LARGEST).astype(np.float16))
                    logits.put(row * model.labels * 4, answers[place])
            bar.update(len(rows))
            if (number + 1) % KEEP_EVERY == 0 and number >= done:
                states.sync()
                logits.sync()
                write_text(progress, str(number + 1))
        bar.close()
    model.to("cpu")
    if clamped:
        say(f"{clamped} values of the teacher's hidden states are beyond {LARGEST:.0f} and were stored as that")
    progress.unlink(missing_ok=True)  # before the answers leave: what a kill leaves from here on is made anew
    for name in (LOGITS, STATES):
        shutil.move(scratch / name, target / name)
    told = {"labels": model.labels, "layers": list(layers), "width": width}
    (target / INFO).write_text(json.dumps(told) + "\n", encoding="utf-8")


def _answers(
    model: Classifier, texts: Sequence[Encoded], tokenizer: Tokenizer, layers: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return logits (texts, labels) and states (texts, tokens, layers, width).

    Raises:
        CheckError: one of them is not a number.
    """
    batch = TensorBatch(tokenizer.pad(texts), next(model.parameters()).device)
    logits, states = model(batch)
    answers = logits.float().cpu().numpy()
    kept = torch.stack([states[i] for i in layers], dim=2).float().cpu().numpy()
    real = batch.mask.bool().cpu().numpy()
    if not (np.isfinite(answers).all() and np.isfinite(kept[real]).all()):
        raise CheckError("the model answers a text with something that is not a number: it cannot teach")
    return answers, kept


def _starts(encoded: Sequence[Encoded]) -> NDArray[np.int64]:
    return np.cumsum([0, *[len(e.ids) for e in encoded]], dtype=np.int64)
