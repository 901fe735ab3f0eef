"""RowRoles: which labelled rows choose (thresholds, precisions, points), and which are reported.

What was chosen because it was best on some rows looks better on them than it is. So no number that is reported comes
from rows that chose, where there are enough rows; where there are not, the report says so.
"""

from dataclasses import dataclass
from typing import Any

from models.console import say
from models.data.split import halve_rows
from models.data.texts import Texts

FEWEST_ROWS = 100  # fewer are not split: of 50 rows one is two points, and half of that says nothing at all
SAME_SHARE = 0.5  # of the reported rows, that chose as well: more, and they are no other rows


@dataclass(frozen=True, slots=True)
class RowRoles:
    """Rows that choose, and rows that are reported; `reported` None: the same ones, for there are too few."""

    choosing: Texts
    reported: Texts | None

    @classmethod
    def of(cls, texts: Texts, seed: int = 0) -> "RowRoles":
        """Split one set into two halves that look alike (`halve_rows`), unless it has less than FEWEST_ROWS rows."""
        if len(texts) < FEWEST_ROWS:
            return cls(texts, None)
        first, second = halve_rows(texts.labels, texts.kind, len(texts), seed)
        return cls(texts.take(first), texts.take(second))

    @property
    def judged(self) -> Texts:
        """The rows that are reported, whether they chose or not."""
        return self.choosing if self.reported is None else self.reported

    @property
    def everything(self) -> Texts:
        """All labelled rows: those that choose, then those that are reported."""
        if self.reported is None:
            return self.choosing
        first, second = self.choosing, self.reported
        labels = [*first.require_labels(), *second.require_labels()]
        source = first.source if first.source == second.source else f"{first.source} and {second.source}"
        return Texts([*first.rows, *second.rows], labels, source, first.kind)

    @property
    def same_rows(self) -> bool:
        """Whether the reported rows are, by more than SAME_SHARE, rows that chose."""
        return self.reported is None or shared_rows(self.reported, self.choosing) > SAME_SHARE * len(self.reported)

    def summary(self) -> dict[str, Any]:
        """Return the keys that a verb prints: how many rows chose, and whether they are those that are reported."""
        return {"choosing_rows": len(self.choosing), "chosen_on_reported_rows": self.same_rows}

    def announce(self, what: str) -> None:
        """Say on stderr which rows choose `what`, and which are reported."""
        if not self.same_rows:
            assert self.reported is not None
            say(
                f"{len(self.choosing)} rows of {self.choosing.source} choose {what}; what is reported is measured on "
                f"{len(self.reported)} other rows ({self.reported.source})"
            )
        elif self.reported is None:
            say(
                f"WARNING: the {len(self.choosing)} rows of {self.choosing.source} choose {what} and are reported, "
                f"too: what is reported is better than it would be on new rows. Give {FEWEST_ROWS} rows or more, "
                "which are then split, or give --test FILE"
            )
        else:
            say(
                f"WARNING: {shared_rows(self.reported, self.choosing)} of {len(self.reported)} rows of "
                f"{self.reported.source} choose {what}, too: what is reported is better than it would be on new rows"
            )


def shared_rows(texts: Texts, others: Texts) -> int:
    """Return how many rows of `texts` are among `others`, whatever their labels."""
    known = set(others.rows)
    return sum(row in known for row in texts.rows)
