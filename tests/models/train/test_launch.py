"""Both verbs on two processes, as `accelerate launch` starts them: one folder, one last line, one JSON object."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from labelled import make_texts, write_csv
from pretraining import write_corpus, write_shape
from tiny import make_tiny_checkpoint

from models.store.folder import ModelFolder

ROOT = Path(__file__).resolve().parents[3]
SEVERAL = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]


@pytest.fixture(scope="module")
def commands(tmp_path_factory) -> dict[str, list[str]]:
    given = tmp_path_factory.mktemp("given")
    make_tiny_checkpoint(given / "encoder")
    train = write_csv(given / "train.csv", make_texts(count=61))
    test = write_csv(given / "test.csv", make_texts(count=20, seed=2))
    corpus = write_corpus(given / "corpus.txt")
    shape = write_shape(given / "architecture.json")
    common = ["--precision", "fp32", "--batch-size", "4", "--snapshot-minutes", "0"]
    return {
        "finetune": [
            *("finetune", "--encoder", str(given / "encoder"), "--train", str(train), "--test", str(test)),
            *("--max-tokens", "32", "--epochs", "2", *common),
        ],
        "pretrain": [
            *("pretrain", "--corpus", str(corpus), "--size", shape, "--vocabulary", "120", "--length", "16"),
            *("--hold-out", "10", "--steps", "6", *common),
        ],
    }


@pytest.mark.parametrize("verb", ["finetune", "pretrain"])
def test_two_processes_make_one_folder(commands, tmp_path, verb):
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    launch = [sys.executable, *SEVERAL, "--num_cpu_threads_per_process", "1", "-m", "prunella"]
    told = []
    for _ in range(2):  # the second finds the folder
        done = subprocess.run(
            [*launch, *commands[verb], "--store", str(tmp_path)],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        told.append(json.loads(done.stdout))
    assert [line["reused"] for line in told] == [False, True]
    assert ModelFolder.open(Path(told[0]["folder"])).id == told[1]["id"]
    assert not [path.name for path in tmp_path.iterdir() if path.suffix in (".scratch", ".partial")]
