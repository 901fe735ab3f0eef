"""Hook of mkdocs: a page and a notebook of each chapter in each language, and formulas as MathML.

A chapter without a record of its present code is a warning, so an error of `make docs`. Browsers show MathML without
a script.
"""

import html
import logging
import re
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File

from models.errors import InputError
from tools.course.chapter import LANGUAGES, chapter_files, read_chapter
from tools.course.pages import CHAPTER_LINK, NAMES, notebook_of, page_of
from tools.course.record import is_stale, recorded

log = logging.getLogger("mkdocs.hooks.course")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_config(config: Any) -> Any:
    """Add the pages of the chapters to the part of the menu that begins with learn/README.md."""
    (part,) = (part for entry in config["nav"] for part in entry.values() if part[0] == "learn/README.md")
    for language in LANGUAGES:
        part.append({NAMES[language]: [f"learn/{language}/{file.stem}.md" for file in chapter_files()]})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the page and the notebook of each chapter in each language."""
    for path in chapter_files():
        chapter = read_chapter(path)
        record = recorded(chapter)
        if is_stale(chapter):
            log.warning("%s has a record of other code: run `make learn ARGS=--record`", path)
        for language in LANGUAGES:
            page, notebook = f"learn/{language}/{path.stem}.md", f"learn/{language}/{path.stem}.ipynb"
            files.append(File.generated(config, page, content=page_of(chapter, record, language)))
            files.append(File.generated(config, notebook, content=notebook_of(chapter, record, language)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Let the table of chapters lead to the pages, not to the scripts."""
    if page.file.src_uri == "learn/README.md":
        return CHAPTER_LINK.sub(r"](en/\1.md)", markdown)
    return markdown


def on_page_content(content: str, **_: object) -> str:
    """Replace each formula by MathML."""
    return FORMULA.sub(lambda match: mathml(html.unescape(match[2]), block=match[1] == "div"), content)


def on_post_page(output: str, page: Any, **_: object) -> str:
    """Name the language of a Chinese page, so that the browser chooses Chinese letters and a Chinese voice."""
    if page.file.src_uri.startswith("learn/zh/"):
        return output.replace('<html lang="en"', '<html lang="zh-CN"', 1)
    return output


def mathml(formula: str, block: bool) -> str:
    """Return a formula of LaTeX as MathML.

    Raises:
        InputError: it has a command that the converter does not know.
    """
    converted = str(convert(formula.strip(), display="block" if block else "inline"))
    if "\\" in converted:  # the converter leaves an unknown command as it is
        raise InputError(f"the formula {formula} has a command that cannot be converted: choose another")
    return converted
