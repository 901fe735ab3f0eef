"""DistilBERT (Sanh et al. 2019): BERT's encoder without segment embeddings, with its own tensor names."""

from models.families.family import Family
from models.families.names import TensorNames

DISTILBERT = Family(
    name="distilbert",
    classes="DistilBert",
    names=TensorNames(
        prefix="distilbert",
        encoder={
            "embeddings.tokens": "embeddings.word_embeddings",
            "embeddings.positions": "embeddings.position_embeddings",
            "embeddings.norm": "embeddings.LayerNorm",
        },
        layers="transformer.layer",
        layer={
            "attention.output": "attention.out_lin",
            "attention.norm": "sa_layer_norm",
            "ffn.rise": "ffn.lin1",
            "ffn.fall": "ffn.lin2",
            "ffn.norm": "output_layer_norm",
        },
        qkv=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        head={"dense": "pre_classifier", "out": "classifier"},
    ),
    sizes={
        "vocabulary": "vocab_size",
        "width": "dim",
        "depth": "n_layers",
        "heads": "n_heads",
        "ffn": "hidden_dim",
        "positions": "max_position_embeddings",
    },
    fixed={},  # sinusoidal positions need no setting: the checkpoint has them as a table
    activation_key="activation",
)
