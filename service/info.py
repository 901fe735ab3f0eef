"""info(): what is served, how it was made, what that cost, and the limits.

The first keys are Prunella's, the others those of text-embeddings-inference.
"""

from typing import Any

from models.task import EVEN, Task
from service.desk import Desk
from service.pages import version

# `loss_is` says what the points are hundredths of: one of the first three
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


def _thresholds(task: Task) -> dict[str, float] | None:
    """Return the score from which each label is given; None: the task is no multi-label one."""
    if task.kind != "multi":
        return None
    return dict(zip(task.labels, task.thresholds or (EVEN,) * len(task.labels), strict=True))


def info(desk: Desk) -> dict[str, Any]:
    """Return the document of GET /info."""
    engine, settings = desk.rotation.current, desk.settings
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
        "device": engine.choice.model_dump(),
        "measured": {key: report.get(key) for key in MEASURED},
        "batch_changes_answers": engine.choice.got != "cpu",  # by 0.003 of a logit: GPUs choose kernels by shape
        "runners": desk.rules.runners,
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
        "model_id": bundle.info.name,
        "model_sha": bundle.id,
        "model_dtype": engine.variant.precision,
        "model_type": {
            "classifier": {
                "id2label": {str(i): label for i, label in enumerate(labels)},
                "label2id": {label: i for i, label in enumerate(labels)},
            }
        },
        "max_input_length": bundle.task.max_tokens,
        "max_batch_tokens": desk.rules.tokens,
        "max_client_batch_size": settings.max_batch,
        "max_concurrent_requests": settings.max_queue,
        "auto_truncate": True,
        "version": version(),
    }
