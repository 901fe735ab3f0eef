"""Hook of mkdocs: links that work on GitHub also work, or are plain text, on the site that `make docs` builds.

The site has no page for a folder, and none for a file outside docs/. Such a link becomes its text and the path.
"""

import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"(?<!!)\[([^\[\]]+)\]\((?!https?:|mailto:|#)([^)\s]+)\)")
CODE = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)


def rewritten(markdown: str, page: Path, docs: Path) -> str:
    """Return the text of a page in which each link leads to a file of the site.

    Args:
        markdown: the text of the page.
        page: its file.
        docs: the folder of all pages; the repository is the folder above it.
    """

    def replace(link: re.Match[str]) -> str:
        text, address = link.groups()
        target = (page.parent / address.partition("#")[0]).resolve()
        if not target.exists() or (target.is_file() and target.is_relative_to(docs)):
            return link.group()  # mkdocs says what is missing
        path = target.relative_to(docs.parent)
        return text if text.strip("`") == str(path) else f"{text} (`{path}`)"

    parts = CODE.split(markdown)  # every second part is a block of code
    return "".join(part if i % 2 else LINK.sub(replace, part) for i, part in enumerate(parts))


def on_page_markdown(markdown: str, page: Any, config: Any, **_: object) -> str:
    """Rewrite the links of a page; mkdocs calls this."""
    if page.file.abs_src_path is None:  # a page that another hook made, and whose links lead to the site's files
        return markdown
    return rewritten(markdown, Path(page.file.abs_src_path), Path(config["docs_dir"]).resolve())
