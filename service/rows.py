"""Rows: which texts of a request can be answered, and what is said of the others.

A dialect with errors of single texts answers the rest; in the others the first problem is the whole request's.
"""

from models.task import Task
from models.tokens import Encoded, Row
from service.dialects import BadRequest, Request
from service.settings import Settings


def check_rows(request: Request, task: Task, limits: Settings) -> tuple[list[int], dict[int, BadRequest]]:
    """Return the positions of the rows that can be answered, and what is wrong with the others.

    Raises:
        BadRequest: there are too many rows, or none that can be answered.
    """
    if len(request.rows) > limits.max_batch:
        raise BadRequest(413, f"{len(request.rows)} texts in one request, at most {limits.max_batch} are taken")
    places: list[int] = []
    problems: dict[int, BadRequest] = {}
    for i, row in enumerate(request.rows):
        problem = _problem(row, task.pair, limits.max_text_chars)
        if problem is None:
            places.append(i)
        else:
            problems[i] = problem
    if problems:
        _raise_first(request, problems, not places)
    return places, problems


def _problem(row: Row, takes_pairs: bool, max_chars: int) -> BadRequest | None:
    """Return what is wrong with a row, or None."""
    longest = 0
    for part in row:
        if not part or part.isspace():
            return BadRequest(422, "a text is empty", "Empty")
        longest = max(longest, len(part))
    if longest > max_chars:
        return BadRequest(413, f"a text has {longest} characters, at most {max_chars} are taken")
    if (len(row) == 2) != takes_pairs:
        found, wanted = ("a pair", "single texts") if len(row) == 2 else ("a single text", "pairs")
        return BadRequest(422, f"found {found}, this model takes {wanted}")
    return None


def answerable(
    task: Task,
    request: Request,
    places: list[int],
    encoded: list[Encoded | None],
    problems: dict[int, BadRequest],
) -> tuple[list[int], list[Encoded]]:
    """Return the rows that were tokenized and fit the model; the others become problems, or the request's error."""
    most = task.max_tokens
    kept = []
    for place, one in zip(places, encoded, strict=True):
        if one is None:
            problems[place] = _failed("tokenizer", place, request)
        elif len(one.ids) > most:
            told = f"a text has {len(one.ids)} tokens, the model takes {most}; allow truncation"
            problems[place] = BadRequest(422, told)
        else:
            kept.append((place, one))
    if len(kept) < len(places):
        _raise_first(request, problems, not kept)
    return [place for place, _ in kept], [one for _, one in kept]


def answered(
    request: Request, places: list[int], rows: list[list[float] | None], problems: dict[int, BadRequest]
) -> list[list[float] | None]:
    """Return the logits of each row of the request; rows on which the model failed become problems, or its error."""
    found: list[list[float] | None] = [None] * len(request.rows)
    for place, row in zip(places, rows, strict=True):
        found[place] = row
        if row is None:
            problems[place] = _failed("model", place, request)
    if None in rows:
        _raise_first(request, problems, all(row is None for row in rows))
    return found


def _failed(what: str, place: int, request: Request) -> BadRequest:
    which = "this text" if len(request.rows) == 1 else f"the text at index {place}"
    return BadRequest(500, f"the {what} failed on {which}; the log says why", "Backend")


def _raise_first(request: Request, problems: dict[int, BadRequest], nothing_left: bool) -> None:
    """Raise the first problem where it is the whole request's: of every text, or the dialect has none of one text."""
    if nothing_left or not request.per_item:
        raise problems[min(problems)]
