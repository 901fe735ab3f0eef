"""The headers of a cascade: `X-Cascade: false` asks for the student, `X-Cascade-Stage` says which stage answered."""

from service.protocols import Answer, BadRequest, Request
from service.web.http import Headers

REQUEST, ANSWER = b"x-cascade", b"x-cascade-stage"
MOST_LETTERS = 1024  # texts that the header names one by one: clients and proxies limit the size of headers
LETTERS = {"gate": "g", "student": "s", None: "-"}


def asks_for_student(header: bytes | None) -> bool:
    """Whether the header REQUEST of a request, None if it has none, excludes the gate.

    Raises:
        BadRequest: 422, the header is neither `true` nor `false`.
    """
    if header is None:
        return False
    value = header.strip().lower()
    if value not in (b"true", b"false"):
        raise BadRequest(422, "X-Cascade must be true or false (false: the student answers, not the gate)")
    return value == b"false"


def stage_of(answer: Answer, request: Request) -> str | None:
    """Return the value of the header that says which stage answered; None where the bundle has no gate.

    It is `gate` or `student` for a request of one text. For a list it has a letter for each text, such as `ggsg`
    (`-` for a text without an answer), and for a list of more than MOST_LETTERS texts the counts: `gate=1100,
    student=100`.
    """
    stages = answer.stages
    if stages is None:
        return None
    if request.single:
        return stages[0] or "-"
    if len(stages) <= MOST_LETTERS:
        return "".join(LETTERS[stage] for stage in stages)
    return f"gate={stages.count('gate')}, student={stages.count('student')}"


def stage_headers(answer: Answer, request: Request) -> Headers:
    """Return the header that says which stage answered, if the bundle has a gate."""
    stage = stage_of(answer, request)
    return [] if stage is None else [(ANSWER, stage.encode())]
