"""Running `prunella.bulk` without processes, and reading what it wrote."""

import json
from pathlib import Path

import pyarrow.parquet

from prunella.bulk import score_files as bulk_run
from prunella.bulk.chunk_scorer import ChunkScorer
from prunella.bulk.score_files import ScoreOptions
from prunella.bulk.workers import Engine

TEXTS = [
    "so the film", "good", "a fine and good story", "bad bad bad", "the plot and the end of the film", "dull",
    "one story", "so so", "a bad film with a good end", "fine",
]  # fmt: skip


class InProcess(ChunkScorer):
    def close(self):
        pass


def score(monkeypatch, bundle, source, output, **options):
    """Run with one worker in this process."""
    monkeypatch.setattr(
        bulk_run,
        "open_engine",
        lambda name, bundle, job, schema, count: Engine(1, lambda: InProcess(bundle, job, schema)),
    )
    return bulk_run.score(str(bundle), Path(source), Path(output), ScoreOptions(**options))


def write_lines(path, texts=TEXTS, **more):
    path.write_text("".join(json.dumps({"id": i, "text": text} | more) + "\n" for i, text in enumerate(texts)))
    return path


def parts(output):
    return sorted(Path(output).glob("part-*"))


def lines_of(output):
    """Return the rows of all parts of a JSONL output, in their order."""
    return [json.loads(line) for part in parts(output) for line in part.read_text().split("\n")[:-1]]


def table_of(output):
    return pyarrow.concat_tables([pyarrow.parquet.read_table(part, partitioning=None) for part in parts(output)])


def contents(output):
    return {part.name: part.read_bytes() for part in parts(output)}
