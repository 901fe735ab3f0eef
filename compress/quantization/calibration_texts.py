"""BundleTexts: rows that calibrate int8, rows that choose precisions and recipe, and rows for the report."""

from collections.abc import Mapping
from dataclasses import dataclass

from models.data.roles import RowRoles
from models.data.texts import Texts

CALIBRATION_ROWS = 256
JUDGED_ROWS = 512  # compared if the user gives no rows for that: of 128 rows one flip may cost 0.4 points
FEWEST_JUDGED = 64  # with fewer rows the calibration rows are also used to compare


@dataclass(frozen=True, slots=True)
class BundleTexts:
    """Rows for calibration, and rows that choose (precisions, a recipe) or are reported."""

    calibration: Texts
    roles: RowRoles

    @classmethod
    def of(cls, texts: Texts, count: int = CALIBRATION_ROWS) -> "BundleTexts":
        """Take all rows from one set: the first `count` rows calibrate, and half of the rows after them choose.

        If fewer than FEWEST_JUDGED rows come after them, the calibration rows also choose and are reported.
        """
        calibration, rest = range(len(texts))[:count], range(len(texts))[count : count + 2 * JUDGED_ROWS]
        enough = len(rest) >= FEWEST_JUDGED
        judged = texts.take(rest if enough else calibration[:JUDGED_ROWS])
        return cls(texts.take(calibration), RowRoles.of(judged) if enough else RowRoles(judged, None))

    def named(self) -> Mapping[str, Texts]:
        """Return each set of rows by its purpose."""
        parts = {"calibration": self.calibration, "judged": self.roles.choosing}
        return parts if self.roles.reported is None else parts | {"reported": self.roles.reported}
