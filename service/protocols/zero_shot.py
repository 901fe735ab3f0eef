"""Zero-shot classification by a model of pairs with entailment labels (Yin et al. 2019, arXiv:1909.00161).

Each candidate label becomes a hypothesis, by `hypothesis_template`, and each text a premise. The scores are those of
transformers' ZeroShotClassificationPipeline: one label of several, the softmax of the entailment logits of all
hypotheses; with `multi_label`, or for a single candidate, the softmax of the entailment and the contradiction logit
of each.
"""

import math
from typing import Annotated, Any

from pydantic import Field

from models.schema import Record
from models.task import Task
from models.tokenizer import Row
from service.protocols import BadRequest, Prediction, StopAtFirst, score

DEFAULT_TEMPLATE = "This example is {}."
MAX_TEMPLATE = 1000  # characters
MAX_PAIRS = 10_000  # that are made before PRUNELLA_MAX_BATCH is applied


class ZeroShot(Record):
    """Labels that a text may have."""

    candidate_labels: str | Annotated[list[str], StopAtFirst()] = Field(
        description="labels, or one string with commas between them"
    )
    hypothesis_template: str = Field(
        DEFAULT_TEMPLATE, max_length=MAX_TEMPLATE, description="a sentence with {} for the label"
    )
    multi_label: bool = Field(False, description="whether several labels may be true at once")

    def labels(self) -> list[str]:
        """Return the candidate labels.

        Raises:
            BadRequest: there are none, or one is empty.
        """
        labels = self.candidate_labels
        if isinstance(labels, str):
            labels = [label.strip() for label in labels.split(",") if label.strip()]
        if not labels or not all(label.strip() for label in labels):
            raise BadRequest(422, "candidate_labels: wanted one label or more, none of them empty")
        return labels

    def hypothesis(self, label: str) -> str:
        """Return the sentence that says that a text has the label.

        Raises:
            BadRequest: the template has no {}, or other braces.
        """
        before, braces, after = self.hypothesis_template.partition("{}")
        if not braces or any(brace in before + after for brace in "{}"):
            raise BadRequest(422, "hypothesis_template must have {} once, where the label goes, and no other braces")
        return before + label + after


def rows(texts: list[str], zero_shot: ZeroShot) -> list[Row]:
    """Return the pairs of premise and hypothesis: for each text, one for each label.

    Raises:
        BadRequest: 413, there would be too many; 422, the labels or the template are not valid.
    """
    labels = zero_shot.labels()
    if len(texts) * len(labels) > MAX_PAIRS:
        raise BadRequest(413, f"{len(texts)} texts with {len(labels)} labels are more than {MAX_PAIRS} pairs")
    hypotheses = [zero_shot.hypothesis(label) for label in labels]
    return [(text, hypothesis) for text in texts for hypothesis in hypotheses]


def needs_entailment(task: Task) -> None:
    """Check that a model says of a pair whether the first text entails the second.

    Raises:
        BadRequest: it does not.
    """
    if not task.pair or task.kind != "single" or _entailment(task.labels) is None:
        kind, labels = "pairs" if task.pair else "single texts", ", ".join(task.labels[:5])
        message = f"this one takes {kind} and has the labels {labels}"
        raise BadRequest(422, f"candidate_labels need a model of pairs with a label 'entailment'; {message}")


def classify(
    predictions: list[list[Prediction] | None], model_labels: tuple[str, ...], zero_shot: ZeroShot
) -> list[list[Prediction]]:
    """Return the ranked candidate labels of each text, from the logits of its pairs in `predictions`."""
    labels = zero_shot.labels()
    entailment = _entailment(model_labels)
    assert entailment is not None, "checked by needs_entailment"
    contradiction = len(model_labels) - 1 if entailment == 0 else 0  # as transformers chooses it
    logits = [{p["label"]: p["score"] for p in row or []} for row in predictions]
    pairs = [(row[model_labels[contradiction]], row[model_labels[entailment]]) for row in logits]
    texts = [pairs[start : start + len(labels)] for start in range(0, len(pairs), len(labels))]
    return [_ranked(labels, _scores(text, zero_shot.multi_label)) for text in texts]


def _scores(pairs: list[tuple[float, float]], multi_label: bool) -> list[float]:
    """Return the score of each candidate from its (contradiction, entailment) logits."""
    if multi_label or len(pairs) == 1:
        return [1.0 / (1.0 + math.exp(min(against - for_it, 700.0))) for against, for_it in pairs]
    return score("softmax", [for_it for _, for_it in pairs])


def _ranked(labels: list[str], scores: list[float]) -> list[Prediction]:
    order = sorted(range(len(labels)), key=scores.__getitem__, reverse=True)
    return [{"label": labels[i], "score": scores[i]} for i in order]


def _entailment(labels: tuple[str, ...]) -> int | None:
    """Return the position of the entailment label, which transformers finds by the beginning of its name."""
    return next((i for i, label in enumerate(labels) if label.lower().startswith("entail")), None)


def as_sequence(text: str, row: list[Prediction]) -> dict[str, Any]:
    """Return the answer to one text in the form of Hugging Face's Inference API."""
    return {
        "sequence": text,
        "labels": [prediction["label"] for prediction in row],
        "scores": [prediction["score"] for prediction in row],
    }
