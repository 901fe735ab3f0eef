"""Gates for tests: random ones, and copies of bundles that have one."""

import shutil
from pathlib import Path

import numpy as np
from bundles import sign

from models.store.folder import sha256_of
from models.task import Task
from models.tokenizer import Tokenizer
from service.cascade.gate import Gate, GateInfo

ANSWERS_HALF, NEVER, ALWAYS = 0.8, 2.0, 0.0  # thresholds; the first one of a random gate over two labels


def make_gate(tokens: int, labels: int, tokenizer_sha256: str = "none", seed: int = 0, **changes: object) -> Gate:
    """Return a gate with random rows; `changes` are fields of its settings."""
    settings: dict[str, object] = {
        "tokens": tokens, "bigram_bits": 10, "scales": (0.01,) * labels, "bias": (0.0,) * labels, "temperature": 1.5,
        "thresholds": (ANSWERS_HALF,), "tokenizer_sha256": tokenizer_sha256, "max_loss": 0.5, "bound_points": 0.4,
        "reference": "student", "share": 0.5, "rows": 1000,
    }  # fmt: skip
    info = GateInfo.model_validate(settings | changes)
    table = np.random.default_rng(seed).integers(-127, 128, (info.row_count, labels)).astype(np.int8)
    return Gate.of(info, table)


def add_gate(bundle: Path, target: Path, **changes: object) -> Path:
    """Copy a bundle and give it a random gate, or one with the settings in `changes`; return `target`."""
    shutil.copytree(bundle, target)
    labels = len(Task.read(target / "task.json").labels)
    tokens = Tokenizer.open(bundle, 16).vocabulary
    make_gate(tokens, labels, sha256_of(target / "tokenizer.json"), **changes).save(target)
    return sign(target)
