"""answer_in_background(): let a model answer a text for which no client waits."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from models.tokenizer import Encoded
from service.inference.runners import Outcome, Runners
from service.inference.scheduler import Job
from service.model.engine import Engine
from service.protocols import BadRequest

Receive = Callable[[list[float] | None], None]  # takes the logits of a text; None: the model failed on it


@dataclass(slots=True)
class _BackgroundAnswer:
    """Receives the answer to one text; a job has it in the place of a PendingRequest."""

    receive: Receive

    def fail(self, problem: BadRequest) -> None:
        """Ignore the text: no client waits for its answer."""

    def take(self, job: Job, outcome: Outcome, row: list[float] | None) -> None:  # noqa: ARG002
        """Pass the logits on."""
        self.receive(row)


def answer_in_background(runners: Runners, engine: Engine, text: Encoded, most: int, receive: Receive) -> bool:
    """Let a runner that has no other work run `engine` on a text.

    Args:
        runners: they run it.
        engine: the model.
        text: the tokens.
        most: number of texts that may wait in the background.
        receive: called with the logits.

    Returns:
        Whether the text is queued: False if `most` texts wait already.
    """
    tokens, pending = len(text.ids), _BackgroundAnswer(receive)
    job = Job(engine, text, tokens, engine.latency.expect(tokens), 0.0, math.inf, _never, pending)
    return runners.put_in_background(job, most)


def _never() -> bool:
    return False
