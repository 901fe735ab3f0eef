"""MPNet (Song et al. 2020): config.json and tensor names. models.encoders.mpnet_encoder computes its attention."""

from typing import Any

from models.architecture import Architecture
from models.families.bert import ENCODER, LAYER, SIZES, SPLIT_HEAD
from models.families.family import Family
from models.families.names import TensorNames

BUCKETS = "relative_attention_num_buckets"


def _read_relative(config: dict[str, Any]) -> dict[str, Any]:
    return {"relative": {"buckets": config[BUCKETS], "heads": config[SIZES["heads"]]}}


def _write_relative(shape: Architecture) -> dict[str, Any]:
    assert shape.relative is not None
    return {BUCKETS: shape.relative.buckets}


MPNET = Family(
    name="mpnet",
    classes="MPNet",
    names=TensorNames(
        prefix="mpnet",
        encoder={ours: theirs for ours, theirs in ENCODER.items() if ours != "embeddings.types"}
        | {"relative": "encoder.relative_attention_bias"},
        layers="encoder.layer",
        layer=LAYER
        | {
            "attention.output": "attention.attn.o",
            "attention.norm": "attention.LayerNorm",
            "attention.columns": "attention.relative_attention_columns",  # after pruning only
        },
        qkv=("attention.attn.q", "attention.attn.k", "attention.attn.v"),
        head=SPLIT_HEAD,
    ),
    sizes={ours: theirs for ours, theirs in SIZES.items() if ours != "token_types"},
    fixed={},
    pad_id=1,
    padding_first=True,
    padding_row=1,
    extra_keys=(BUCKETS,),
    read_extra=_read_relative,
    write_extra=_write_relative,
)
