"""Sparse gradients of the embedding table: their rows learn as dense AdamW teaches them, other rows stay."""

import pytest
import torch
from torch import nn

from models.train.optimizer import RowwiseAdamW, clip

SETTINGS = {"lr": 0.05, "weight_decay": 0.1}


def two_tables() -> tuple[nn.Embedding, nn.Embedding]:
    """The same table with sparse and with dense gradients."""
    torch.manual_seed(0)
    sparse = nn.Embedding(6, 4, sparse=True)
    dense = nn.Embedding(6, 4)
    dense.load_state_dict(sparse.state_dict())
    return sparse, dense


def learn(table: nn.Embedding, optimizer: torch.optim.Optimizer, ids: list[int]) -> None:
    (table(torch.tensor(ids)) * torch.arange(4.0)).pow(2).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_rows_in_every_step_learn_as_with_torchs_adamw():
    sparse, dense = two_tables()
    ours, theirs = RowwiseAdamW([sparse.weight], **SETTINGS), torch.optim.AdamW([dense.weight], **SETTINGS)
    for _ in range(5):
        learn(sparse, ours, [0, 1, 2, 3, 4, 5, 5])
        learn(dense, theirs, [0, 1, 2, 3, 4, 5, 5])
    torch.testing.assert_close(sparse.weight, dense.weight)


def test_rows_that_a_step_does_not_have_keep_weights_and_moments():
    table, _ = two_tables()
    optimizer = RowwiseAdamW([table.weight], **SETTINGS)
    learn(table, optimizer, [0, 1])
    before = table.weight.detach().clone()
    moments = {name: tensor.clone() for name, tensor in optimizer.state[table.weight].items()}
    learn(table, optimizer, [1, 2])
    changed = (table.weight != before).any(dim=1).tolist()
    assert changed == [False, True, True, False, False, False]
    for name in ("exp_avg", "exp_avg_sq"):
        now = optimizer.state[table.weight][name]
        assert torch.equal(now[0], moments[name][0])
        assert not torch.equal(now[1], moments[name][1])


@pytest.mark.parametrize("most", [0.5, 1e6])
def test_clipping_is_that_of_dense_gradients(most):
    (sparse, dense), linear = two_tables(), nn.Linear(4, 1)
    norms, gradients = [], []
    for table in (sparse, dense):
        linear.zero_grad()
        linear(table(torch.tensor([1, 1, 3]))).sum().backward()
        kept = [*table.parameters(), *linear.parameters()]
        norms.append(clip(kept, most) if table is sparse else float(nn.utils.clip_grad_norm_(kept, most)))
        gradients.append([p.grad.to_dense() if p.grad.is_sparse else p.grad.clone() for p in kept])
    assert norms[0] == pytest.approx(norms[1])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
