"""What a chapter calls to report its results: sized(), scores() and figure(). They work in a notebook, too."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from matplotlib.axes import Axes

from bench.report.plots import draw_svg
from tools.course.record import as_html

SMALL = os.environ.get("LEARN_SIZE") == "small"  # chapters then show that they work, and their scores mean nothing
WORK = Path("out/learn/work")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure that Jupyter can show."""

    caption: str
    svg: str

    def _repr_html_(self) -> str:
        """Return the figure as HTML; Jupyter shows it."""
        return as_html(self.svg)


@dataclass(slots=True)
class Results:
    """What the chapter that runs in this process has reported so far."""

    headline: str
    scores: dict[str, float]
    drawings: list[Drawing]


REPORTED = Results("", {}, [])


def sized(full: Value, small: Value) -> Value:
    """Return the first value, or the second if the environment variable LEARN_SIZE is `small`."""
    return small if SMALL else full


def scores(headline: str, **values: float) -> None:
    """Print the scores of a chapter.

    Args:
        headline: the score for the table of all chapters, a few words.
        **values: each score by its name; the prose quotes it as `{{name}}` or, with a format, `{{name:.1%}}`.
    """
    REPORTED.headline = headline
    REPORTED.scores |= {name: float(value) for name, value in values.items()}
    print(f"score: {headline}")  # noqa: T201
    print(*(f"{name} = {value:.4g}" for name, value in values.items()), sep="\n")  # noqa: T201


def figure(caption: str, draw: Callable[[Axes], None]) -> Drawing:
    """Draw a figure in the style of the reports.

    Args:
        caption: what the figure shows, in one sentence; a screen reader reads it.
        draw: draws into the axes.
    """
    drawing = Drawing(caption, draw_svg(caption, draw))
    REPORTED.drawings.append(drawing)
    return drawing


def fresh_folder(name: str) -> Path:
    """Return an empty folder for the files of a chapter; what an earlier run wrote there is deleted."""
    folder = WORK / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
