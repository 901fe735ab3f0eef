"""A small corpus, its tokenizer and small shapes, for the tests of pretraining."""

from pathlib import Path

import numpy as np
from tiny import BAD, GOOD, OTHER

from models.architecture import Architecture, LayerShape
from models.pretraining.masking import MaskingConfig
from models.pretraining.objective import MaskedObjective
from models.pretraining.wordpiece import Vocabulary, train_wordpiece

LENGTH = 16


def sentence(number: int) -> str:
    draw = np.random.default_rng(number)
    kind = GOOD if number % 2 else BAD
    words = [kind[i] for i in draw.integers(0, 7, 3)] + [OTHER[i] for i in draw.integers(0, 15, 6)]
    return " ".join(words[i] for i in draw.permutation(9)).capitalize() + "."


def write_corpus(path: Path, documents: int = 60) -> Path:
    texts = ["\n".join(sentence(100 * d + i) for i in range(1 + d % 4)) for d in range(documents)]
    path.write_text("\n\n".join(texts) + "\n")
    return path


def train_tokenizer(corpus: Path, folder: Path) -> Path:
    train_wordpiece([corpus], 120, lowercase=True).save(str(folder / "tokenizer.json"))
    return folder


def tiny_shape(vocabulary: int, layers=((2, 64), (2, 64))) -> Architecture:
    shapes = tuple(LayerShape(heads=heads, ffn=ffn) for heads, ffn in layers)
    return Architecture(vocabulary=vocabulary, positions=LENGTH, token_types=2, width=32, head_size=16, layers=shapes)


def write_shape(path: Path, layers=((2, 64), (2, 64))) -> str:
    tiny_shape(1, layers).write(path)  # the number of tokens is the tokenizer's
    return str(path)


def objective_of(rows: int, vocabulary: Vocabulary, seed: int = 3, cls=MaskedObjective) -> MaskedObjective:
    inner = np.random.default_rng(0).choice(vocabulary.ordinary, (rows, LENGTH - 2))
    ids = np.full((rows, LENGTH), vocabulary.cls)
    ids[:, 1:-1], ids[:, -1] = inner, vocabulary.sep
    return cls(ids, vocabulary, MaskingConfig(), seed)
