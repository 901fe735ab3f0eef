"""README.zh.md says in Chinese what README.md says, and the glossary of the course has both languages."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh.md"
ADVICE = "change README.md and README.zh.md together"
CODE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMENT = re.compile(r"(?<= )# .*")
HAN = re.compile(r"[\u4e00-\u9fff]")


def sections(text: str) -> list[tuple[int, str]]:
    """Return the level of each heading, and what stands below it; code blocks are left out."""
    parts = re.split(r"^(#+) .*$", CODE.sub("", text), flags=re.MULTILINE)[1:]
    return [(len(level), body) for level, body in zip(parts[::2], parts[1::2], strict=True)]


def commands(text: str) -> list[tuple[str, str]]:
    """Return the language and the content of each code block, without the words of comments."""
    return [(language, COMMENT.sub("#", content)) for language, content in CODE.findall(text)]


def tables(text: str) -> list[list[list[str]]]:
    """Return the numbers of each cell, by table and row."""
    rows = [
        [re.findall(r"[\d.]+%?", cell) for cell in line.split("|")] for line in text.splitlines() if line[:1] == "|"
    ]
    return [[["|".join(cell) for cell in row] for row in rows]]


def figures(body: str) -> Counter[str]:
    """Return what a translation keeps: inline code, the targets of links, and numbers."""
    prose = re.sub(r"`[^`\n]+`|\]\([^)\s]+\)", " ", body)
    kept = re.findall(r"`[^`\n]+`", body) + re.findall(r"\]\([^)\s]+\)", body) + re.findall(r"\d+(?:\.\d+)*", prose)
    return Counter(kept)


def differences(english: str, chinese: str) -> list[str]:
    """Return what one of the two texts has and the other lacks, a sentence for each kind."""
    found = []
    levels = [[level for level, _ in sections(text)] for text in (english, chinese)]
    if levels[0] != levels[1]:
        found.append(f"the levels of the headings are {levels[0]} in English and {levels[1]} in Chinese")
    if commands(english) != commands(chinese):
        pairs = zip(commands(english), commands(chinese), strict=False)
        one = next((pair for pair in pairs if pair[0] != pair[1]), ("their number",))
        found.append(f"the code blocks differ: {one}")
    if tables(english) != tables(chinese):
        found.append("the tables differ in their shape or numbers")
    for number, ((_, one), (_, other)) in enumerate(zip(sections(english), sections(chinese), strict=False)):
        missing, added = figures(one) - figures(other), figures(other) - figures(one)
        if missing or added:
            found.append(f"section {number}: Chinese lacks {sorted(missing)} and adds {sorted(added)}")
    return found


def test_the_chinese_readme_has_the_content_of_the_english_one():
    english, chinese = (path.read_text(encoding="utf-8") for path in (ENGLISH, CHINESE))
    assert not differences(
        english.replace("](README.zh.md)", "](OTHER)"), chinese.replace("](README.md)", "](OTHER)")
    ), ADVICE
    assert all(HAN.search(body) for _, body in sections(chinese) if body.strip())


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("## Limits", "### Limits", "levels of the headings"),
        ("--speedup 4", "--speedup 5", "code blocks"),
        ("| 86.9% |", "| 86.8% |", "tables"),
        ("336 MB", "400 MB", "lacks ['400'] and adds ['336']"),
        ("(docs/store.md)", "(docs/score.md)", "docs/score.md"),
        ("`/openapi.json`", "`/schema.json`", "schema.json"),
        ("- **Export**", "- 7 times **Export**", "lacks ['7']"),
    ],
)
def test_a_change_of_one_readme_only_is_noticed(old, new, sentence):
    english, chinese = (path.read_text(encoding="utf-8") for path in (ENGLISH, CHINESE))
    assert old in english
    assert any(sentence in one for one in differences(english.replace(old, new), chinese))


def test_the_glossary_has_sixty_terms_in_both_languages():
    page = (ROOT / "docs" / "learn" / "glossary.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]
    terms = [row for row in rows if row[0] != "English" and set(row[0]) != {"-"}]
    assert len(terms) == len({row[0] for row in terms}) == len({row[1] for row in terms}) == 60
    for english, chinese, explained, in_chinese in terms:
        assert english
        assert chinese
        assert explained.endswith(".")
        assert not HAN.search(explained)
        assert in_chinese.endswith("。")
        assert HAN.search(in_chinese)
