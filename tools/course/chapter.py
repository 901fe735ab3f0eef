"""read_chapter(): the cells of one chapter of the course, a script whose prose is in English and in Chinese.

A chapter is a script in jupytext's percent format. `# %% [markdown] lang="en"` begins a cell of English prose, the
cell after it has the same in Chinese (`lang="zh"`), and `# %%` begins a cell of code, which both languages share.
"""

import hashlib
import io
import re
import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jupytext

from models.errors import InputError

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "learn"
LANGUAGES: tuple[Literal["en", "zh"], ...] = ("en", "zh")
NO_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
# a new line between two Chinese characters would be shown as a space
CHINESE = r"[\u2014\u2018-\u201d\u2026\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]"
CHINESE_BREAK = re.compile(rf"(?<={CHINESE})\n *(?={CHINESE})")


@dataclass(frozen=True, slots=True)
class Cell:
    """Prose in one language, or code."""

    kind: Literal["code", "en", "zh"]
    source: str


@dataclass(frozen=True, slots=True)
class Chapter:
    """One chapter: the name of its file without `.py`, and its cells."""

    name: str
    cells: tuple[Cell, ...]

    def title(self, language: str) -> str:
        """Return the heading of the first cell in a language."""
        return self._first(language).splitlines()[0].removeprefix("# ")

    def aim(self, language: str) -> str:
        """Return the paragraph after the heading: what the reader will know, one sentence without Markdown."""
        return " ".join(self._first(language).split("\n\n")[1].splitlines())

    def code_lines(self) -> int:
        """Return the number of lines with code; comments and empty lines do not count."""
        lines: set[int] = set()
        for index, cell in enumerate(self.cells):
            if cell.kind == "code":
                tokens = tokenize.generate_tokens(io.StringIO(cell.source).readline)
                spans = (range(t.start[0], t.end[0] + 1) for t in tokens if t.type not in NO_CODE)
                lines |= {index * 10_000 + line for span in spans for line in span}
        return len(lines)

    def code_sha256(self) -> str:
        """Return the hash of all code; a record of a run has the one that it ran."""
        code = [cell.source for cell in self.cells if cell.kind == "code"]
        return hashlib.sha256("\n# %%\n".join(code).encode()).hexdigest()

    def _first(self, language: str) -> str:
        return next(cell.source for cell in self.cells if cell.kind == language)


def chapter_files(folder: Path = FOLDER) -> list[Path]:
    """Return the files of all chapters, in their order."""
    return sorted(folder.glob("[0-9][0-9]_*.py"))


def read_chapter(path: Path) -> Chapter:
    """Read a chapter.

    Raises:
        InputError: the file is missing, or prose in one language is not followed by the same in the other.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file: wanted a chapter, such as {FOLDER / '01_tokens.py'}")
    cells = []
    for number, one in enumerate(jupytext.read(path, fmt="py:percent").cells, start=1):
        if one.cell_type == "code":
            cells.append(Cell("code", one.source))
        elif (language := one.metadata.get("lang")) in LANGUAGES:
            source = CHINESE_BREAK.sub("", one.source) if language == "zh" else one.source
            cells.append(Cell(language, source))
        else:
            raise InputError(f'{path}: cell {number} has the language {language!r}: wanted lang="en" or lang="zh"')
    chapter = Chapter(path.stem, tuple(cells))
    if problem := _unpaired(chapter):
        raise InputError(f"{path}: {problem}")
    return chapter


def _unpaired(chapter: Chapter) -> str | None:
    """Return what is wrong with the order of the languages: each English cell comes before its Chinese one."""
    kinds = [cell.kind for cell in chapter.cells]
    if kinds[:2] != ["en", "zh"]:
        return "wanted prose in English, then in Chinese, at the beginning"
    for number, (kind, following) in enumerate(zip(kinds, [*kinds[1:], "code"], strict=True), start=1):
        if (kind == "en") != (following == "zh"):
            return f"cell {number} is {kind}, and the next one {following}: wanted Chinese after each English cell"
    return None
