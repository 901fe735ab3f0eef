"""Validation of the rows of a request: which can be answered, and the errors of the others.

In a protocol with per-text errors the valid texts are answered. In the other protocols the first error is the error
of the whole request.
"""

from models.task import Task
from models.tokenizer import Encoded, Row, Tokenizer
from service.protocols import BadRequest, Request
from service.protocols.tokens import check_ids
from service.settings import Settings


def check_rows(request: Request, task: Task, limits: Settings) -> tuple[list[int], dict[int, BadRequest]]:
    """Return the positions of the valid rows, and the errors of the others by position.

    Raises:
        BadRequest: there are too many rows, no row is valid, or one is not and the protocol has no per-text errors.
    """
    if len(request.rows) > limits.max_batch:
        raise _too_many(request, task, limits)
    positions: list[int] = []
    problems: dict[int, BadRequest] = {}
    for i, row in enumerate(request.rows):
        problem = row_problem(row, task.pair, limits.max_text_chars)
        if problem is not None and problem.status == 413 and request.truncate:
            request.rows[i] = _cut(row, limits.max_text_chars, request.direction)
            problem = row_problem(request.rows[i], task.pair, limits.max_text_chars)
        if problem is None:
            positions.append(i)
        else:
            problems[i] = problem
    if problems:
        _raise_first(request, problems, not positions)
    return positions, problems


def _too_many(request: Request, task: Task, limits: Settings) -> BadRequest:
    kind = "pairs" if task.pair else "texts"
    message = f"{len(request.rows)} {kind} in one request, at most {limits.max_batch} are accepted"
    return BadRequest(413, f"{message}: PRUNELLA_MAX_BATCH sets the limit")


def _cut(row: Row, chars: int, direction: str) -> Row:
    """Return the texts of a row, cut to so many characters at the end that is truncated."""
    return tuple(part[-chars:] if direction == "left" else part[:chars] for part in row)


def row_problem(row: Row, takes_pairs: bool, max_chars: int) -> BadRequest | None:
    """Return why a row cannot be answered by a model of pairs or of single texts, or None."""
    longest = 0
    for part in row:
        if not part or part.isspace():
            return BadRequest(422, "a text is empty", "Empty")
        longest = max(longest, len(part))
    if longest > max_chars:
        message = f"a text has {longest} characters, at most {max_chars} are accepted where truncation is forbidden"
        return BadRequest(413, message)
    if len(row) == 2 and not takes_pairs:
        return BadRequest(422, "found a pair, this model takes single texts")
    if len(row) != 2 and takes_pairs:
        return BadRequest(422, "found a single text, this model takes pairs")
    return None


def check_encoded(
    request: Request,
    positions: list[int],
    encoded: list[Encoded | None],
    problems: dict[int, BadRequest],
    limit: int,
) -> tuple[list[int], list[Encoded]]:
    """Return the rows that were tokenized and fit the model; add the errors of the others to `problems`.

    Args:
        request: the request.
        positions: of the tokenized rows in the request.
        encoded: their tokens; None where the tokenizer failed.
        problems: errors by position.
        limit: largest number of tokens of a text.

    Raises:
        BadRequest: no row is left, or one has an error and the protocol has no per-text errors.
    """
    valid = []
    for position, tokens in zip(positions, encoded, strict=True):
        if tokens is None:
            problems[position] = _failed("tokenizer")
        elif not tokens.ids:  # without special tokens, a text of characters that the tokenizer drops
            problems[position] = _no_tokens()
        elif len(tokens.ids) > limit:
            message = f"a text has {len(tokens.ids)} tokens, the model takes {limit}; allow truncation"
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
            problems[position] = _failed("model")
    if None in rows:
        _raise_first(request, problems, all(row is None for row in rows))
    return logits


def _no_tokens() -> BadRequest:
    return BadRequest(422, "a text has no tokens", "Empty")


