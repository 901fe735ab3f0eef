"""ELECTRA (Clark et al. 2020): BERT's encoder with embedding tables that may be narrower than the layers."""

from dataclasses import replace
from typing import Any

from models.architecture import Architecture
from models.families.bert import BERT, SPLIT_HEAD

TABLE_WIDTH = "embedding_size"


def _read_table_width(config: dict[str, Any]) -> dict[str, Any]:
    width = config[TABLE_WIDTH]
    return {"embedding_width": None if width == config["hidden_size"] else width}


def _write_table_width(shape: Architecture) -> dict[str, Any]:
    return {TABLE_WIDTH: shape.table_width}


PROJECT = {"embeddings.project": "embeddings_project"}

ELECTRA = replace(
    BERT,
    name="electra",
    classes="Electra",
    names=replace(BERT.names, prefix="electra", encoder=BERT.names.encoder | PROJECT, head=SPLIT_HEAD),
    extra_keys=(TABLE_WIDTH,),
    read_extra=_read_table_width,
    write_extra=_write_table_width,
)
