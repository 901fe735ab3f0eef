"""The command `prunella score`."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from models.schema import wrong_values
from prunella.cli.options import Windows, WindowsCombine
from prunella.cli.output import need

Source = Annotated[Path, typer.Argument(help="a Parquet, CSV, TSV or JSONL file, or a folder of such files")]
Output = Annotated[Path, typer.Argument(help="folder for the part files; a killed run goes on there")]


def score(
    bundle: Annotated[str, typer.Argument(help="a bundle folder, or a tag of BentoML's model store")],
    source: Source,
    output: Output,
    engine: Annotated[
        Literal["local", "ray", "spark"], typer.Option(help="where the rows are scored; local: on this machine")
    ] = "local",
    processes: Annotated[
        int | None, typer.Option(min=1, help="workers with one thread each; default: one for each core")
    ] = None,
    text_column: Annotated[str, typer.Option(help="column of the text, or of the first text of a pair")] = "text",
    pair_column: Annotated[
        str | None, typer.Option(help="column of the second text; default: text_pair if the model takes pairs")
    ] = None,
    columns: Annotated[str | None, typer.Option(help="input columns to keep, such as id,date; default: all")] = None,
    prefix: Annotated[str, typer.Option(help="before the names of the added columns")] = "",
    scores: Annotated[bool, typer.Option("--scores", help="also write the scores of all labels")] = False,
    truncate: Annotated[bool, typer.Option(help="truncate texts that are too long, or give them an error")] = True,
    cascade: Annotated[bool, typer.Option(help="let the gate of a bundle that has one answer easy texts")] = True,
    windows: Windows = None,
    windows_combine: WindowsCombine = None,
    limit: Annotated[int | None, typer.Option(min=1, help="score the first rows only")] = None,
    format: Annotated[
        Literal["parquet", "csv", "jsonl"] | None, typer.Option(help="format of the parts; default: the input's")
    ] = None,
    chunk_rows: Annotated[int, typer.Option(min=1, help="rows of a part")] = 4096,
) -> dict[str, Any]:
    """Classify the rows of files into a folder of part files: label, score, error and the id of the bundle.

    Rows keep their order and columns; a row that cannot be answered has an error. After a run was killed, the same
    command goes on: each row is there exactly once. _SUCCESS is written last.
    """
    need("pyarrow", "score")
    need("tqdm", "score")
    from prunella.bulk.score_files import ScoreOptions
    from prunella.bulk.score_files import score as score_files

    with wrong_values():
        options = ScoreOptions(
            engine=engine, processes=processes, text_column=text_column, pair_column=pair_column, prefix=prefix,
            columns=None if columns is None else tuple(filter(None, columns.split(","))), scores=scores,
            truncate=truncate, cascade=cascade, windows=windows, windows_combine=windows_combine,
            limit=limit, format=format, chunk_rows=chunk_rows,
        )  # fmt: skip
    return score_files(bundle, source, output, options)
