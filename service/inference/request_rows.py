"""Validation of the rows of a request: which can be answered, and the errors of the others.

In a protocol with per-text errors the valid texts are answered. In the other protocols the first error is the error
of the whole request.
"""

from models.task import Task
from models.tokenizer import Encoded, Row
from service.protocols import BadRequest, Request
from service.settings import Settings


def check_rows(request: Request, task: Task, limits: Settings) -> tuple[list[int], dict[int, BadRequest]]:
    """Return the positions of the valid rows, and the errors of the others by position.

    Raises:
        BadRequest: there are too many rows, no row is valid, or one is not and the protocol has no per-text errors.
    """
    if len(request.rows) > limits.max_batch:
        raise BadRequest(413, f"{len(request.rows)} texts in one request, at most {limits.max_batch} are accepted")
    positions: list[int] = []
    problems: dict[int, BadRequest] = {}
    for i, row in enumerate(request.rows):
        problem = _problem(row, task.pair, limits.max_text_chars)
        if problem is None:
            positions.append(i)
        else:
            problems[i] = problem
    if problems:
        _raise_first(request, problems, not positions)
    return positions, problems


def _problem(row: Row, takes_pairs: bool, max_chars: int) -> BadRequest | None:
    """Return the error of a row, or None."""
    longest = 0
    for part in row:
        if not part or part.isspace():
            return BadRequest(422, "a text is empty", "Empty")
        longest = max(longest, len(part))
    if longest > max_chars:
        return BadRequest(413, f"a text has {longest} characters, at most {max_chars} are accepted")
    if len(row) == 2 and not takes_pairs:
        return BadRequest(422, "found a pair, this model takes single texts")
    if len(row) != 2 and takes_pairs:
        return BadRequest(422, "found a single text, this model takes pairs")
    return None


def check_encoded(
    task: Task,
    request: Request,
    positions: list[int],
    encoded: list[Encoded | None],
    problems: dict[int, BadRequest],
) -> tuple[list[int], list[Encoded]]:
    """Return the rows that were tokenized and fit the model; add the errors of the others to `problems`.

    Args:
        task: of the model; has the largest number of tokens.
        request: the request.
        positions: of the tokenized rows in the request.
        encoded: their tokens; None where the tokenizer failed.
        problems: errors by position.

    Raises:
        BadRequest: no row is left, or one has an error and the protocol has no per-text errors.
    """
    valid = []
    for position, tokens in zip(positions, encoded, strict=True):
        if tokens is None:
            problems[position] = _failed("tokenizer", position, request)
        elif len(tokens.ids) > task.max_tokens:
            message = f"a text has {len(tokens.ids)} tokens, the model takes {task.max_tokens}; allow truncation"
            problems[position] = BadRequest(422, message)
        else:
            valid.append((position, tokens))
    if len(valid) < len(positions):
        _raise_first(request, problems, not valid)
    return [position for position, _ in valid], [tokens for _, tokens in valid]


def collect_logits(
    request: Request, positions: list[int], rows: list[list[float] | None], problems: dict[int, BadRequest]
) -> list[list[float] | None]:
    """Return the logits of each row of the request; add the errors of rows on which the model failed to `problems`.

    Raises:
        BadRequest: the model failed on all rows, or on one and the protocol has no per-text errors.
    """
    logits: list[list[float] | None] = [None] * len(request.rows)
    for position, row in zip(positions, rows, strict=True):
        logits[position] = row
        if row is None:
            problems[position] = _failed("model", position, request)
    if None in rows:
        _raise_first(request, problems, all(row is None for row in rows))
    return logits


def _failed(component: str, position: int, request: Request) -> BadRequest:
    text = "this text" if len(request.rows) == 1 else f"the text at index {position}"
    return BadRequest(500, f"the {component} failed on {text}; the log says why", "Backend")


def _raise_first(request: Request, problems: dict[int, BadRequest], none_valid: bool) -> None:
    """Raise the first error when no text is valid or the protocol has no per-text errors."""
    if none_valid or not request.per_item:
        raise problems[min(problems)]
