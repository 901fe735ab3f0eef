"""RoBERTa (Liu et al. 2019) and XLM-R (Conneau et al. 2020): BERT's encoder; positions start after the padding id."""

from dataclasses import replace

from models.families.bert import BERT, SPLIT_HEAD

ROBERTA = replace(
    BERT,
    name="roberta",
    classes="Roberta",
    names=replace(BERT.names, prefix="roberta", head=SPLIT_HEAD),
    pad_id=1,
    padding_first=True,
)
XLM_ROBERTA = replace(ROBERTA, name="xlm-roberta", classes="XLMRoberta")
