"""info(): the document of GET /info: the served model, its lineage, its measured loss and speed-up, and the limits.

The first keys are Prunella's own; the others, from `model_id` on, are those of text-embeddings-inference.
"""

from typing import Any

from models.task import EVEN, Task
from service.cascade.drift_detector import disagreement_bound
from service.inference.inference_service import InferenceService
from service.web.pages import version

# `loss_is` names the metric of `loss_points`, which are hundredths of it: one of the first three
MEASURED = (
    "accuracy",
    "subset_accuracy",
    "pearson",
    "loss_is",
    "loss_points",
    "loss_interval",
    "speedup",
    "rows",
    "reference",
)
# of gate.json
CASCADE = {"share", "thresholds", "max_loss", "bound_points", "confidence", "reference", "rows", "disagreements"}


def _thresholds(task: Task) -> dict[str, float] | None:
    """Return the score from which on each label is assigned; None: the task is not a multi-label one."""
    if task.kind != "multi":
        return None
    return dict(zip(task.labels, task.thresholds or (EVEN,) * len(task.labels), strict=True))


def _cascade(inference: InferenceService) -> dict[str, Any] | None:
    """Return whether the gate answers, and what gate.json says about it; None: the bundle has no gate."""
    gate, settings = inference.model_slots.current.gate, inference.settings
    if gate is None:
        return None
    return {
        "on": settings.cascade,
        "check_share": settings.gate_check_share,
        "disagreement_bound": disagreement_bound(gate.info),
        **gate.info.model_dump(include=CASCADE),
    }


def info(inference: InferenceService) -> dict[str, Any]:
    """Return the document of GET /info."""
    engine, settings = inference.model_slots.current, inference.settings
    bundle = engine.bundle
    report = bundle.report() or {}
    labels = bundle.task.labels
    return {
        "id": bundle.id,
        "digest": bundle.folder.manifest.digest(),
        "lineage": [step.model_dump() for step in bundle.folder.manifest.lineage],
        "labels": labels,
        "task": bundle.task.model_dump(exclude={"labels"}),
        "thresholds": _thresholds(bundle.task),
        "architecture": bundle.architecture.summary(),
        "variant": engine.variant_name,
        "bytes": bundle.served_bytes(engine.variant_name),
        "device": engine.choice.model_dump(),
        "cascade": _cascade(inference),
        "measured": {key: report.get(key) for key in MEASURED},
        "batch_changes_answers": engine.choice.got
        != "cpu",  # by 0.003 of a logit: on a GPU the kernel depends on the shape
        "runners": inference.rules.runners,
        "workers": settings.workers,
        "limits": settings.model_dump(
            include={
                "max_body_bytes",
                "max_text_chars",
                "max_batch",
                "max_queue",
                "max_wait_ms",
                "request_timeout_ms",
            }
        ),
        "model_id": inference.name(engine),
        "served_model_name": inference.name(engine),
        "model_sha": bundle.id,
        "model_dtype": engine.variant.precision,
        "model_type": {
            "classifier": {
                "id2label": {str(i): label for i, label in enumerate(labels)},
                "label2id": {label: i for i, label in enumerate(labels)},
            }
        },
        "max_input_length": bundle.task.max_tokens,
        "max_batch_tokens": inference.rules.tokens,
        "max_client_batch_size": settings.max_batch,
        "max_concurrent_requests": settings.max_queue,
        "auto_truncate": True,
        "version": version(),
    }
