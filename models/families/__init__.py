"""The families of checkpoints that are known: one file, and one Family, for each."""

from models.families.bert import BERT
from models.families.distilbert import DISTILBERT
from models.families.electra import ELECTRA
from models.families.family import Family
from models.families.modernbert import MODERNBERT
from models.families.roberta import ROBERTA, XLM_ROBERTA

FAMILIES: dict[str, Family] = {
    family.name: family for family in (BERT, ROBERTA, XLM_ROBERTA, DISTILBERT, ELECTRA, MODERNBERT)
}
