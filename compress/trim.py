"""trim_source(): the stage that drops the tokens which the domain's texts do not use, and says what that changes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.judging import changed_rows
from compress.source import Inputs
from compress.vocabulary import read_tokenizer, trim_model, trim_tokenizer
from models import task as task_file
from models import tokens
from models.checkpoint import load_checkpoint, save_checkpoint
from models.console import say
from models.errors import DisagreementError
from models.folder import REPORT
from models.stage import Made, Stage, run_stage
from models.task import Task
from models.tokens import Row, Tokenizer
from models.train.predict import predict

VERSION = 3
SPLIT_SHARE = 0.01  # of held-out tokens may be split otherwise


def trim_source(inputs: Inputs, store: Path) -> Made:
    """Return the source with the tokens that its texts use, a safe set, and `max_tokens` positions.

    Few training texts use few of the tokens that are to come: frequent tokens stay too, as many as the texts that
    choose show to be needed.

    Its report.json says how many of the texts that are reported are split otherwise, and how many answers that
    changes.

    Raises:
        DisagreementError: a training text is split otherwise than before.
        NoEffectError: all tokens are used.
    """
    source = inputs.source
    settings = {"texts": inputs.train.sha256, "held_out": inputs.validation.sha256}
    if inputs.test is not None:
        settings |= {"reported": inputs.test.sha256}

    def make(target: Path) -> None:
        task = Task.read(source.path / task_file.FILE)
        before = Tokenizer.open(source.path, task.max_tokens)
        used = {i for e in before.encode(inputs.train.rows) for i in e.ids}
        used |= set(range(frequent_needed(used, [i for e in before.encode(inputs.validation.rows) for i in e.ids])))
        trimmed = trim_tokenizer(read_tokenizer(source.path), used)
        (target / tokens.FILE).write_text(json.dumps(trimmed.document, ensure_ascii=False), encoding="utf-8")
        full = load_checkpoint(source.path)
        smaller = trim_model(full, trimmed.kept, task.max_tokens)
        after = Tokenizer.open(target, task.max_tokens)
        differ = _differ(before, after, trimmed.kept, inputs.train.rows)
        if differ:
            raise DisagreementError(
                f"{len(differ)} training texts are split otherwise by the trimmed tokenizer: "
                "--no-trim-vocabulary leaves it whole"
            )
        save_checkpoint(smaller, task, target)
        task.write(target / task_file.FILE)
        rows = inputs.roles.judged.rows
        changed = _differ(before, after, trimmed.kept, rows)
        answers = [
            task.decide(task.scores(predict(m, t.encode(rows), t))) for m, t in ((full, before), (smaller, after))
        ]
        told: dict[str, Any] = {
            "tokens_before": full.architecture.vocabulary, "tokens": len(trimmed.kept), "held_out_texts": len(rows),
            "held_out_split_otherwise": len(changed),
            "held_out_answers_changed": changed_rows(task.kind, *answers), **inputs.roles.summary(),
        }  # fmt: skip
        (target / REPORT).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        say(
            f"{len(trimmed.kept)} of {full.architecture.vocabulary} tokens are kept; of {len(rows)} held-out texts "
            f"{len(changed)} are split and {told['held_out_answers_changed']} answered otherwise"
        )

    return run_stage(
        Stage("trim", VERSION, settings),
        [source],
        store,
        make,
    )


def frequent_needed(used: set[int], held_out: Sequence[int]) -> int:
    """Return how many of the first ids must stay beside `used`: SPLIT_SHARE of held-out tokens may be lost.

    Vocabularies list frequent tokens first: WordPiece's and Unigram's by count, BPE's by merge.
    """
    unseen = sorted(i for i in held_out if i not in used)
    most = int(len(held_out) * SPLIT_SHARE)
    return unseen[-most - 1] + 1 if len(unseen) > most else 0


def _differ(before: Tokenizer, after: Tokenizer, kept: np.ndarray, rows: list[Row]) -> list[int]:
    """Return the rows that the two tokenizers split otherwise; `kept` has the old id of each new one."""
    pairs = zip(before.encode(rows), after.encode(rows), strict=True)
    return [row for row, (old, new) in enumerate(pairs) if old.ids != kept[new.ids].tolist()]
