"""Compression on two processes: all heal, the main one does the rest, and its end is everybody's end."""

import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compressing import compress_tiny, tiny_config
from labelled import make_texts, write_csv
from processes import run_two
from tiny import make_tiny_checkpoint, tiny_texts

from bench.measure.accuracy.evaluate import bundle_logits
from compress.healing import heal as healing
from compress.healing.distill import DISTANCE
from models import distributed
from models.distributed import by_main, rank, world_size
from models.errors import FallBackError
from models.finetuning.predict import predict
from models.schema import Record
from models.store.folder import REPORT, ModelFolder
from models.train import precision
from models.train.loop import TrainingConfig


def compress(source: Path, store: Path, batch: int) -> ModelFolder:
    """Compress without dropout, which differs from process to process."""
    training = TrainingConfig(
        epochs=2, batch_size=batch, learning_rate=3e-4, freeze_embeddings=False, sparse_embeddings=True,
        metric=DISTANCE, patience=2, precision="fp32",
    )  # fmt: skip
    return compress_tiny(source, store, tiny_config(training, dropout=0.0))


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    make_tiny_checkpoint(folder, layers=3)
    return folder


def logits_of(folder: Path) -> np.ndarray:
    model, _, tokenizer = healing.open_classifier(ModelFolder.open(folder))
    return predict(model, tokenizer.encode(tiny_texts(64).rows), tokenizer)


def test_two_processes_give_the_bundle_of_one_with_the_doubled_batch(source, tmp_path):
    one = compress(source, tmp_path / "one", 8)
    done = run_two([__file__, "compress", str(source), str(tmp_path / "two"), "4"])
    assert [d.returncode for d in done] == [0, 0], done[0].stderr[-2000:] + done[1].stderr[-2000:]
    two = [ModelFolder.open(Path(json.loads(d.stdout))) for d in done]
    assert two[0].id == two[1].id
    heals = [next((tmp_path / name).glob("heal-*")) for name in ("one", "two")]
    healed = [logits_of(folder) for folder in heals]
    np.testing.assert_allclose(healed[1], healed[0], atol=1e-3 * np.ptp(healed[0]))
    values = [
        [e["metrics"][DISTANCE] for e in json.loads((heal / REPORT).read_text())["evaluations"]] for heal in heals
    ]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-3)
    found, wanted = (bundle_logits(made.path, tiny_texts(64).rows) for made in (two[0], one))
    off = np.abs(found - wanted) / np.ptp(wanted)
    assert np.median(off) <= 1e-3
    assert off.max() <= 0.1  # int8: where an activation lies between two steps, a hair's difference is a whole step
    left = [path.name for path in (tmp_path / "two").iterdir() if path.suffix in (".scratch", ".partial")]
    assert not left
    stages = [sorted(p.name.split("-")[0] for p in (tmp_path / n).iterdir() if p.is_dir()) for n in ("one", "two")]
    assert stages[0] == stages[1]


def test_what_fails_in_the_main_process_ends_both_with_its_code_and_one_sentence(source, tmp_path):
    train = write_csv(tmp_path / "train.csv", make_texts(count=61))
    arguments = ["-m", "prunella", "compress", str(source), "--train", str(train), "--store", str(tmp_path)]
    refused = run_two([*arguments, "--speedup", "0.5"])
    assert [d.returncode for d in refused] == [2, 2]
    unlike = run_two(arguments)  # labels that are not the model's: found by the main process alone
    assert [d.returncode for d in unlike] == [2, 2]
    for done in (refused, unlike):
        assert sum("prunella: " in d.stderr for d in done) == 1, done
        assert not any("Traceback" in d.stderr for d in done)


def test_a_verb_of_one_process_is_refused_in_several():
    done = run_two(["-m", "prunella", "evaluate", "nowhere", "--data", "nothing.csv"])
    assert [process.returncode for process in done] == [2, 2]
    said = "".join(process.stderr for process in done)
    assert said.count("evaluate works in one process") == 1


def test_a_failing_stage_of_the_main_process_ends_both_with_1():
    done = run_two([__file__, "work"])
    assert [d.returncode for d in done] == [1, 1]
    told = [json.loads(d.stdout) for d in done]
    assert told[0] == told[1] == {  # the same answers and the same error, whatever each would have said itself
        "alone": 1, "outside": 2, "record": {"value": 0.5, "name": "rank 0"}, "precision": "bf16",
        "raised": ["FallBackError", "too slow", "tuple", "1.ffn"], "left": [],
    }  # fmt: skip
    assert ["ZeroDivisionError" in d.stderr for d in done] == [True, False]


class Answer(Record):
    """What a main process may find out."""

    value: float
    name: str


def test_a_note_from_elsewhere_can_run_no_code(tmp_path):
    class Harmful:
        def __reduce__(self):
            return Path.touch, (tmp_path / "was-run",)

    pickle.loads(pickle.dumps(Harmful()))
    (tmp_path / "was-run").unlink()
    for note in (pickle.dumps(Harmful()), json.dumps({"error": "os", "arguments": [], "fields": {}}).encode()):
        with pytest.raises((ValueError, AttributeError)):
            distributed._read_outcome(note, Any)
    assert not (tmp_path / "was-run").exists()


def work() -> None:
    alone, outside = by_main(lambda: (by_main(world_size), rank())), world_size()
    assert alone[1] == 0
    record = by_main(lambda: Answer(value=0.5, name=f"rank {rank()}"), Answer)
    assert record == Answer(value=0.5, name="rank 0")
    os.environ[precision.AUTO] = ("bf16", "fp32")[rank()]  # as if one were faster here and the other there
    chosen = precision.choose_precision(TrainingConfig())
    steps = [by_main(lambda i=i: i) for i in range(200)]
    assert steps == list(range(200))
    distributed.wait_for_everyone()
    store, first = distributed._launcher_store(), next(distributed._call_numbers)
    left = [n for n in range(first) if store.check([distributed._key(str(n))])]

    def miss() -> None:
        raise FallBackError("too slow", ("1.ffn",))

    try:
        by_main(miss)
    except FallBackError as error:
        raised = [type(error).__name__, str(error), type(error.sublayers).__name__, *error.sublayers]
        told = {"alone": alone[0], "outside": outside, "record": record.model_dump(), "precision": chosen,
                "raised": raised, "left": left}  # fmt: skip
        sys.stdout.write(json.dumps(told))
        sys.stdout.flush()
    by_main(lambda: 1 // 0)


if __name__ == "__main__":
    if sys.argv[1] == "compress":
        made = compress(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
        sys.stdout.write(json.dumps(str(made.path)))
    else:
        from prunella.cli import main as cli

        cli.app = work
        cli.main()
