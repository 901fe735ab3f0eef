"""page_of() and notebook_of(): a chapter in one language as Markdown for the site, and as a notebook.

Both show what a recorded full run printed and drew (tools/course/record.py): nothing is run here.
"""

import re
from typing import Any

import jupytext
import nbformat

from tools.course.chapter import FOLDER, LANGUAGES, Chapter
from tools.course.record import CellOutput, ChapterRecord, as_html, without_scores
from tools.docs_links import rewritten

NAMES = {"en": "English", "zh": "中文"}
LINK = re.compile(r"\]\((?!https?:|#)([^)\s]+)\)")
CHAPTER_LINK = re.compile(r"\]\((\d\d_\w+)\.py\)")


def page_of(chapter: Chapter, record: ChapterRecord | None, language: str) -> str:
    """Return the page of a chapter in one language as Markdown."""
    parts, outputs = [], iter(record.outputs if record else ())
    for cell in chapter.cells:
        if cell.kind == language:
            prose = record.fill(cell.source) if record else without_scores(cell.source)
            parts.append(_relinked(prose))
        elif cell.kind == "code":
            parts.append(f"```python\n{cell.source}\n```")
            parts += _shown(next(outputs, None))
    heading, _, rest = parts[0].partition("\n")
    return "\n\n".join([heading, _links(chapter, record, language), rest.strip(), *parts[1:]]) + "\n"


def notebook_of(chapter: Chapter, record: ChapterRecord | None, language: str) -> str:
    """Return the notebook of a chapter in one language, with what the recorded run printed and drew."""
    cells, outputs = [], iter(record.outputs if record else ())
    for number, cell in enumerate(chapter.cells):
        if cell.kind == language:
            one = nbformat.v4.new_markdown_cell(record.fill(cell.source) if record else without_scores(cell.source))
        elif cell.kind == "code":
            one = nbformat.v4.new_code_cell(cell.source, outputs=_notebook_outputs(next(outputs, None)))
        else:
            continue
        cells.append({**one, "id": f"cell-{number}"})  # new random ids would change the file
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=[nbformat.from_dict(cell) for cell in cells], metadata=kernel)
    return str(jupytext.writes(notebook, fmt="ipynb"))


def _links(chapter: Chapter, record: ChapterRecord | None, language: str) -> str:
    """Return the line below the heading: the other language, the notebook, the script, and the time of the run."""
    (other,) = (one for one in LANGUAGES if one != language)
    notebook, script = {"en": ("notebook", "script"), "zh": ("笔记本", "源文件")}[language]
    addresses = {
        NAMES[other]: f"../{other}/{chapter.name}.md",
        notebook: f"{chapter.name}.ipynb",
        script: f"../{chapter.name}.py",
    }
    line = " · ".join(f"[{text}]({address})" for text, address in addresses.items())
    if record is None:
        missing = {
            "en": "no full run is recorded yet, so results and the figure are missing",
            "zh": "还没有完整运行的记录，因此缺少结果和图",
        }
        return f"{line} · {missing[language]}"
    time = {"en": "run time {} s on {} threads of {}", "zh": "运行时间 {} 秒（{} 线程，{}）"}[language]
    return f"{line} · {time.format(f'{record.seconds:.0f}', record.threads, record.processor)}"


def _relinked(prose: str) -> str:
    """Return prose whose links, relative to docs/learn, are relative to the folder of a language."""
    text = rewritten(prose, FOLDER / "README.md", FOLDER.parent)
    text = CHAPTER_LINK.sub(r"](\1.md)", text)
    return LINK.sub(lambda match: match[0] if match[1][:2].isdigit() else f"](../{match[1]})", text)


def _shown(output: CellOutput | None) -> list[str]:
    if output is None:
        return []
    text = [f"```text\n{output.text.rstrip()}\n```"] if output.text.strip() else []
    return [*text, *(as_html(one.svg) for one in output.figures)]


def _notebook_outputs(output: CellOutput | None) -> list[Any]:
    if output is None:
        return []
    text = [nbformat.v4.new_output("stream", name="stdout", text=output.text)] if output.text.strip() else []
    shown = [
        nbformat.v4.new_output("display_data", data={"text/html": as_html(one.svg), "text/plain": one.caption})
        for one in output.figures
    ]
    return [*text, *shown]
