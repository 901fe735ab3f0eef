"""The site of `make docs`, checked without mkdocs: its menu has every page, every link works, nothing is loaded."""

import re
from pathlib import Path

import pytest
import yaml

from tools.docs_links import rewritten

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
PAGES = sorted(DOCS.rglob("*.md"))


def menu(entry: object) -> list[str]:
    """Return the files of a part of the menu."""
    if isinstance(entry, str):
        return [entry]
    parts = entry if isinstance(entry, list) else list(entry.values())
    return [file for part in parts for file in menu(part)]


def test_every_page_is_in_the_menu_once_or_excluded_by_name():
    hidden = {line for key in ("exclude_docs", "not_in_nav") for line in CONFIG.get(key, "").split()}
    files = menu(CONFIG["nav"])
    assert sorted(files) == sorted({str(page.relative_to(DOCS)) for page in PAGES} - hidden)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_every_relative_link_resolves(page):
    text = re.sub(r"^```.*?^```|`[^`\n]+`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\(([^)\s]+)", text) + re.findall(r"^\[[^\]]+\]: (\S+)", text, re.MULTILINE)
    links += re.findall(r"\b(?:src|href)=[\"']([^\"']+)", text)
    files = {link.partition("#")[0] for link in links if not re.match(r"\w+:|#", link)}
    assert not sorted(file for file in files if not (page.parent / file).exists())
    assert not sorted(file for file in files if file.startswith("/"))  # GitHub and a site have different roots


def test_the_site_loads_nothing_from_elsewhere():
    assert CONFIG["theme"]["font"] is False
    assert CONFIG["plugins"] == ["search"]
    assert not {"extra_css", "extra_javascript", "repo_url"} & CONFIG.keys()  # repo_url: its stars
    assert not re.search(
        r"^```\s*mermaid", "\n".join(page.read_text() for page in PAGES), re.MULTILINE
    )  # as this does


def test_links_that_leave_the_pages_become_text_on_the_site(tmp_path):
    docs = tmp_path / "docs"
    (docs / "results" / "runs").mkdir(parents=True)
    for file in (docs / "serving.md", docs / "results" / "run.json", tmp_path / "README.md"):
        file.write_text("")
    text = (
        "[a](../serving.md#x) [b](run.json) [runs](runs) [the README](../../README.md#install) "
        "[`README.md`](../../README.md) [c](https://example.org) [d](missing.md) ![e](../../README.md)\n"
        "```\n[f](../../README.md)\n```\n"
    )
    wanted = (
        "[a](../serving.md#x) [b](run.json) runs (`docs/results/runs`) the README (`README.md`) "
        "`README.md` [c](https://example.org) [d](missing.md) ![e](../../README.md)\n"
        "```\n[f](../../README.md)\n```\n"
    )
    assert rewritten(text, docs / "results" / "page.md", docs) == wanted
