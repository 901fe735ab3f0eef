"""The spellings of a sublayer, and back."""

import pytest

from models.sublayer import SublayerId


def test_every_spelling_leads_back_to_the_sublayer():
    for sublayer in SublayerId.all_of(12):
        assert SublayerId.parse(sublayer.key) == sublayer
        assert SublayerId.of_module(sublayer.module) == sublayer
        assert SublayerId.of_module(f"{sublayer.module}.output") == sublayer
    assert SublayerId.keys(2) == ["0.attention", "0.ffn", "1.attention", "1.ffn"]


@pytest.mark.parametrize("key", ["", "5", "ffn", "ffn.5", "5.norm", "x.ffn", "-1.ffn", "5.ffn.rise"])
def test_other_texts_are_no_keys(key):
    with pytest.raises(ValueError, match="names no sublayer"):
        SublayerId.parse(key)


@pytest.mark.parametrize(
    "name", ["head.dense", "encoder.embeddings.tokens", "encoder.layers.", "x.encoder.layers.1.ffn"]
)
def test_modules_outside_the_layers_belong_to_none(name):
    with pytest.raises(ValueError, match=r"names no sublayer|is in no sublayer"):
        SublayerId.of_module(name)
