"""trim_source(): the stage that drops tokens which the texts do not use, and reports what that changes."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from bench.measure.accuracy.task_metric import changed_rows
from compress.inputs.inputs import CompressionInputs
from compress.vocabulary.frequent_tokens import frequent_tokens
from compress.vocabulary.subset import (
    always_kept,
    kept_for_padding,
    read_tokenizer,
    token_names,
    trim_model,
    trim_tokenizer,
)
from models import task as task_file
from models import tokenizer as tokenizer_file
from models.checkpoint import load_checkpoint, save_checkpoint
from models.errors import DisagreementError
from models.finetuning.predict import predict
from models.messages import say
from models.store.folder import REPORT
from models.store.stage import Stage, StageResult, run_stage
from models.task import Task
from models.tokenizer import Row, Tokenizer

VERSION = 5
NO_LIMIT = 10**9  # tokens


def trim_source(inputs: CompressionInputs, store: Path) -> StageResult:
    """Return the source with the tokens that its texts use, a set that always stays, and `max_tokens` positions.

    A small training set lacks many tokens of future texts. So the most frequent tokens stay too; how many is decided
    on the validation texts (`frequent_tokens`). A training text counts with the tokens beyond `max_tokens`: a Unigram
    tokenizer chooses the split that is best for the whole text, so the end of a text may change its beginning.

    The report.json says how many of the reported texts are split differently, and how many predictions that changes.

    Raises:
        DisagreementError: a training text is split differently than before.
        NoEffectError: all tokens are used.
    """
    source = inputs.source
    settings = {"texts": inputs.train.sha256, "held_out": inputs.validation.sha256}
    if inputs.test is not None:
        settings |= {"reported": inputs.test.sha256}

    def make(target: Path) -> None:
        task, encoded = Task.read(source.path / task_file.FILE), inputs.encoded(source)
        before, document = encoded.tokenizer, read_tokenizer(source.path)
        whole = Tokenizer.open(source.path, NO_LIMIT).encode(inputs.train.rows)
        used = always_kept(document) | {i for text in whole for i in text.ids}
        held_out = [i for text in encoded.validation.tokens for i in text.ids]
        used |= frequent_tokens(token_names(document), used, held_out)
        full = load_checkpoint(source.path)
        trimmed = trim_tokenizer(document, used | kept_for_padding(full.architecture))
        (target / tokenizer_file.FILE).write_text(json.dumps(trimmed.document, ensure_ascii=False), encoding="utf-8")
        smaller = trim_model(full, trimmed.kept_ids, task.max_tokens)
        after = Tokenizer.open(target, task.max_tokens)
        changed_train = _differ(before, after, trimmed.kept_ids, inputs.train.rows)
        if changed_train:
            raise DisagreementError(
                f"{len(changed_train)} training texts are split differently by the trimmed tokenizer: "
                "--no-trim-vocabulary leaves it whole"
            )
        save_checkpoint(smaller, task, target)
        task.write(target / task_file.FILE)
        rows = inputs.roles.judged.rows
        changed = _differ(before, after, trimmed.kept_ids, rows)
        predictions = [
            task.decide(task.scores(predict(m, t.encode(rows), t))) for m, t in ((full, before), (smaller, after))
        ]
        report: dict[str, Any] = {
            "tokens_before": full.architecture.vocabulary, "tokens": len(trimmed.kept_ids),
            "held_out_texts": len(rows), "held_out_split_otherwise": len(changed),
            "held_out_answers_changed": changed_rows(task.kind, *predictions), **inputs.roles.summary(),
        }  # fmt: skip
        (target / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        say(
            f"{len(trimmed.kept_ids)} of {full.architecture.vocabulary} tokens are kept; of {len(rows)} held-out "
            f"texts {len(changed)} are split differently, and {report['held_out_answers_changed']} get another answer"
        )

    return run_stage(Stage("trim", VERSION, settings), [source], store, make)


def _differ(before: Tokenizer, after: Tokenizer, kept_ids: np.ndarray, rows: list[Row]) -> list[int]:
    """Return the rows that the two tokenizers split differently; `kept_ids` has the old id of each new id."""
    pairs = zip(before.encode(rows), after.encode(rows), strict=True)
    return [row for row, (old, new) in enumerate(pairs) if old.ids != kept_ids[new.ids].tolist()]
