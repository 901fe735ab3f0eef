"""Every chapter of the course has the form that its pages, notebooks and tests rely on."""

import ast
import re
from pathlib import Path

import pytest

from tools.course.chapter import FOLDER, chapter_files, read_chapter
from tools.course.record import PLACEHOLDER, is_stale, recorded
from tools.course.table import PAGE, table, with_table

TESTS = Path(__file__).resolve().parent
MOST_LINES = 150
LIMIT = 15 * 60  # seconds for all chapters, on two cores
each_chapter = pytest.mark.parametrize("file", chapter_files(), ids=lambda file: file.stem)


def prose(chapter, language: str) -> str:
    return "\n\n".join(cell.source for cell in chapter.cells if cell.kind == language)


def exercises(text: str) -> str:
    return re.split(r"^## (?:Exercises|练习)$", text, flags=re.MULTILINE)[1]


@each_chapter
def test_the_code_is_short_enough_to_read(file):
    assert read_chapter(file).code_lines() <= MOST_LINES


@each_chapter
def test_both_languages_have_the_same_headings_formulas_code_and_scores(file):
    chapter = read_chapter(file)
    english, chinese = prose(chapter, "en"), prose(chapter, "zh")
    for pattern in (r"^(#+) ", r"^(\$\$.*\$\$)$", r"^(\d)\. ", PLACEHOLDER.pattern, r"\]\(([^)]+)\)"):
        assert re.findall(pattern, english, re.MULTILINE) == re.findall(pattern, chinese, re.MULTILINE)
    assert len(re.findall(r"[\u4e00-\u9fff]", chinese)) > 500
    assert not re.findall(r"[\u4e00-\u9fff]", english)


@each_chapter
def test_three_exercises_are_answered_by_three_tests(file):
    answers = TESTS / f"test_{file.name}"
    names = [node.name for node in ast.parse(answers.read_text()).body if isinstance(node, ast.FunctionDef)]
    numbers = sorted(int(match[1]) for name in names if (match := re.match(r"test_exercise_(\d)_", name)))
    assert numbers == [1, 2, 3]
    for language in ("en", "zh"):
        text = exercises(prose(read_chapter(file), language))
        assert re.findall(r"^(\d)\. ", text, re.MULTILINE) == ["1", "2", "3"]
        assert f"../../{answers.relative_to(FOLDER.parents[1])}" in text


@each_chapter
def test_the_record_is_of_a_full_run_of_this_code_and_has_every_score_that_the_text_quotes(file):
    chapter = read_chapter(file)
    record = recorded(chapter)
    assert not is_stale(chapter), "run python -m tools.course.run --record"
    if record is None:
        pytest.skip("no full run is recorded: run python -m tools.course.run --record")
    assert record.size == "full"
    assert sum(len(output.figures) for output in record.outputs) == 1
    assert len(record.outputs) == sum(cell.kind == "code" for cell in chapter.cells)
    for cell in chapter.cells:
        if cell.kind != "code":
            assert "{{" not in record.fill(cell.source)


def test_all_chapters_together_take_a_quarter_of_an_hour_at_most():
    records = [record for file in chapter_files() if (record := recorded(read_chapter(file)))]
    if len(records) < len(chapter_files()):
        pytest.skip("some chapters have no record of a full run")
    assert sum(record.seconds for record in records) <= LIMIT


def test_the_table_of_chapters_is_that_of_the_records():
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_table(page, table(chapter_files())), "run python -m tools.course.run --record"


@each_chapter
def test_links_lead_somewhere(file):
    for cell in read_chapter(file).cells:
        if cell.kind != "code":
            links = [link for link in re.findall(r"\]\(([^)\s]+)\)", cell.source) if not re.match(r"https?:", link)]
            assert not [link for link in links if not (FOLDER / link.partition("#")[0]).exists()]
