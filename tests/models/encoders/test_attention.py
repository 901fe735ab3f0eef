"""The parts that replace torch's own on processors give what torch's own give."""

import pytest
import torch
import torch.nn.functional as functional

from models.encoders.attention import attend
from models.encoders.dropout import Dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_equals_torch(dtype):
    torch.manual_seed(0)
    query, key, value = (torch.randn(3, 4, 17, 8, dtype=dtype, requires_grad=True) for _ in range(3))
    mask = (torch.arange(17) < torch.tensor([17, 9, 1])[:, None])[:, None, None, :]
    found = attend(query, key, value, mask)
    wanted = functional.scaled_dot_product_attention(query.float(), key.float(), value.float(), attn_mask=mask)
    near = {"atol": 1e-6} if dtype == torch.float32 else {"atol": 0.03, "rtol": 0.03}
    assert found.dtype == dtype
    assert torch.allclose(found.float(), wanted, **near)
    gradient = torch.randn_like(wanted)
    ours = torch.autograd.grad(found, (query, key, value), gradient.to(dtype))
    theirs = torch.autograd.grad(wanted, (query, key, value), gradient)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one.float(), other.float(), **(near | {"atol": 2 * near["atol"]}))


def test_dropout_drops_its_share_keeps_the_mean_and_is_seeded():
    layer = Dropout(0.1)
    hidden = torch.full((1000, 777), 2.0)
    torch.manual_seed(3)
    found = layer(hidden)
    assert found.unique().tolist() == pytest.approx([0.0, 2.0 * 256 / 230])
    assert (found == 0).float().mean().item() == pytest.approx(26 / 256, abs=0.002)
    assert found.mean().item() == pytest.approx(2.0, abs=0.01)
    columns = (found == 0).float().mean(0)  # no place is dropped more often than others: bytes of a draw are alike
    assert columns.max() < 26 / 256 + 0.06
    torch.manual_seed(3)
    assert torch.equal(layer(hidden), found)
    assert not torch.equal(layer(hidden), found)


def test_dropout_passes_the_gradient_where_it_kept():
    layer = Dropout(0.5)
    hidden = torch.ones(64, 33, requires_grad=True)
    out = layer(hidden)
    out.sum().backward()
    assert torch.equal(hidden.grad, out.detach())


@pytest.mark.parametrize("layer", [Dropout(0.5).eval(), Dropout(0.0)])
def test_dropout_does_nothing_in_evaluation_or_at_rate_zero(layer):
    hidden = torch.randn(5, 7)
    assert torch.equal(layer(hidden), hidden)
