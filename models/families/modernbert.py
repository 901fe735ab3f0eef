"""ModernBERT (Warner et al. 2024): config.json and tensor names. models.encoders.modernbert_encoder computes it."""

from typing import Any

from models.architecture import Architecture
from models.families.family import Family
from models.families.names import TensorNames

POOLING = "classifier_pooling"
SETTINGS = {  # ModernSettings → keys of config.json
    "global_theta": "global_rope_theta",
    "local_theta": "local_rope_theta",
    "global_every": "global_attn_every_n_layers",
    "window": "local_attention",
    "attention_bias": "attention_bias",
    "ffn_bias": "mlp_bias",
    "norm_bias": "norm_bias",
    "head_bias": "classifier_bias",
}


def _read_settings(config: dict[str, Any]) -> dict[str, Any]:
    settings = {ours: config[theirs] for ours, theirs in SETTINGS.items()}
    if settings["local_theta"] is None:  # as in transformers: one theta for all layers
        settings["local_theta"] = settings["global_theta"]
    return {"modern": settings, "pooling": config[POOLING]}


def _write_settings(shape: Architecture) -> dict[str, Any]:
    settings = shape.model_dump(include={"modern"})["modern"]
    return {theirs: settings[ours] for ours, theirs in SETTINGS.items()} | {POOLING: shape.pooling}


MODERNBERT = Family(
    name="modernbert",
    classes="ModernBert",
    names=TensorNames(
        prefix="model",
        encoder={
            "embeddings.tokens": "embeddings.tok_embeddings",
            "embeddings.norm": "embeddings.norm",
            "norm": "final_norm",
        },
        layers="layers",
        layer={
            "attention.norm": "attn_norm",
            "attention.output": "attn.Wo",
            "ffn.norm": "mlp_norm",
            "ffn.rise": "mlp.Wi",
            "ffn.fall": "mlp.Wo",
        },
        qkv=("attn.Wqkv",),
        head={"dense": "head.dense", "norm": "head.norm", "out": "classifier"},
    ),
    sizes={
        "vocabulary": "vocab_size",
        "width": "hidden_size",
        "depth": "num_hidden_layers",
        "heads": "num_attention_heads",
        "ffn": "intermediate_size",
        "positions": "max_position_embeddings",
        "norm_epsilon": "norm_eps",
    },
    activation_key=None,  # a GeGLU
    fixed={"hidden_activation": "gelu", "classifier_activation": "gelu", "rope_scaling": None},
    pad_id=50283,
    extra_keys=(*SETTINGS.values(), POOLING),
    read_extra=_read_settings,
    write_extra=_write_settings,
)
