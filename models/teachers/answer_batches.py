"""write_answers(): write a model's outputs for texts, computed in batches, into files; a killed run continues."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from models.messages import progress
from models.store.answer_files import AnswerFile, check_space
from models.store.atomic import write_text
from models.store.stage import scratch_folder
from models.tokenizer import Encoded
from models.train.batches import length_batches

BATCH = 32
DONE = "done.json"  # number of batches whose outputs are on the disk
KEEP_EVERY = 32  # batches after which the progress is saved
Compute = Callable[[int, Sequence[int], Mapping[str, AnswerFile]], None]


def answer_batches(encoded: Sequence[Encoded]) -> list[list[int]]:
    """Return the numbers of the texts of each batch; the texts of a batch have similar lengths."""
    return list(length_batches(encoded, BATCH, seed=0))


@dataclass(frozen=True, slots=True)
class Outputs:
    """The files that a model's outputs are written into."""

    sizes: Mapping[str, int]  # bytes of each file, by name
    contents: str  # what the files contain, for messages
    description: str  # of the progress bar


def write_answers(batches: Sequence[Sequence[int]], outputs: Outputs, target: Path, compute: Compute) -> None:
    """Write the outputs for all batches into files of the folder `target`.

    Args:
        batches: the numbers of the texts of each batch; an interrupted call is continued with the same ones.
        outputs: the files.
        target: folder of the stage; files are written in its scratch folder first.
        compute: computes the outputs of a batch, and puts them into the files: number of the batch, numbers of its
            texts, files by name.

    Raises:
        CheckError: the disk has no room for the files.
        OSError: an output cannot be written; the same call continues from the last saved progress.
    """
    scratch = scratch_folder(target)
    scratch.mkdir(parents=True, exist_ok=True)
    done_file = scratch / DONE
    done = json.loads(done_file.read_text(encoding="utf-8")) if done_file.is_file() else 0
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(closing(AnswerFile(scratch / name, size)))
            for name, size in outputs.sizes.items()
        }  # fmt: skip
        check_space(list(files.values()), scratch, outputs.contents)
        bar = progress(total=sum(map(len, batches)), desc=outputs.description, unit="text")
        stack.enter_context(closing(bar))
        for number, rows in enumerate(batches):
            if number >= done:
                compute(number, rows, files)
            bar.update(len(rows))
            if (number + 1) % KEEP_EVERY == 0 and number >= done:
                for file in files.values():
                    file.sync()
                write_text(done_file, str(number + 1))
    done_file.unlink(missing_ok=True)  # before the files are moved: a run that is killed from here on starts again
    for name in outputs.sizes:
        shutil.move(scratch / name, target / name)
