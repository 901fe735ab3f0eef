"""A chapter is read, run, recorded, and shown as a page and as a notebook in each language."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from models.errors import InputError
from tools.course.chapter import read_chapter
from tools.course.pages import notebook_of, page_of
from tools.course.record import ChapterRecord, recorded
from tools.course.table import table, with_table

ROOT = Path(__file__).resolve().parents[3]
SUM = "# The sum is {{total:.1f}}."
CHAPTER = """# %% [markdown] lang="en"
# # Sums
#
# How to add.
#
# See [the next chapter](02_more.py) and [training](../training.md).

# %% [markdown] lang="zh"
# # 加法
#
# 怎样做加法，
# 一学就会。
#
# 见[下一章](02_more.py)和[训练](../training.md)。

# %%
from tools.course.output import figure, scores, sized

total = sum([1, 2])  # a comment
print("total", total)

# %% [markdown] lang="en"
# The sum is {{total:.1f}}.

# %% [markdown] lang="zh"
# 和是 {{total:.1f}}。

# %%
scores(f"sum {total}", total=total)
figure("A line & a dot.", lambda axes: axes.plot([0, 1], [0, sized(2, small=1)], label="sum"))
"""


def write(folder: Path, text: str = CHAPTER) -> Path:
    path = folder / "01_sums.py"
    path.write_text(text, encoding="utf-8")
    return path


def run(path: Path, **environment: str):
    target = path.with_suffix(".json")
    done = subprocess.run(
        [sys.executable, "-m", "tools.course.run", "--one", str(path), str(target)],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True,
    )  # fmt: skip
    return done, target


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    path = write(tmp_path_factory.mktemp("learn"))
    done, target = run(path)
    assert done.returncode == 0, done.stderr
    return read_chapter(path), ChapterRecord.read(target)


def test_a_chapter_has_a_title_and_an_aim_in_each_language(tmp_path):
    chapter = read_chapter(write(tmp_path))
    assert (chapter.title("en"), chapter.title("zh")) == ("Sums", "加法")
    assert chapter.aim("en") == "How to add."
    assert chapter.aim("zh") == "怎样做加法，一学就会。"  # no space where the line was broken
    assert chapter.code_lines() == 5


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('lang="zh"', 'lang="de"', "has the language 'de'"),
        (' lang="zh"', "", "has the language None"),
        (f'{SUM}\n\n# %% [markdown] lang="zh"\n', "", "wanted Chinese after each English cell"),
        (f'# %% [markdown] lang="en"\n{SUM}\n\n', "", "wanted Chinese after each English cell"),
    ],
)  # fmt: skip
def test_prose_in_one_language_only_is_refused(tmp_path, before, after, words):
    assert before in CHAPTER
    with pytest.raises(InputError, match=words):
        read_chapter(write(tmp_path, CHAPTER.replace(before, after)))


def test_a_run_records_what_each_cell_printed_and_drew(ran):
    _, record = ran
    assert record.size == "full"
    assert record.headline == "sum 3"
    assert record.scores == {"total": 3.0}
    first, second = record.outputs
    assert (first.text, first.figures) == ("total 3\n", ())
    assert second.text == "score: sum 3\ntotal = 3\n"
    (figure,) = second.figures
    assert figure.caption == "A line & a dot."
    assert 'aria-label="A line &amp; a dot."' in figure.svg
    assert "var(--ink)" in figure.svg  # follows the page's colours


def test_the_small_size_takes_the_second_value(tmp_path):
    path = write(tmp_path, CHAPTER.replace("sum([1, 2])", "sized(3, small=0)"))
    done, target = run(path, LEARN_SIZE="small")
    assert done.returncode == 0, done.stderr
    record = ChapterRecord.read(target)
    assert (record.size, record.scores) == ("small", {"total": 0.0})


def test_an_error_names_the_line_of_the_script(tmp_path):
    path = write(tmp_path, CHAPTER.replace('print("total", total)', "assert total == 4"))
    line = next(number for number, text in enumerate(path.read_text().splitlines(), 1) if "assert" in text)
    done, target = run(path)
    assert done.returncode == 1
    assert f'01_sums.py", line {line}' in done.stderr
    assert not target.exists()


def test_a_chapter_without_a_score_fails(tmp_path):
    done, _ = run(write(tmp_path, CHAPTER.replace('scores(f"sum {total}", total=total)', "")))
    assert done.returncode == 1
    assert "wanted a call of scores()" in done.stderr


def test_a_record_of_other_code_does_not_count(tmp_path, ran):
    chapter, record = ran
    record.write(tmp_path / "01_sums.json")
    assert recorded(chapter, tmp_path) == record
    changed = read_chapter(write(tmp_path, CHAPTER.replace("[1, 2]", "[1, 3]")))
    assert recorded(changed, tmp_path) is None
    rewritten = read_chapter(write(tmp_path, CHAPTER.replace("How to add", "How one adds")))
    assert recorded(rewritten, tmp_path) == record  # prose is not code


def test_small_runs_are_not_recorded():
    done = subprocess.run(
        [sys.executable, "-m", "tools.course.run", "--record"],
        cwd=ROOT, env=os.environ | {"LEARN_SIZE": "small"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "leave LEARN_SIZE=small out" in done.stderr


def test_a_page_has_one_language_the_code_its_output_and_the_scores(ran):
    english, chinese = (page_of(*ran, language) for language in ("en", "zh"))
    assert "The sum is 3.0." in english
    assert "和是 3.0。" in chinese
    assert "加法" not in english
    assert "How to add" not in chinese
    for page in (english, chinese):
        assert 'print("total", total)' in page
        assert "```text\ntotal 3\n```" in page
        assert "<svg" in page
        assert "(02_more.md)" in page  # the same language
        assert "(../../training.md)" in page
    assert "[中文](../zh/01_sums.md)" in english
    assert "[English](../en/01_sums.md)" in chinese


def test_a_notebook_has_what_the_run_printed_and_drew(ran):
    text = notebook_of(*ran, "zh")
    assert text == notebook_of(*ran, "zh")  # the same each time
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    assert [cell.cell_type for cell in notebook.cells] == ["markdown", "code", "markdown", "code"]
    assert notebook.cells[1].outputs[0].text == "total 3\n"
    assert "<svg" in notebook.cells[3].outputs[1].data["text/html"]
    assert notebook.cells[2].source == "和是 3.0。"


def test_the_table_has_the_score_or_dashes(tmp_path, ran):
    _, record = ran
    file = write(tmp_path)
    assert "| - | How to add. 怎样做加法，一学就会。 | - |" in table([file], tmp_path)
    record.write(tmp_path / "01_sums.json")
    assert "| sum 3 |" in table([file], tmp_path)
    page = (ROOT / "docs" / "learn" / "README.md").read_text(encoding="utf-8")
    assert "\n\nROWS\n\n" in with_table(page, "ROWS\n")


def test_running_a_chapter_that_is_not_there_says_which_there_are():
    done = subprocess.run(
        [sys.executable, "-m", "tools.course.run", "99"], cwd=ROOT, capture_output=True, text=True
    )  # fmt: skip
    assert done.returncode == 2
    assert "01_tokens" in done.stderr
    assert json.dumps("01_tokens") not in done.stdout


def test_the_table_sums_the_minutes_of_full_runs_and_names_the_processor(ran, tmp_path):
    _, record = ran
    path = write(tmp_path)
    assert "Chapters with a full run" not in table([path], tmp_path)
    known = record.model_copy(update={"seconds": 90.0, "threads": 2, "processor": "Test CPU"})
    known.write(tmp_path / "01_sums.json")
    rows = table([path], tmp_path)
    assert "| 1.5 | How to add. 怎样做加法，一学就会。 | sum 3 |" in rows
    assert "Chapters with a full run: 1, 1.5 minutes together, on Test CPU (torch threads: 2)." in rows
    assert "有完整运行记录的章节：1 个，合计 1.5 分钟，测量环境：Test CPU (torch threads: 2)。" in rows
