"""RowRoles: which labelled rows are used for choices (thresholds, precisions, candidates), and which for reports.

A choice that was the best one on some rows looks better on these rows than on new ones (selection bias). So the
reported numbers are measured on other rows than those that were used for choices, if there are enough rows. If there
are not, the report says so.
"""

from dataclasses import dataclass
from typing import Any

from models.data.split import halve_rows
from models.data.texts import Texts
from models.messages import say

FEWEST_ROWS = 100  # fewer rows are not split: one row in a half of 50 is already 2 percentage points
SAME_SHARE = 0.5  # both sets count as the same if more than this share of the reported rows is also in the other set


@dataclass(frozen=True, slots=True)
class RowRoles:
    """Rows for choices and rows for reports; if `reported` is None there are too few, and both are the same rows."""

    choosing: Texts
    reported: Texts | None

    @classmethod
    def of(cls, texts: Texts, seed: int = 0) -> "RowRoles":
        """Split a set into two stratified halves (`halve_rows`), unless it has fewer than FEWEST_ROWS rows."""
        if len(texts) < FEWEST_ROWS:
            return cls(texts, None)
        first, second = halve_rows(texts.labels, texts.kind, len(texts), seed)
        return cls(texts.take(first), texts.take(second))

    @property
    def judged(self) -> Texts:
        """The rows for reports, even if they are also the rows for choices."""
        return self.choosing if self.reported is None else self.reported

    @property
    def everything(self) -> Texts:
        """All labelled rows: those for choices, then those for reports."""
        if self.reported is None:
            return self.choosing
        first, second = self.choosing, self.reported
        labels = [*first.require_labels(), *second.require_labels()]
        source = first.source if first.source == second.source else f"{first.source} and {second.source}"
        return Texts([*first.rows, *second.rows], labels, source, first.kind)

    @property
    def same_rows(self) -> bool:
        """Whether more than SAME_SHARE of the reported rows were also used for choices."""
        return self.reported is None or shared_rows(self.reported, self.choosing) > SAME_SHARE * len(self.reported)

    def summary(self) -> dict[str, Any]:
        """Return keys for a verb's JSON: the number of rows for choices, and whether the same rows are reported."""
        return {"choosing_rows": len(self.choosing), "chosen_on_reported_rows": self.same_rows}

    def announce(self, what: str) -> None:
        """Print on stderr which rows are used to choose `what`, and which are used for the report."""
        if not self.same_rows:
            assert self.reported is not None
            say(
                f"{len(self.choosing)} rows of {self.choosing.source} are used to choose {what}; "
                f"results are reported on {len(self.reported)} other rows ({self.reported.source})"
            )
        elif self.reported is None:
            say(
                f"WARNING: the same {len(self.choosing)} rows of {self.choosing.source} are used to choose {what} "
                "and to report results: the results are better than they would be on new rows. "
                f"Give {FEWEST_ROWS} rows or more, which are then split, or give --test FILE"
            )
        else:
            say(
                f"WARNING: {shared_rows(self.reported, self.choosing)} of {len(self.reported)} rows of "
                f"{self.reported.source} are also used to choose {what}: the results are better than they would be "
                "on new rows"
            )


def shared_rows(texts: Texts, others: Texts) -> int:
    """Return how many rows of `texts` are also in `others`; labels are not compared."""
    other_rows = set(others.rows)
    return sum(row in other_rows for row in texts.rows)
