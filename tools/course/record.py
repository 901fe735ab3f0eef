"""ChapterRecord: what one run of a chapter printed, drew and reached, and how long it took."""

import re
from pathlib import Path
from typing import Literal

from models.schema import Record
from tools.course.chapter import FOLDER, Chapter

RECORDS = FOLDER / "records"  # of full runs; the pages of the site quote them
PLACEHOLDER = re.compile(r"\{\{(\w+)(?::([^{}]+))?\}\}")


class Figure(Record):
    """A figure as SVG, and its description for a screen reader."""

    caption: str
    svg: str


class CellOutput(Record):
    """What one cell of code printed and drew."""

    text: str
    figures: tuple[Figure, ...]


class ChapterRecord(Record):
    """One run of a chapter; `outputs` has one entry for each cell of code, in their order."""

    chapter: str
    size: Literal["full", "small"]
    code_sha256: str
    seconds: float
    threads: int
    processor: str
    headline: str
    scores: dict[str, float]
    outputs: tuple[CellOutput, ...]

    def fill(self, prose: str) -> str:
        """Return prose in which each `{{name}}` and `{{name:format}}` is the score of this name.

        Raises:
            KeyError: no score has this name.
        """
        values = {**self.scores, "minutes": self.seconds / 60}
        return PLACEHOLDER.sub(lambda match: format(values[match[1]], match[2] or ".4g"), prose)


def without_scores(prose: str) -> str:
    """Return prose with an ellipsis in the place of each score, for a chapter without a record."""
    return PLACEHOLDER.sub("…", prose)


def as_html(svg: str) -> str:
    """Return a figure as HTML in which lines and letters have the colour of the text around: light, dark, printed."""
    style = "--ink: currentColor; --grid: #80808050; max-width: 36em; margin: 1em auto"
    return f'<div style="{style}">\n{svg.strip()}\n</div>'


def recorded(chapter: Chapter, folder: Path = RECORDS) -> ChapterRecord | None:
    """Return the record of a full run of a chapter's present code; None if there is none, or the code has changed."""
    path = folder / f"{chapter.name}.json"
    if not path.is_file():
        return None
    record = ChapterRecord.read(path)
    return record if record.code_sha256 == chapter.code_sha256() else None


def is_stale(chapter: Chapter, folder: Path = RECORDS) -> bool:
    """Return whether a chapter has a record of other code than its present one."""
    return (folder / f"{chapter.name}.json").is_file() and recorded(chapter, folder) is None
