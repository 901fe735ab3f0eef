"""`python -m tools.tables.write`: regenerate the tables of the READMEs and docs/ from the files under docs/results.

A table stands between `<!-- begin results: NAME -->` and `<!-- end results -->`; a test fails if a page is outdated.
The figures of compressed models, of cascades and of the README are drawn again too. Before that, paths of the machine
are removed from the files.
"""

import json
import re
import sys
from pathlib import Path

from bench.report.escape import code, markdown
from bench.report.markdown import engines_table, machine_sentence, padding_sentences
from bench.report.report_schema import Report
from models.errors import FolderError
from models.store.atomic import write_text
from tools.archive_run import public
from tools.tables.alternatives import alternatives_table
from tools.tables.cascade import cascade_table, draw_cascades
from tools.tables.compression import ablation_table, compression_table
from tools.tables.compression_plot import draw_compression
from tools.tables.families import families_table
from tools.tables.gpu import gpu_table
from tools.tables.headline import headline_table
from tools.tables.report_figure import draw_report_figure
from tools.tables.teachers import teachers_table
from tools.tables.training import defaults_table, speed_table, training_table

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
FOLDERS = {  # by name of the table: the folder of its runs, and the function that makes the table
    "training": ("training", training_table),
    "training-speed": ("training", speed_table),
    "defaults": ("defaults", defaults_table),
    "compression": ("compression", compression_table),
    "cascade": ("cascade", cascade_table),
    "base": ("base", compression_table),
    "teachers": ("teachers", teachers_table),
    "ablation": ("ablation", ablation_table),
    "families": ("models", families_table),
    "gpu": ("gpu", gpu_table),
    "alternatives": ("alternatives", alternatives_table),
    "headline": (".", headline_table),
}
MARKED = re.compile(r"(<!-- begin results: ([\w-]+) -->\n).*?(<!-- end results -->)", re.DOTALL)


def pages() -> list[Path]:
    """Return the pages that may hold tables."""
    return [ROOT / "README.md", ROOT / "README.zh.md", *sorted((ROOT / "docs").rglob("*.md"))]


def with_tables(text: str) -> str:
    """Return the text of a page with all its tables regenerated."""
    return MARKED.sub(lambda match: match.group(1) + _table(match.group(2)) + match.group(3), text)


def _table(name: str) -> str:
    if name in FOLDERS:
        folder, make_table = FOLDERS[name]
        return make_table(RESULTS / folder) + "\n"
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        raise FolderError(f"{path} does not exist: copy the report.json of a run to it")
    report = Report.read(path)
    sentences = "\n".join(f"- {markdown(sentence)}" for sentence in report.verdicts)
    notes = " ".join([*padding_sentences(report), machine_sentence(report), f"Command: {code(report.command)}."])
    return f"{engines_table(report)}\n\n{sentences}\n\n{notes}\n"


def main() -> None:
    """Rewrite every archived file that contains a path of this machine, and every page with outdated tables."""
    for path in RESULTS.rglob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        if (shortened := public(content)) != content:
            write_text(path, json.dumps(shortened, indent=2) + "\n")  # the format of reports
            sys.stderr.write(f"shortened {path.relative_to(ROOT)}\n")
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (renewed := with_tables(text)) != text:
            page.write_text(renewed, encoding="utf-8")
            sys.stderr.write(f"renewed {page.relative_to(ROOT)}\n")
    draw_compression(RESULTS / "compression", RESULTS / "compression.svg")
    draw_cascades(RESULTS / "cascade", RESULTS / "cascade.svg")
    draw_report_figure(RESULTS / "film-reviews-8x.json", RESULTS / "film-reviews.svg")


if __name__ == "__main__":
    main()
