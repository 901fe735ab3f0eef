"""`python -m bench.tables`: write the tables of README.md and docs/ again from the files under docs/results.

A table stands between `<!-- begin results: NAME -->` and `<!-- end results -->`; a test fails when a page differs.
The figure of all compressed models is drawn anew too.
Files that name places on the machine that wrote them lose these first.
"""

import json
import re
import sys
from pathlib import Path

from bench.compression_plot import draw_compression
from bench.compression_table import ablation_table, compression_table
from bench.gpu_table import gpu_table
from bench.markdown import engines_table, machine_sentence, padding_sentences
from bench.plain import code, markdown
from bench.record import public
from bench.records import Report
from bench.training_table import speed_table, training_table
from models.atomic import write_text
from models.errors import FolderError

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
FOLDERS = {  # a table's name → the folder of its runs, and what makes it of them
    "training": ("training", training_table),
    "training-speed": ("training", speed_table),
    "compression": ("compression", compression_table),
    "ablation": ("ablation", ablation_table),
    "gpu": ("gpu", gpu_table),
}
MARKED = re.compile(r"(<!-- begin results: ([\w-]+) -->\n).*?(<!-- end results -->)", re.DOTALL)


def pages() -> list[Path]:
    """Return the pages that may hold tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def with_tables(text: str) -> str:
    """Return a page with its tables as the stored reports give them."""
    return MARKED.sub(lambda found: found.group(1) + _told(found.group(2)) + found.group(3), text)


def _told(name: str) -> str:
    if name in FOLDERS:
        folder, make = FOLDERS[name]
        return make(RESULTS / folder) + "\n"
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        raise FolderError(f"{path} is not there: copy the report.json of a run to it")
    report = Report.read(path)
    sentences = "\n".join(f"- {markdown(sentence)}" for sentence in report.verdicts)
    told = " ".join([*padding_sentences(report), machine_sentence(report), f"Command: {code(report.command)}."])
    return f"{engines_table(report)}\n\n{sentences}\n\n{told}\n"


def main() -> None:
    """Rewrite every kept file that names a place on this machine, and every page whose tables are old."""
    for path in RESULTS.rglob("*.json"):
        told = json.loads(path.read_text(encoding="utf-8"))
        if (kept := public(told)) != told:
            write_text(path, json.dumps(kept, indent=2) + "\n")  # as reports are written
            sys.stderr.write(f"shortened {path.relative_to(ROOT)}\n")
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (renewed := with_tables(text)) != text:
            page.write_text(renewed, encoding="utf-8")
            sys.stderr.write(f"renewed {page.relative_to(ROOT)}\n")
    draw_compression(RESULTS / "compression", RESULTS / "compression.svg")


if __name__ == "__main__":
    main()
