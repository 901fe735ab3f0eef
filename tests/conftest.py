import logging
import os
import sys
from pathlib import Path

# tiny models gain nothing from threads, and threads of several processes wait for each other; children inherit it
os.environ.setdefault("OMP_NUM_THREADS", "1")
# what `--precision auto` is must not depend on the processor; .ci/run sets bf16 as well, and flags to hide
os.environ.setdefault("PRUNELLA_AUTO_PRECISION", "fp32")
sys.path.insert(0, str(Path(__file__).parent))

import pytest
from compressing import time_by_bytes
from pretraining import train_tokenizer, write_corpus

from models.pretraining.wordpiece import Vocabulary, open_backend


@pytest.fixture(autouse=True)
def _messages_reach_caplog():
    """Undo what the command line does to the logger of messages, for the next test."""
    yield
    logging.getLogger("prunella").propagate = True


@pytest.fixture
def byte_clock(monkeypatch) -> None:
    """Let models be timed by their bytes: what is chosen by time is the same on every machine."""
    time_by_bytes(monkeypatch)


@pytest.fixture(scope="module")
def corpus_file(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "texts.txt")


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory, corpus_file) -> Path:
    return train_tokenizer(corpus_file, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def vocabulary(tokenizer_folder) -> Vocabulary:
    return Vocabulary.of(open_backend(tokenizer_folder))
