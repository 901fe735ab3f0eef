"""plain(), markdown(), code(): any label, name or message → text that breaks no table, page or figure."""

import re
import unicodedata

LONGEST = 60  # characters of a label beside an axis or in the head of a table
# space; controls, halves of surrogate pairs, no characters; and marks that turn all the text that follows
UNPRINTABLE = re.compile(
    r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]+"
)
SPECIAL = re.compile(
    r"[\\`*|$<>\[\]~&]|(?<![^\W_])_|_(?![^\W_])"
)  # what Markdown, and GitHub's formulas, read as markup
LEADING = re.compile(r"^(\d*)(?=[-+=#.)])")  # what begins a list, a heading or a rule
JOINED = "\u200d\ufe0f"  # joins two signs into one; a variant of the sign before


def plain(text: str, longest: int = LONGEST) -> str:
    """Return `text` on one line, without characters that are not text, cut after `longest` characters."""
    line = UNPRINTABLE.sub(" ", text).strip()
    if len(line) <= longest:
        return line
    cut = longest - 1
    while cut > 0 and (unicodedata.combining(line[cut]) or line[cut] in JOINED):
        cut -= 1  # between two signs, not within one
    return line[:cut].rstrip(JOINED) + "…"


def markdown(text: str) -> str:
    """Return `text` on one line, so that Markdown shows it as it is, also in the cell of a table."""
    return LEADING.sub(r"\1\\", SPECIAL.sub(lambda found: "\\" + found.group(), plain(text, len(text))))


def code(text: str) -> str:
    """Return `text` as Markdown's code, on one line; it may hold backquotes itself."""
    line = plain(text, len(text))
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    padded = f" {line} " if "`" in line[:1] + line[-1:] else line
    return f"{fence}{padded}{fence}"
