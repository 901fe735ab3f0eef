"""BERT (Devlin et al. 2019), and MiniLM, whose checkpoints have the model type bert."""

from models.families.family import Family
from models.families.names import TensorNames

# RoBERTa and ELECTRA use most of these names, too
ENCODER = {
    "embeddings.tokens": "embeddings.word_embeddings",
    "embeddings.positions": "embeddings.position_embeddings",
    "embeddings.types": "embeddings.token_type_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
}
LAYERS = "encoder.layer"
LAYER = {
    "attention.output": "attention.output.dense",
    "attention.norm": "attention.output.LayerNorm",
    "ffn.rise": "intermediate.dense",
    "ffn.fall": "output.dense",
    "ffn.norm": "output.LayerNorm",
}
QKV = ("attention.self.query", "attention.self.key", "attention.self.value")
SIZES = {
    "vocabulary": "vocab_size",
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "ffn": "intermediate_size",
    "positions": "max_position_embeddings",
    "token_types": "type_vocab_size",
    "norm_epsilon": "layer_norm_eps",
}
FIXED = {"position_embedding_type": "absolute", "is_decoder": False}

SPLIT_HEAD = {"dense": "classifier.dense", "out": "classifier.out_proj"}  # of RoBERTa and ELECTRA

BERT = Family(
    name="bert",
    classes="Bert",
    names=TensorNames("bert", ENCODER, LAYERS, LAYER, QKV, {"dense": "bert.pooler.dense", "out": "classifier"}),
    sizes=SIZES,
    fixed=FIXED,
)
