"""RoBERTa (Liu et al. 2019) and XLM-R (Conneau et al. 2020): BERT's encoder, positions from after the padding id."""

from dataclasses import replace

from models.families import bert
from models.families.family import Family
from models.families.names import TensorNames

ROBERTA = Family(
    name="roberta",
    classes="Roberta",
    names=TensorNames(
        "roberta",
        bert.ENCODER,
        bert.LAYERS,
        bert.LAYER,
        bert.QKV,
        {"dense": "classifier.dense", "out": "classifier.out_proj"},
    ),
    sizes=bert.SIZES,
    fixed=bert.FIXED,
    pad_id=1,
    padding_first=True,
)
XLM_ROBERTA = replace(ROBERTA, name="xlm-roberta", classes="XLMRoberta")
