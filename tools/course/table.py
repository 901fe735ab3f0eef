"""renew_table(): the table of all chapters in docs/learn/README.md, from their records."""

from pathlib import Path

from models.store.atomic import write_text
from tools.course.chapter import FOLDER, chapter_files, read_chapter
from tools.course.record import RECORDS, ChapterRecord, recorded

PAGE = FOLDER / "README.md"
BEGIN, END = "<!-- table of chapters: python -m tools.course.run --record -->\n", "<!-- end of the table -->\n"
HEAD = "| chapter | minutes | what you will know | score reached |\n| --- | --- | --- | --- |\n"


def table(files: list[Path], records: Path = RECORDS) -> str:
    """Return the table in Markdown, and where its minutes were measured; a chapter without a record has dashes."""
    rows: list[str] = []
    full_runs: list[ChapterRecord] = []
    for number, file in enumerate(files, start=1):
        chapter = read_chapter(file)
        record = recorded(chapter, records)
        minutes, headline = (f"{record.seconds / 60:.1f}", record.headline) if record else ("-", "-")
        titles = f"{number}. [{chapter.title('en')}]({file.name}) · {chapter.title('zh')}"
        rows.append(f"| {titles} | {minutes} | {chapter.aim('en')} {chapter.aim('zh')} | {headline} |\n")
        if record:
            full_runs.append(record)
    return HEAD + "".join(rows) + _where_measured(full_runs)


def _where_measured(records: list[ChapterRecord]) -> str:
    """Return the sum of the minutes, and the processors and threads, in both languages."""
    if not records:
        return ""
    minutes = sum(record.seconds for record in records) / 60
    places = sorted({(record.processor, record.threads) for record in records})
    measured = ", ".join(f"{processor} (torch threads: {threads})" for processor, threads in places)
    return (
        f"\nChapters with a full run: {len(records)}, {minutes:.1f} minutes together, on {measured}.\n"
        f"\n有完整运行记录的章节：{len(records)} 个，合计 {minutes:.1f} 分钟，测量环境：{measured}。\n"
    )


def with_table(page: str, rows: str) -> str:
    """Return the text of a page with another table between its two marks."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + "\n" + rows + "\n" + END + rest.split(END)[1]


def renew_table() -> None:
    """Write the table into docs/learn/README.md."""
    write_text(PAGE, with_table(PAGE.read_text(encoding="utf-8"), table(chapter_files())))
