"""Scorer: the answers of a bundle to any number of texts, on one core; the same on every engine and as the service.

The texts are sorted by their number of tokens before they are batched, so that hardly any padding is computed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from models.data.labels import SURROGATE
from models.errors import CheckError
from models.task import Combine, Task
from models.tokenizer import Encoded, Row
from service.cascade.gate import gate_answers
from service.inference.request_rows import row_problem
from service.model.bundle import Bundle
from service.model.engine import Cut, Engine
from service.model.isolation import apply_isolated, infer_isolated
from service.model.session import RuntimeSettings
from service.protocols import Prediction, Request, decisions, ranked

BATCH_TEXTS = 32  # of one run of the model
BATCH_TOKENS = 1024  # of one run, padding included
SPREAD = 4  # tokens: the lengths in one batch differ by less
NO_LIMIT = 10**9  # characters
ANY = Request([], single=True)  # all labels, with the scores of the task


@dataclass(frozen=True, slots=True)
class Scored:
    """The answer to one row; all but `error` are None where there is none."""

    label: str | None = None  # None also: a multi-label model assigns none, or the model is a regression
    score: float | None = None  # of `label`, else the highest; of a regression the number itself
    labels: list[str] | None = None  # assigned by a multi-label model, in the order of its labels
    scores: list[Prediction] | None = None  # of all labels, in descending order
    error: str | None = None  # why there is no answer
    by_gate: bool = False  # whether the gate answered
    windows: int | None = None  # of the text, whose scores were combined


class Scorer:
    """A bundle with a session of one thread on the CPU."""

    def __init__(
        self,
        bundle: str | Path,
        truncate: bool = True,
        cascade: bool = True,
        windows: int | None = None,
        windows_combine: Combine | None = None,
    ) -> None:
        """Open a bundle folder, and compare its answers to the texts that are stored in it with the stored ones.

        Args:
            bundle: its path.
            truncate: whether a text that is too long is truncated on the right, or gets an error.
            cascade: whether the gate of a bundle that has one answers easy texts.
            windows: most overlapping windows of a text that is too long; None: as the bundle says.
            windows_combine: mean or max of the scores of a text's windows; None: as the bundle says.

        Raises:
            FolderError: there is no such bundle, or it is incomplete.
            DisagreementError: the answers on this processor differ from the stored ones.
        """
        settings = RuntimeSettings(device="cpu", threads=1, windows=windows, windows_combine=windows_combine)
        self._engine = Engine.open(Bundle.open(Path(bundle)), settings)
        self._engine.self_check()
        self._cut: Cut = self._engine.cut_of("right" if truncate else "never")
        self._gate = self._engine.gate if cascade else None

    @property
    def id(self) -> str:
        """Identity of the bundle."""
        return self._engine.bundle.id

    @property
    def task(self) -> Task:
        """Task of the bundle."""
        return self._engine.bundle.task

    def __call__(self, texts: Sequence[object], pairs: Sequence[object] | None = None) -> list[Scored]:
        """Return the answer to each text, or to each text with the second text beside it in `pairs`.

        Values that are no text get an error, as do texts on which the model fails.

        Raises:
            CheckError: the model fails on every text.
        """
        values = [(text,) for text in texts] if pairs is None else list(zip(texts, pairs, strict=True))
        errors = {i: error for i, row in enumerate(values) if (error := self._problem(row))}
        positions = [i for i in range(len(values)) if i not in errors]
        rows: list[Row] = [values[i] for i in positions]  # type: ignore[misc]  # `_problem` has checked them
        texts_of: dict[int, Encoded] = {}
        encoded_rows: list[Encoded | None] = apply_isolated(partial(self._engine.tokenize, cut=self._cut), rows)
        for i, encoded in zip(positions, encoded_rows, strict=True):
            if encoded is None:
                errors[i] = "the tokenizer failed on this text; the log says why"
            elif not encoded.ids:  # as in the service: neither the gate nor the model can read it
                errors[i] = "the text has no tokens"
            elif len(encoded.ids) > (limit := self._engine.most_tokens):
                errors[i] = f"the text has {len(encoded.ids)} tokens, the model takes {limit}"
            else:
                texts_of[i] = encoded
        answers = dict(self._infer(texts_of))
        failed = "the model failed on this text; the log says why"
        return [answers.get(i) or Scored(error=errors.get(i, failed)) for i in range(len(values))]

    def _problem(self, row: tuple[object, ...]) -> str | None:
        for part in row:
            if part is None:
                return "the text is null"
            if not isinstance(part, str):
                return f"found {type(part).__name__}, wanted a text"
            if not part.isascii() and (match := SURROGATE.search(part)):
                return f"the text has an unpaired surrogate \\u{ord(match[0]):x}: not valid Unicode"
        problem = row_problem(row, self.task.pair, NO_LIMIT)  # type: ignore[arg-type]
        return problem.message if problem else None

    def _infer(self, tokens: dict[int, Encoded]) -> Iterator[tuple[int, Scored]]:
        """Yield the answers to the texts on which the model does not fail, first those of the gate."""
        texts = list(tokens)
        easy = {texts[k]: row for k, row in gate_answers(self._gate, list(tokens.values())).items()}
        yield from ((i, replace(self._scored(logits), by_gate=True)) for i, logits in easy.items())
        rest = [i for i in texts if i not in easy]
        parts = self._engine.parts([tokens[i] for i in rest])
        windows = [window for part in parts for window in part]
        rows: list[list[float] | None] = [None] * len(windows)
        for batch in sorted_batches({i: len(window.ids) for i, window in enumerate(windows)}):
            answers = infer_isolated(self._engine, [windows[i] for i in batch])
            if self._engine.health.unhealthy:
                raise CheckError("the model fails on every text, also on one that it answered when it was opened")
            for i, logits in zip(batch, answers, strict=True):
                rows[i] = logits
        for i, logits, part in zip(rest, self._engine.joined(parts, rows), parts, strict=True):
            if logits:
                yield i, replace(self._scored(logits), windows=len(part))

    def _scored(self, logits: list[float]) -> Scored:
        scores = ranked(self.task, logits, ANY)
        if self.task.kind == "single":
            return Scored(scores[0]["label"], scores[0]["score"], None, scores)
        assigned = (decisions(self.task, [logits]) or [None])[0]  # None: a regression
        best = next((one for one in scores if one["label"] in (assigned or ())), None)
        if best is None:
            return Scored(None, scores[0]["score"], assigned, scores)
        return Scored(best["label"], best["score"], assigned, scores)


def sorted_batches(lengths: dict[int, int]) -> Iterator[list[int]]:
    """Yield the keys of `lengths` in batches of similar lengths (tokens), the longest first."""
    batch: list[int] = []
    for i in sorted(lengths, key=lengths.__getitem__, reverse=True):
        if batch:
            longest = lengths[batch[0]]
            full = len(batch) == BATCH_TEXTS or longest * (len(batch) + 1) > BATCH_TOKENS
            if full or longest - lengths[i] >= SPREAD:
                yield batch
                batch = []
        batch.append(i)
    if batch:
        yield batch


def answer_columns(rows: Sequence[Scored], task: Task, scores: bool, windows: bool = False) -> dict[str, list[Any]]:
    """Return the answers by column; `labels` is there for a multi-label task, `scores` and `windows` if wanted."""
    columns: dict[str, list[Any]] = {"label": [row.label for row in rows], "score": [row.score for row in rows]}
    if task.kind == "multi":
        columns["labels"] = [row.labels for row in rows]
    if scores:
        columns["scores"] = [row.scores for row in rows]
    if windows:
        columns["windows"] = [row.windows for row in rows]
    return columns | {"error": [row.error for row in rows]}
