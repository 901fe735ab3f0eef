"""DeBERTa-v2 and v3 (He et al. 2021, 2023): config.json and tensor names; models.encoders.deberta_encoder."""

from dataclasses import replace
from typing import Any

from models.architecture import Architecture
from models.families.bert import BERT

EXTRA = (
    "type_vocab_size", "relative_attention", "max_relative_positions", "position_biased_input", "pos_att_type",
    "pooler_hidden_act",
)  # fmt: skip
LAYER_NORM = "layer_norm"  # in norm_rel_ebd, a list of names separated by "|"


def _read_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return our fields. Older files lack some keys, whose defaults are in the modules of transformers."""
    parts, buckets, span = (
        config["pos_att_type"] or (),
        config.get("position_buckets"),
        config["max_relative_positions"],
    )
    norms = str(config.get("norm_rel_ebd", "none")).lower().split("|")
    settings = {
        "relative": config["relative_attention"],
        "c2p": "c2p" in parts,
        "p2c": "p2c" in parts,
        "share_key": config.get("share_att_key", False),
        "buckets": 0 if buckets in (None, -1) else buckets,
        "span": config["max_position_embeddings"] if span in (None, -1, 0) else span,
        "norm_relative": LAYER_NORM in [norm.strip() for norm in norms],
        "absolute": config["position_biased_input"],
        "pooler_activation": config["pooler_hidden_act"],
    }
    return {"deberta": settings, "token_types": config["type_vocab_size"]}


def _write_settings(shape: Architecture) -> dict[str, Any]:
    settings = shape.deberta
    assert settings is not None
    return {
        "type_vocab_size": shape.token_types,
        "relative_attention": settings.relative,
        "max_relative_positions": settings.span,
        "position_buckets": settings.buckets or -1,
        "pos_att_type": [part for part in ("p2c", "c2p") if getattr(settings, part)],
        "share_att_key": settings.share_key,
        "norm_rel_ebd": LAYER_NORM if settings.norm_relative else "none",
        "position_biased_input": settings.absolute,
        "pooler_hidden_act": settings.pooler_activation,
    }


RELATIVE = {"embeddings.relative": "encoder.rel_embeddings", "embeddings.relative_norm": "encoder.LayerNorm"}
PROJECTIONS = {
    "attention.pos_key": "attention.self.pos_key_proj",
    "attention.pos_query": "attention.self.pos_query_proj",
}

DEBERTA = replace(
    BERT,
    name="deberta-v2",
    classes="DebertaV2",
    names=replace(
        BERT.names,
        prefix="deberta",
        encoder=BERT.names.encoder | RELATIVE,
        layer=BERT.names.layer | PROJECTIONS,
        qkv=("attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj"),
        head={"dense": "pooler.dense", "out": "classifier"},
    ),
    sizes={ours: theirs for ours, theirs in BERT.sizes.items() if ours != "token_types"},
    fixed={"conv_kernel_size": 0},
    extra_keys=EXTRA,
    read_extra=_read_settings,
    write_extra=_write_settings,
)
