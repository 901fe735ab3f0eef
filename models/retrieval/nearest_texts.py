"""nearest_texts(): take from a large corpus the lines that are nearest to the training texts.

1. Lines that are training or held-out rows, or come again (apart from case, punctuation and spaces), are left out.
2. If more than KEPT times the wanted lines are left, `most_typical` keeps so many by their words: the encoder would
   take hours for millions of lines.
3. The sentence encoder embeds these lines, the training rows and the held-out rows.
4. Lines that nearly are a held-out row are left out: a cosine of SAME or more, or SHARED of all words in common.
5. Each training row has its own nearest lines: first all lines that are the nearest of some row are taken, then the
   second nearest, and so on, so that rare kinds of rows are not forgotten. A line that nearly is an earlier one (a
   cosine of SAME or more) is left out.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.data.builtin import MINILM
from models.data.overlap import row_key, row_words
from models.data.texts import Texts
from models.errors import InputError
from models.messages import progress, say
from models.retrieval.ngram_filter import most_typical
from models.retrieval.sentence_embeddings import embed
from models.store.atomic import write_text
from models.store.folder import REPORT
from models.store.stage import Stage, run_stage
from models.tokenizer import Row
from models.train.precision import computed_on
from models.train.starting_point import load_source_id, resolve_encoder

VERSION = 1
FILE = "rows.bin"  # numbers of the lines that are taken, int64, the nearest first
KEPT = 3  # lines that the encoder reads, times the wanted ones
QUERIES = 10_000  # training rows that lines are compared with; of more, a random part
SAME = 0.95  # cosine of two texts that count as the same
SHARED = 0.7  # words in common, over the words of both, of two texts that count as the same
NEIGHBOURS = 8  # held-out rows whose words are compared with those of a line
BLOCK = 256  # rows that are compared at once


def nearest_texts(  # noqa: PLR0913 (what is chosen from, and by what)
    corpus: Texts, training: Texts, held_out: Sequence[Texts], count: int, store: Path, encoder: str = MINILM
) -> Texts:
    """Return the `count` rows of `corpus` that are nearest to the training rows, the nearest first.

    Args:
        corpus: rows without labels, as many as fit into memory.
        training: rows that the model is trained on.
        held_out: rows for validation and test, which must not be taken.
        count: rows to take; fewer are returned if fewer are left.
        store: folder of finished stages.
        encoder: a sentence encoder: a folder, or the name of a built-in one.

    Raises:
        InputError: `count` is less than 1, the corpus has pairs and the training rows single texts or the reverse, or
            no row is left.
        MissingExtraError: the encoder is not installed.
    """
    if count < 1:
        raise InputError(f"--nearest is {count}: wanted 1 line or more")
    training.joined(corpus)  # raises for rows of another form
    folder = resolve_encoder(encoder, store)
    settings = {
        "corpus": corpus.sha256, "training": training.sha256, "held_out": [texts.sha256 for texts in held_out],
        "count": count, "encoder": load_source_id(folder), **computed_on(),
    }  # fmt: skip
    excluded = [row for texts in held_out for row in dict.fromkeys(texts.rows)]
    result = run_stage(
        Stage("nearest", VERSION, settings), [], store,
        lambda target: _choose(corpus.rows, training.rows, excluded, count, folder, target),
    )  # fmt: skip
    numbers = np.fromfile(result.folder.path / FILE, dtype=np.int64)
    report = json.loads((result.folder.path / REPORT).read_text(encoding="utf-8"))
    say(
        f"{len(numbers):,} of {len(corpus):,} rows of {corpus.source} are taken, the nearest to {training.source}; "
        f"{report['known']:,} were known rows or came again, {report['near_held_out']:,} are nearly a held-out row, "
        f"{report['near_each_other']:,} nearly a row that is taken"
    )
    if not len(numbers):
        raise InputError(f"no row of {corpus.source} is left: all are known rows, or come again")
    return Texts([corpus.rows[i] for i in numbers], None, corpus.source, corpus.kind)


def _choose(  # noqa: PLR0913 (the same)
    corpus: Sequence[Row], training: Sequence[Row], held_out: Sequence[Row], count: int, encoder: Path, target: Path
) -> None:
    """Write the numbers of the lines, and a report of what was left out, into `target`."""
    seen = {row_key(row) for row in (*training, *held_out)}
    left = []
    for number, row in enumerate(progress(corpus, desc="find repeated lines", unit="line", delay=2)):
        if (key := row_key(row)) not in seen:
            seen.add(key)
            left.append(number)
    report = {"lines": len(corpus), "known": len(corpus) - len(left)}
    if len(left) > KEPT * count:
        say(f"{len(left):,} lines are compared with the training texts by words, {KEPT * count:,} by the encoder")
        chosen = most_typical([" ".join(corpus[i]) for i in left], [" ".join(row) for row in training], KEPT * count)
        left = [left[i] for i in chosen]
    rows = [corpus[i] for i in left]
    vectors = embed(rows, encoder, "lines")
    near = _near_held_out(rows, vectors, held_out, encoder)
    numbers, rows_left = np.array(left, dtype=np.int64)[~near], vectors[torch.from_numpy(~near)]
    queries = list(dict.fromkeys(training))
    drawn = np.random.default_rng(0).permutation(len(queries))[:QUERIES]
    order = _ranked(rows_left, embed([queries[i] for i in drawn], encoder, "training texts"), count)
    taken, dropped = _distinct(rows_left, order, count)
    report |= {"near_held_out": int(near.sum()), "near_each_other": dropped, "taken": len(taken)}
    numbers[taken].tofile(target / FILE)
    write_text(target / REPORT, json.dumps(report) + "\n")


def _near_held_out(rows: Sequence[Row], vectors: Tensor, held_out: Sequence[Row], encoder: Path) -> NDArray[np.bool_]:
    """Return whether each row (rows,) is nearly one of the held-out rows."""
    near = np.zeros(len(rows), dtype=bool)
    if not held_out or not rows:
        return near
    theirs, words = embed(held_out, encoder, "held-out texts"), [set(row_words(row)) for row in held_out]
    for start in range(0, len(rows), BLOCK):
        cosines, neighbours = (vectors[start : start + BLOCK] @ theirs.T).topk(min(NEIGHBOURS, len(held_out)))
        for place, others in enumerate(neighbours.tolist()):
            own = set(row_words(rows[start + place]))
            near[start + place] = float(cosines[place, 0]) >= SAME or any(
                len(own & words[other]) >= SHARED * len(own | words[other]) for other in others if words[other]
            )
    return near


def _ranked(vectors: Tensor, queries: Tensor, count: int) -> list[int]:
    """Return all rows, ordered by their best rank among the neighbours of a query, then by their best cosine."""
    if not len(vectors):
        return []
    most = min(len(vectors), max(1, -(-4 * count // len(queries))), 1_000)
    ranks, cosines = torch.full((len(vectors),), most), torch.full((len(vectors),), -1.0)
    for start in progress(range(0, len(queries), BLOCK), desc="compare", unit="block", delay=2):
        block = queries[start : start + BLOCK] @ vectors.T
        cosines = torch.maximum(cosines, block.max(dim=0).values)
        neighbours = block.topk(most, dim=1).indices
        places = torch.arange(most).expand_as(neighbours)
        ranks.scatter_reduce_(0, neighbours.ravel(), places.ravel(), "amin")
    order = np.lexsort((-cosines.numpy(), ranks.numpy()))
    return [int(i) for i in order]


def _distinct(vectors: Tensor, order: Sequence[int], count: int) -> tuple[list[int], int]:
    """Return the first `count` rows of `order` that are not nearly an earlier one, and how many were left out."""
    taken: list[int] = []
    dropped = 0
    for start in range(0, len(order), BLOCK):
        block = list(order[start : start + BLOCK])
        known = (vectors[block] @ vectors[taken].T).max(dim=1).values if taken else torch.full((len(block),), -1.0)
        among = vectors[block] @ vectors[block].T
        kept: list[int] = []  # places in the block
        for place in range(len(block)):
            if len(taken) + len(kept) == count:
                break
            if float(known[place]) >= SAME or (kept and float(among[place, kept].max()) >= SAME):
                dropped += 1
            else:
                kept.append(place)
        taken += [block[place] for place in kept]
        if len(taken) == count:
            break
    return taken, dropped
