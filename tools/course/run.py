"""`python -m tools.course.run`: run the chapters of the course, print their times and scores (`make learn`).

Each chapter runs in a process of its own, and its record goes to out/learn. With the environment variable
LEARN_SIZE=small each takes a few seconds and shows only that it works. `--record` keeps the records of a full run in
docs/learn/records, where the pages of the site take their numbers and figures from, and renews the table of all
chapters in docs/learn/README.md.
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from models.errors import CheckError, InputError, PrunellaError
from models.messages import configure
from models.processor import cpu_name
from models.store.atomic import copy_file
from tools.course import output
from tools.course.chapter import chapter_files, read_chapter
from tools.course.record import RECORDS, CellOutput, ChapterRecord, Figure
from tools.course.table import renew_table

OUT = Path("out/learn")
LIMIT = 15.0  # minutes for all chapters, on two cores


def run_chapter(path: Path) -> ChapterRecord:
    """Run the code of a chapter in this process, cell by cell, and return its record.

    Raises:
        CheckError: the chapter reports no score, or draws no figure.
    """
    import torch

    chapter = read_chapter(path)
    script = path.read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "__chapter__", "__file__": str(path)}
    begun, outputs = time.perf_counter(), []
    for cell in chapter.cells:
        if cell.kind == "code":
            before = script[: script.index(cell.source)].count("\n")
            code = compile("\n" * before + cell.source, str(path), "exec")  # an error names the line of the script
            drawn = len(output.REPORTED.drawings)
            with contextlib.redirect_stdout(_Copy(sys.stderr)) as printed:
                exec(code, names)
            figures = (Figure(caption=one.caption, svg=one.svg) for one in output.REPORTED.drawings[drawn:])
            outputs.append(CellOutput(text=printed.getvalue(), figures=tuple(figures)))
    if not output.REPORTED.headline or not output.REPORTED.drawings:
        raise CheckError(f"{path} ended without a score or a figure: wanted a call of scores(), and one of figure()")
    return ChapterRecord(
        chapter=chapter.name,
        size="small" if output.SMALL else "full",
        code_sha256=chapter.code_sha256(),
        seconds=round(time.perf_counter() - begun, 1),
        threads=torch.get_num_threads(),
        processor=cpu_name(),
        headline=output.REPORTED.headline,
        scores=output.REPORTED.scores,
        outputs=tuple(outputs),
    )


class _Copy(io.StringIO):
    """Keeps what is printed, and shows it meanwhile."""

    def __init__(self, shown: Any) -> None:
        super().__init__()
        self._shown = shown

    def write(self, text: str) -> int:
        self._shown.write(text)
        return super().write(text)


def run_all(paths: list[Path]) -> list[ChapterRecord]:
    """Run chapters one after the other, each in a process of its own.

    Raises:
        CheckError: a chapter failed.
    """
    OUT.mkdir(parents=True, exist_ok=True)
    records = []
    for path in paths:
        sys.stderr.write(f"\n== {path.stem}\n")
        target = OUT / f"{path.stem}.json"
        done = subprocess.run([sys.executable, "-m", "tools.course.run", "--one", str(path), str(target)])
        if done.returncode:
            raise CheckError(f"{path} failed with exit code {done.returncode}: its last lines above say why")
        records.append(ChapterRecord.read(target))
    return records


def main() -> None:
    """Run the chapters that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m tools.course.run", description="Run the chapters of the course.")
    parser.add_argument("chapter", nargs="*", help="beginning of a chapter's name, such as 02; without one: all")
    parser.add_argument("--record", action="store_true", help="keep the records in docs/learn/records")
    parser.add_argument("--one", nargs=2, type=Path, metavar=("CHAPTER", "RECORD"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        configure(quiet=True)
        run_chapter(arguments.one[0]).write(arguments.one[1])
        return
    if arguments.record and output.SMALL:
        raise InputError("--record keeps full runs only: leave LEARN_SIZE=small out")
    wanted = tuple(arguments.chapter) or ("",)
    paths = [path for path in chapter_files() if path.name.startswith(wanted)]
    if not paths:
        raise InputError(
            f"no chapter begins with {', '.join(wanted)}: wanted {_names(map(read_chapter, chapter_files()))}"
        )
    records = run_all(paths)
    for record in records:
        sys.stderr.write(f"{record.chapter:24} {record.seconds:6.1f} s   {record.headline}\n")
    if arguments.record:
        RECORDS.mkdir(exist_ok=True)
        for record in records:
            copy_file(OUT / f"{record.chapter}.json", RECORDS / f"{record.chapter}.json")
        renew_table()
    minutes = sum(record.seconds for record in records) / 60
    if minutes > LIMIT:
        raise CheckError(f"the chapters took {minutes:.1f} minutes: wanted {LIMIT:g} or less on two cores")
    times = {record.chapter: record.seconds for record in records}
    sys.stdout.write(json.dumps(times | {"minutes": round(minutes, 1)}) + "\n")


def _names(chapters: Any) -> str:
    return ", ".join(chapter.name for chapter in chapters)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        main()
    except PrunellaError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
