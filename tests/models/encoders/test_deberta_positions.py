"""The rows of DeBERTa's table of relative positions, in published sizes, are those of transformers."""

import pytest
import torch
from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position

from models.architecture import DebertaSettings
from models.encoders.deberta_encoder import position_rows


@pytest.mark.parametrize(
    ("buckets", "span"), [(256, 512), (256, 1024), (32, 128), (8, 48), (0, 512), (0, 20), (512, 512), (6, 40)]
)
@pytest.mark.parametrize("tokens", [1, 2, 17, 129, 512])
def test_rows_are_those_of_transformers(buckets, span, tokens):
    states = torch.zeros(1, tokens, 1)
    wanted = build_relative_position(states, states, bucket_size=buckets or -1, max_position=span)[0]
    half = buckets or span
    rows = position_rows(tokens, DebertaSettings(buckets=buckets, span=span))
    places = torch.arange(tokens)
    found = rows[places[:, None] - places + tokens - 1]
    assert torch.equal(found, (wanted + half).clamp(0, 2 * half - 1))
    assert torch.equal(rows, rows.sort().values)  # the slice of the table that a text uses is without gaps
