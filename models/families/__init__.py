"""The supported families of checkpoints: how config.json and tensor names map to this project's encoders."""

from models.families.bert import BERT
from models.families.deberta import DEBERTA
from models.families.distilbert import DISTILBERT
from models.families.electra import ELECTRA
from models.families.ernie import ERNIE
from models.families.family import Family
from models.families.modernbert import MODERNBERT
from models.families.mpnet import MPNET
from models.families.roberta import ROBERTA, XLM_ROBERTA

_ALL = (BERT, ERNIE, ROBERTA, XLM_ROBERTA, MPNET, DISTILBERT, ELECTRA, MODERNBERT, DEBERTA)
FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}
