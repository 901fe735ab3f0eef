"""The stages of a cascade in the service: which requests the gate may answer, and what it leaves to the student.

The gate answers on the event loop, after the tokenizer and before the queue. It sees one text at a time, and the
student's answer to a text does not depend on its batch, so which texts come together changes no answer.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from models.task import Task
from models.tokenizer import Encoded
from service.cascade.gate import Gate, gate_answers
from service.protocols import Request, Stage

INLINE_TOKENS = 4096  # of a request: up to here the gate runs on the event loop, because a thread switch costs more
Row = list[float]  # logits of one text


@dataclass(frozen=True, slots=True)
class Gated:
    """What the gate answered of the texts of one request: logits of each text, None where the student must answer."""

    rows: list[Row | None]
    seconds: float

    def left(self, encoded: Sequence[Encoded]) -> list[Encoded]:
        """Return the texts, of all that the gate saw, that are left to the student."""
        return [text for text, row in zip(encoded, self.rows, strict=True) if row is None]

    def of_student(self, rows: Sequence[Row | None]) -> list[Row | None]:
        """Return the student's answers to the texts that were left, with None in the places of the others."""
        answers = iter(rows)
        return [next(answers) if row is None else None for row in self.rows]

    def merged(self, rows: Sequence[Row | None]) -> list[Row | None]:
        """Return the answers to all texts; `rows` are the student's to those that were left."""
        answers = iter(rows)
        return [next(answers) if row is None else row for row in self.rows]


def may_answer(request: Request, task: Task) -> bool:
    """Whether the gate can give what a request asks for; else the student answers all its texts.

    The gate gives probabilities by the task's own function, of texts with their special tokens that are cut on the
    right. Its threshold was chosen for these, and its logits are on another scale than the student's.
    """
    return (
        request.cascade
        and not request.raw_scores
        and request.function in (None, task.function)
        and request.direction == "right"
        and request.token_ids is None
        and request.prompt is None
    )


async def ask(gate: Gate, encoded: Sequence[Encoded]) -> Gated:
    """Return what the gate answers of the texts of one request."""
    begun = time.perf_counter()
    if sum(len(text.ids) for text in encoded) <= INLINE_TOKENS:
        rows = _decide(gate, encoded)
    else:
        rows = await asyncio.to_thread(_decide, gate, encoded)
    return Gated(rows, time.perf_counter() - begun)


def _decide(gate: Gate, encoded: Sequence[Encoded]) -> list[Row | None]:
    easy = gate_answers(gate, encoded)
    return [easy.get(i) for i in range(len(encoded))]


def stages(
    count: int, positions: Sequence[int], rows: Sequence[Row | None], gated: Gated | None
) -> list[Stage | None]:
    """Return which stage answered each row of a request, None for rows without an answer.

    Args:
        count: number of rows.
        positions: of the rows that were tokenized.
        rows: their answers; None where the student failed.
        gated: what the gate answered of them; None: it was not asked.
    """
    by_row: list[Stage | None] = [None] * count
    by_gate = [None] * len(rows) if gated is None else gated.rows
    for position, row, gate_row in zip(positions, rows, by_gate, strict=True):
        if row is not None:
            by_row[position] = "student" if gate_row is None else "gate"
    return by_row
