"""ELECTRA (Clark et al. 2020): BERT's encoder, whose embedding tables may be narrower than its layers."""

from typing import Any

from models.architecture import Architecture
from models.families import bert
from models.families.family import Family
from models.families.names import TensorNames

TABLE_WIDTH = "embedding_size"


def _read_table_width(config: dict[str, Any]) -> dict[str, Any]:
    width = config[TABLE_WIDTH]
    return {"embedding_width": None if width == config["hidden_size"] else width}


def _write_table_width(shape: Architecture) -> dict[str, Any]:
    return {TABLE_WIDTH: shape.table_width}


ELECTRA = Family(
    name="electra",
    classes="Electra",
    names=TensorNames(
        "electra",
        {**bert.ENCODER, "embeddings.project": "embeddings_project"},
        bert.LAYERS,
        bert.LAYER,
        bert.QKV,
        {"dense": "classifier.dense", "out": "classifier.out_proj"},
    ),
    sizes=bert.SIZES,
    fixed=bert.FIXED,
    wanted=(TABLE_WIDTH,),
    read_more=_read_table_width,
    write_more=_write_table_width,
)
