"""Classifier: classify texts with a bundle in this process, with the session and the batching of the service.

It needs the base install only: no torch, no transformers, no server.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args, overload

import numpy as np
from numpy.typing import NDArray

from models.errors import InputError
from models.schema import wrong_values
from models.task import Combine
from models.tokenizer import Encoded, Row
from service.cascade.gate import Gate, gate_answers
from service.inference.request_rows import check_encoded, check_rows, collect_logits
from service.inference.scheduler import plan_batches
from service.model.bundle import Bundle
from service.model.engine import Engine
from service.model.isolation import apply_isolated, infer_isolated
from service.process.publish import resolve
from service.protocols import BadRequest, Request, decisions, ranked
from service.settings import Settings

Text = str | tuple[str, str]  # a pair is a tuple of two texts
Stage = Literal["gate", "student"]
Truncate = Literal["right", "left", "never"]
ROWS_AT_ONCE = 1024  # processed at a time, so that memory does not grow with the number of texts
NO_LIMIT = 10**9  # the service limits requests of clients; a caller in the same process is trusted


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer to one text."""

    label: str | None  # the best label; None: a multi-label model assigns none, or the model is a regression
    score: float  # of `label`, else the highest score; for a regression, the number itself
    labels: tuple[str, ...]  # the assigned labels: one, or any number for a multi-label model
    scores: dict[str, float]  # of all labels, in descending order
    logits: tuple[float, ...]  # in the order of the model's labels; those of a gate are on another scale
    stage: Stage = "student"  # what answered: the bundle's model, or the gate before it
    windows: int = 1  # overlapping windows of the text whose scores were combined


