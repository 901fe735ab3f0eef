"""BundleTexts: the rows that int8 is calibrated on, those that choose its form, and those that are reported."""

from collections.abc import Mapping
from dataclasses import dataclass

from models.data.roles import RowRoles
from models.data.texts import Texts

CALIBRATION_ROWS = 256
JUDGED_ROWS = 512  # on which forms are compared where no rows are given for that: of 128 one flip may cost 0.4 points
FEWEST_JUDGED = 64  # fewer are no comparison: then texts that calibrate are judged on


@dataclass(frozen=True, slots=True)
class BundleTexts:
    """Texts that the scales are taken from, that choose (precisions, a recipe), and that are reported."""

    calibration: Texts
    roles: RowRoles

    @classmethod
    def of(cls, texts: Texts, count: int = CALIBRATION_ROWS) -> "BundleTexts":
        """Take all from one set: the first `count` rows calibrate; of those after them one half chooses.

        With fewer than FEWEST_JUDGED rows after them, rows that calibrate choose and are reported, too.
        """
        calibration, rest = range(len(texts))[:count], range(len(texts))[count : count + 2 * JUDGED_ROWS]
        enough = len(rest) >= FEWEST_JUDGED
        judged = texts.take(rest if enough else calibration[:JUDGED_ROWS])
        return cls(texts.take(calibration), RowRoles.of(judged) if enough else RowRoles(judged, None))

    def named(self) -> Mapping[str, Texts]:
        """Return each part by what it is for."""
        parts = {"calibration": self.calibration, "judged": self.roles.choosing}
        return parts if self.roles.reported is None else parts | {"reported": self.roles.reported}
