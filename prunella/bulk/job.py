"""Job: the options of a bulk run that decide what its output contains, and the chunks and parts that it moves."""

from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from models.schema import Record
from models.task import MOST_WINDOWS, Combine, Task

Format = Literal["parquet", "csv", "jsonl"]
Body = Literal["arrow", "lines"]
CHUNK_ROWS = 4096  # enough to sort by length, and a second or a few of work for one core


class Job(Record):
    """Options that decide the content of the output; a run goes on with an output only if all of them are equal."""

    bundle: str = Field(description="id of the bundle")
    source: str = Field(description="absolute path of the input")
    text_column: str = "text"
    pair_column: str | None = None
    columns: tuple[str, ...] | None = Field(None, description="input columns to keep; None: all")
    prefix: str = Field("", description="before the name of each column that is added")
    scores: bool = Field(False, description="whether the scores of all labels are written")
    truncate: bool = Field(True, description="whether a text that is too long is truncated, or is an error")
    cascade: bool = Field(True, description="whether the gate of a bundle that has one answers easy texts")
    windows: int | None = Field(None, ge=1, le=MOST_WINDOWS, description="of a long text; None: as the bundle says")
    windows_combine: Combine | None = Field(None, description="mean or max; None: as the bundle says")
    limit: int | None = Field(None, ge=1, description="rows; None: all")
    format: Format = "parquet"
    chunk_rows: int = Field(CHUNK_ROWS, ge=1, description="rows of a part")

    def has_windows(self, task: Task) -> bool:
        """Whether long texts have windows, and the output says how many, with the bundle of a task."""
        return (self.windows or task.windows or 1) > 1


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive rows of one input file: what one part is made of."""

    file: int  # position of the input file
    number: int  # of the chunk in its file
    rows: int
    last: bool  # whether the file ends here
    where: str  # "data.csv, rows 4097 to 8192"
    kind: Body
    body: bytes  # an Arrow IPC stream, or the lines of a JSONL file
    problems: dict[int, str] = field(default_factory=dict)  # by position: rows that could not be read


@dataclass(frozen=True, slots=True)
class Part:
    """The content of a part file."""

    content: bytes
    rows: int
    errors: int  # rows without an answer
    gated: int = 0  # rows that the gate answered
