"""plain(), markdown(), code(): escape labels, names and messages for tables, pages and figures."""

import re
import unicodedata

LONGEST = 60  # characters of a label at an axis or in the header of a table
# whitespace, control characters, unpaired surrogates, noncharacters, and marks that change the text direction
UNPRINTABLE = re.compile(
    r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]+"
)
# characters that Markdown, or GitHub's formulas, read as markup
SPECIAL = re.compile(r"[\\`*|$<>\[\]~&]|(?<![^\W_])_|_(?![^\W_])")
LEADING = re.compile(r"^(\d*)(?=[-+=#.)])")  # characters that begin a list, a heading or a rule
JOINED = "\u200d\ufe0f"  # zero-width joiner (joins two characters into one) and variation selector


def plain(text: str, longest: int = LONGEST) -> str:
    """Return `text` on one line, without unprintable characters, cut after `longest` characters."""
    line = UNPRINTABLE.sub(" ", text).strip()
    if len(line) <= longest:
        return line
    cut = longest - 1
    while cut > 0 and (unicodedata.combining(line[cut]) or line[cut] in JOINED):
        cut -= 1  # cut between two visible characters, not within one
    return line[:cut].rstrip(JOINED) + "…"


def markdown(text: str) -> str:
    """Return `text` on one line, escaped so that Markdown shows it unchanged, also in a table cell."""
    return LEADING.sub(r"\1\\", SPECIAL.sub(lambda match: "\\" + match.group(), plain(text, len(text))))


def code(text: str) -> str:
    """Return `text` as inline code of Markdown, on one line; the text may contain backquotes."""
    line = plain(text, len(text))
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    padded = f" {line} " if "`" in line[:1] + line[-1:] else line
    return f"{fence}{padded}{fence}"
