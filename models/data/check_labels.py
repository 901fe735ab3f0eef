"""check_labels(): whether a model that is trained on one set can be evaluated on another."""

from collections.abc import Sequence

from models.data.texts import Texts
from models.errors import InputError


def check_labels(train: Texts, held_out: Texts, labels: Sequence[str] | None = None) -> None:
    """Check that a model trained on `train` can be evaluated on `held_out`.

    If `labels` are given, they are those of the task, and `Texts.targets` checks the names.

    Raises:
        InputError: one of the two has no rows or no labels, the kinds or the numbers of texts per row differ, `train`
            has fewer than two labels or numbers (`multi`: no label), or `held_out` has a label that `train` lacks.
    """
    for part in (train, held_out):
        if not len(part):
            raise InputError(f"{part.source} has no rows in one part: wanted rows for training and for evaluation")
        part.require_labels()
    if train.kind != held_out.kind:
        raise InputError(f"{train.source} has {train.kind} labels, {held_out.source} {held_out.kind} labels")
    if train.pair != held_out.pair:
        pairs, single = (train, held_out) if train.pair else (held_out, train)
        raise InputError(f"{pairs.source} has pairs, {single.source} single texts: wanted the same in both")
    if labels is not None:
        return
    _check_distinct(train)
    unknown = set(held_out.label_names()) - set(train.label_names())
    if unknown:
        raise InputError(f"{held_out.source} has labels that {train.source} has not: {', '.join(sorted(unknown))}")


def _check_distinct(train: Texts) -> None:
    labels = set(train.require_labels())
    if train.kind == "multi":
        if not train.label_names():
            raise InputError(f"{train.source} has no row with a label: wanted one label or more")
    elif len(labels) < 2:
        noun = "number" if train.kind == "regression" else "label"
        raise InputError(f"{train.source} has one {noun} only ({labels.pop()}): wanted two or more")
