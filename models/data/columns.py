"""Columns: which columns of a file hold the texts and the label."""

from collections.abc import Sequence
from typing import Self

from pydantic import Field, model_validator

from models.data.other_formats import header_remedy, missing_column
from models.errors import InputError
from models.schema import Record

FLAGS = {"text": "--text-column", "text_pair": "--pair-column", "label": "--label-column"}


class Columns(Record):
    """Names of the columns (CSV, TSV, Parquet) or keys (JSONL) of the texts and the label."""

    text: str = Field("text", description="column of the text, or of the first text of a pair")
    text_pair: str = Field("text_pair", description="column of the second text of a pair")
    label: str = Field("label", description="column of the label")
    labels: dict[str, str] | None = Field(None, description="label of the file → label of the model; None: the same")
    ignores_label: bool = Field(False, description="whether the column of the label is not read")

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len({self.text, self.text_pair, self.label}) < 3:
            raise ValueError("text, second text and label are three columns: wanted three names")
        return self

    def unlabelled(self) -> "Columns":
        """Return the same columns for a file whose labels, if it has any, do not count."""
        return Columns(text=self.text, text_pair=self.text_pair, ignores_label=True)

    def find(self, source: str, names: Sequence[str]) -> list[str]:
        """Return those of the three columns that are in `names`, in this order: text, second text, label.

        Raises:
            InputError: the text column is missing, or a column whose name was set by the user (is not the default).
        """
        present = []
        for field, column in (("text", self.text), ("text_pair", self.text_pair), ("label", self.label)):
            if field == "label" and self.ignores_label:
                continue
            if column in names:
                present.append(column)
            elif field == "text" or column != Columns.model_fields[field].default:
                remedy = header_remedy(source) if field == "text" and len(names) > 1 else ""
                raise InputError(f"{source} has {missing_column(column, FLAGS[field], names)}{remedy}")
        return present