class Classifier:
    """Classifies texts with a bundle. Thread-safe."""

    def __init__(  # noqa: PLR0913 (all but the bundle have defaults)
        self,
        bundle: str | Path,
        device: str = "auto",
        threads: int = 1,
        truncate: Truncate = "right",
        cascade: bool = True,
        windows: int | None = None,
        windows_combine: Combine | None = None,
    ) -> None:
        """Open a bundle and check its answers to the texts that are stored in it.

        Args:
            bundle: a bundle folder, or a tag of BentoML's model store such as `prunella:latest`.
            device: `auto`, `cpu`, `cuda[:i]` or `tensorrt`, as in `prunella serve`. If it cannot be used, the CPU is
                used with a warning in the log; the attribute `device` is the device in use.
            threads: threads inside one operator. Call from several threads to answer several texts at once.
            truncate: the end at which a text that is too long is truncated; `never`: such a text is an error.
            cascade: whether the gate of a bundle that has one answers easy texts. With `truncate="left"` it never
                does, because its threshold was found for texts that are cut on the right.
            windows: most overlapping windows of a text that is too long for the model; 1: it is truncated; None: as
                the bundle says.
            windows_combine: `mean` or `max` of the scores of a text's windows; None: as the bundle says, else mean.

        Raises:
            FolderError: there is no such bundle, or it is incomplete.
            DisagreementError: the answers on this processor differ from the stored ones.
            InputError: an argument has an impossible value; or `windows` are asked for, and the model takes pairs.
        """
        if truncate not in get_args(Truncate):
            raise InputError(f"truncate is {truncate!r}: choose from {', '.join(get_args(Truncate))}")
        self._opened_with = (str(bundle), device, threads, truncate, cascade, windows, windows_combine)
        limits = {"max_batch": NO_LIMIT, "max_text_chars": NO_LIMIT}
        with wrong_values():
            self._settings = Settings(
                bundle=str(bundle), device=device, threads=threads, windows=windows, windows_combine=windows_combine,
                **limits,
            )  # fmt: skip
        self._engine = Engine.open(Bundle.open(resolve(str(bundle))), self._settings.runtime())
        self._engine.self_check()
        self._rules = self._settings.rules(self._engine.choice.got)
        self._truncate = truncate
        self._gate = self._engine.gate if cascade and truncate != "left" else None
        self.labels: tuple[str, ...] = self._engine.bundle.task.labels
        self.device: str = self._engine.choice.got

    @overload
    def __call__(self, texts: Text) -> Prediction: ...  # type: ignore[overload-overlap]  # a text is a sequence of texts

    @overload
    def __call__(self, texts: Iterable[Text]) -> list[Prediction]: ...

    def __call__(self, texts: Text | Iterable[Text]) -> Prediction | list[Prediction]:
        """Classify one text, one pair (a tuple of two texts), or a list or other iterable of either, in its order.

        Raises:
            InputError: a text is invalid, for example empty, or single although the model takes pairs. The message
                names its position.
        """
        single = isinstance(texts, str | tuple)
        rows = _rows([texts] if single else texts)  # type: ignore[list-item]
        predictions = [self._predict(*row) for row in self._logits(rows, self._gate)]
        return predictions[0] if single else predictions

    def logits(self, texts: Iterable[Text]) -> NDArray[np.float32]:
        """Return the logits (texts, labels) of a list of texts or pairs, by the bundle's model, never by its gate.

        Raises:
            InputError: a text is invalid.
        """
        rows = [row for row, _, _ in self._logits(_rows(texts), None)]
        return np.array(rows, dtype=np.float32).reshape(len(rows), max(len(self.labels), 1))

    def __reduce__(self) -> tuple[type["Classifier"], tuple[object, ...]]:
        return Classifier, self._opened_with  # another process opens the bundle itself

    def _predict(self, logits: list[float], stage: Stage, windows: int) -> Prediction:
        task, request = self._engine.bundle.task, Request([], single=True)
        scores = {entry["label"]: entry["score"] for entry in ranked(task, logits, request)}
        assigned = decisions(task, [logits])  # of a multi-label model, else None
        best = next(iter(scores))
        labels = tuple((assigned[0] or ()) if assigned else () if task.kind == "regression" else (best,))
        label = next((name for name in scores if name in labels), None)
        return Prediction(label, scores[label or best], labels, scores, tuple(logits), stage, windows)

    def _logits(self, rows: list[Row], gate: Gate | None) -> Iterator[tuple[list[float], Stage, int]]:
        """Yield the logits of each row, what computed them, and the number of its windows."""
        for start in range(0, len(rows), ROWS_AT_ONCE):
            chunk = rows[start : start + ROWS_AT_ONCE]
            request = Request(chunk, single=False, truncate=self._truncate != "never", per_item=True)
            problems: dict[int, BadRequest] = {}
            try:
                answers, easy, windows = self._answer(request, problems, gate)
            except BadRequest as error:  # all texts of the chunk are invalid
                raise InputError(f"text {start}: {error.message}") from None
            if problems:
                raise InputError(f"text {start + min(problems)}: {problems[min(problems)].message}")
            stages: list[Stage] = ["gate" if i in easy else "student" for i in range(len(answers))]
            answered = zip(answers, stages, windows, strict=True)
            yield from ((row, stage, count) for row, stage, count in answered if row is not None)

    def _answer(
        self, request: Request, problems: dict[int, BadRequest], gate: Gate | None
    ) -> tuple[list[list[float] | None], set[int], list[int]]:
        """Return the logits of each row, the positions of the rows that the gate answered, and numbers of windows.

        The numbers are those of the rows without a problem.
        """
        task = self._engine.bundle.task
        positions, invalid = check_rows(request, task, self._settings)
        problems |= invalid
        rows = [request.rows[i] for i in positions]
        encoded = apply_isolated(partial(self._engine.tokenize, cut=self._engine.cut_of(self._truncate)), rows)
        positions, tokens = check_encoded(request, positions, encoded, problems, self._engine.most_tokens)
        easy = gate_answers(gate, tokens)
        rest = [i for i in range(len(tokens)) if i not in easy]
        parts = self._engine.parts([tokens[i] for i in rest])
        answers = self._engine.joined(parts, self._infer([window for part in parts for window in part]))
        hard, windows = dict(zip(rest, answers, strict=True)), dict(zip(rest, map(len, parts), strict=True))
        logits = [easy[i] if i in easy else hard[i] for i in range(len(tokens))]
        counts = [windows.get(i, 1) for i in range(len(tokens))]
        return collect_logits(request, positions, logits, problems), {positions[i] for i in easy}, counts

    def _infer(self, tokens: list[Encoded]) -> list[list[float] | None]:
        """Return the logits of each text, computed in the batches that the service would form."""
        answers: list[list[float] | None] = [None] * len(tokens)
        for batch in plan_batches(self._engine, [len(one.ids) for one in tokens], self._rules):
            for i, row in zip(batch, infer_isolated(self._engine, [tokens[i] for i in batch]), strict=True):
                answers[i] = row
        return answers


def _rows(texts: Iterable[Text]) -> list[Row]:
    """Return rows of one or two texts.

    Raises:
        InputError: there is no list, or an item is neither a text nor a pair.
    """
    is_table = isinstance(texts, Mapping) or hasattr(texts, "columns")  # iterating over one gives its columns' names
    if is_table or isinstance(texts, str | bytes | bytearray) or not isinstance(texts, Iterable):
        remedy = ": choose the column of the texts, such as table['text']" if is_table else ""
        raise InputError(f"found {type(texts).__name__}, wanted a text, or a list of texts{remedy}")
    rows: list[Row] = []
    for position, item in enumerate(texts):
        if isinstance(item, str):
            rows.append((item,))
        elif isinstance(item, tuple) and len(item) == 2 and all(isinstance(part, str) for part in item):
            rows.append((item[0], item[1]))
        else:
            raise InputError(f"item {position} is {item!r}: wanted a text, or a tuple of two texts")
    return rows