def _failed(component: str) -> BadRequest:
    return BadRequest(500, f"the {component} failed on this text; the log says why", "Backend")


def _raise_first(request: Request, problems: dict[int, BadRequest], none_valid: bool) -> None:
    """Raise the first error when no text is valid or the protocol has no per-text errors."""
    if none_valid or not request.per_item:
        row = min(problems)
        raise problems[row].at(row // request.rows_per_text) if len(request.rows) > 1 else problems[row]


def check_token_ids(
    request: Request, task: Task, table: int, limits: Settings
) -> tuple[list[int], dict[int, BadRequest]]:
    """Return the positions of the rows of token ids that the model can answer, and the errors of the others.

    Args:
        request: has `token_ids`.
        task: of the model.
        table: rows of the model's token table, which every id must be below.
        limits: the largest number of rows.

    Raises:
        BadRequest: there are too many rows, or one is not valid; `check_rows` says when.
    """
    assert request.token_ids is not None, "called only for requests of token ids"
    if len(request.rows) > limits.max_batch:
        raise _too_many(request, task, limits)
    problems: dict[int, BadRequest] = {}
    for i, ids in enumerate(request.token_ids):
        try:
            if task.pair:
                raise BadRequest(422, "found the token ids of a single text, this model takes pairs")
            if not ids:
                raise _no_tokens()
            check_ids(ids, table)
        except BadRequest as problem:
            problems[i] = problem
    positions = [i for i in range(len(request.rows)) if i not in problems]
    if problems:
        _raise_first(request, problems, not positions)
    return positions, problems


def given_tokens(token_ids: list[list[int]], positions: list[int]) -> list[Encoded | None]:
    """Return the client's token ids of the rows at `positions`."""
    return [Encoded(ids := token_ids[i], [0] * len(ids)) for i in positions]


def fit_prompts(
    request: Request, task: Task, encoded: list[Encoded | None], tokenizer: Tokenizer
) -> list[Encoded | None]:
    """Return the tokens of single texts with the limit and without the special tokens that `request.prompt` names.

    Args:
        request: has `prompt` or `token_ids`.
        task: of the model.
        encoded: tokens of each text; None where the tokenizer failed.
        tokenizer: of the model; it added its special tokens to texts, and none to the client's token ids.

    Raises:
        BadRequest: 422, the limit is above the model's, leaves no token of the text, or is for pairs.
    """
    affixes = tokenizer.affixes if request.token_ids is None else (0, 0)
    limit = None if request.prompt is None else request.prompt.limit
    keep_special = request.prompt is None or request.prompt.special_tokens
    if task.pair:
        if limit == task.max_tokens and keep_special:
            return encoded
        message = "a limit below the model's, and texts without special tokens, are supported for single texts only"
        raise BadRequest(422, f"{message}: this model takes pairs, of at most {task.max_tokens} tokens")
    if limit is not None and limit > task.max_tokens:
        raise BadRequest(422, f"a limit of {limit} tokens is above the model's: it takes {task.max_tokens}")
    before, after = affixes
    special = before + after if keep_special else 0
    if limit is None and request.truncate:
        limit = task.max_tokens
    if limit is not None and limit <= special:
        raise BadRequest(422, f"a limit of {limit} tokens leaves none of the text: {special} are special tokens")
    room = None if limit is None else limit - special
    return [row and _shorten(row, room, request.direction, affixes, keep_special) for row in encoded]


def _shorten(row: Encoded, room: int | None, direction: str, affixes: tuple[int, int], keep_special: bool) -> Encoded:
    """Return a text with at most `room` tokens of its own."""
    before, after = affixes
    end = len(row.ids) - after
    own = row.ids[before:end]
    if room is not None:
        own = own[-room:] if direction == "left" else own[:room]
    ids = [*row.ids[:before], *own, *row.ids[end:]] if keep_special else own
    return Encoded(ids, [0] * len(ids))
