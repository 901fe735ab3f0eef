"""Ladder: one sublayer at each width it may keep, the output matrix corrected for what is gone.

Structured Optimal Brain Surgeon (Hassibi and Stork 1992; Frantar and Alistarh 2022; Kurtic et al. 2023, "ZipLM"): of
a matrix W with inputs X, the unit S (a head's columns, or one neuron's) whose loss costs least is removed,
|WX - W'X|² rising by tr(W_S ((H⁻¹)_SS)⁻¹ W_Sᵀ) with H = XXᵀ; the rest of W makes up for it. One unit after the other,
because of two heads that do the same either may go, but not both.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DAMPING = 1e-3  # of the Gram matrix, as a share of its mean diagonal
CHUNK = 16  # single neurons that go at once: 1,536 rank-one updates take minutes, 96 of rank sixteen seconds

Units = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Rung:
    """One width of a sublayer."""

    kept: Units  # (units left,), in their old order
    weight: Tensor  # (width, inputs left)
    bias: Tensor  # (width,)
    error: float  # share of the sublayer's output that is lost: |WX - W'X|² / |WX|²


Ladder = dict[int, Rung]  # units left → the sublayer


def removal_order(weight: Tensor, gram: Tensor, size: int) -> Units:
    """Return the units in the order in which they go, (units,).

    Args:
        weight: (width, inputs), the output matrix.
        gram: (inputs + 1, inputs + 1), of its inputs and a constant 1, which stays.
        size: inputs of one unit: the head size, or 1.
    """
    left, inverse = weight.double(), torch.linalg.inv(damped(gram))
    alive = np.arange(weight.shape[1] // size)
    order: list[int] = []
    while len(alive):
        # many at once only while many are left: their joint loss is not the sum of their own
        count = CHUNK if size == 1 and len(alive) > 8 * CHUNK else 1
        ranked = np.argsort(_scores(left, inverse, size), kind="stable")
        gone, stay = ranked[:count], np.sort(ranked[count:])
        order += alive[gone].tolist()
        out, kept = columns_of(gone, size), columns_of(stay, size)
        across = torch.linalg.solve(inverse[out][:, out], inverse[out])  # (gone, inputs left + 1)
        left = left[:, kept] - left[:, out] @ across[:, kept]
        kept = torch.cat([kept, torch.tensor([len(inverse) - 1])])  # the constant stays
        inverse = inverse[kept][:, kept] - inverse[kept][:, out] @ across[:, kept]
        alive = alive[stay]
    return np.array(order)


def build_ladder(full: Tensor, gram: Tensor, order: Units, widths: Sequence[int], refit: bool = True) -> Ladder:
    """Return the sublayer at each of `widths`, when units go in `order`.

    Args:
        full: (width, inputs + 1), the output matrix with its bias as the last column.
        gram: (inputs + 1, inputs + 1).
        order: every unit once, the first to go first.
        widths: units left.
        refit: whether what stays is corrected, by least squares; else it is as it was.
    """
    inputs_of_all = full.shape[1] - 1
    size, full = inputs_of_all // len(order), full.double()
    total = float((full @ gram * full).sum()) or 1.0
    ladder = {}
    for width in widths:
        kept = np.sort(order[len(order) - width :])
        columns = columns_of(kept, size)
        if width == len(order):
            ladder[width] = Rung(kept, full[:, :-1].float(), full[:, -1].float(), 0.0)
            continue
        inputs = torch.cat([columns, torch.tensor([inputs_of_all])])  # and the constant
        found = least_squares(gram[inputs][:, inputs], full @ gram[:, inputs]) if refit else full[:, inputs]
        lost = full.clone()
        lost[:, inputs] -= found
        error = float((lost @ gram * lost).sum()) / total
        ladder[width] = Rung(kept, found[:, :-1].float(), found[:, -1].float(), max(error, 0.0))
    return ladder


def least_squares(gram: Tensor, cross: Tensor) -> Tensor:
    """Return argmin over M of |MX - Y|² from XXᵀ (inputs, inputs) and YXᵀ (outputs, inputs), slightly damped."""
    factor = torch.linalg.cholesky(damped(gram))
    return torch.cholesky_solve(cross.T, factor).T


def damped(gram: Tensor) -> Tensor:
    """Return the Gram matrix with a ridge that keeps it invertible; the constant's own entry stays as it is."""
    ridge = torch.full((len(gram),), DAMPING * float(gram.diagonal()[:-1].mean()) if len(gram) > 1 else 0.0)
    ridge[-1] = 0.0
    return gram + torch.diag(ridge.double() + 1e-12)


def columns_of(units: Units, size: int) -> Tensor:
    """Return the inputs (units * size,) that belong to units (units,)."""
    return torch.from_numpy((units[:, None] * size + np.arange(size)).reshape(-1)).long()


def _scores(weight: Tensor, inverse: Tensor, size: int) -> NDArray[np.float64]:
    """Return by how much the loss rises when one unit goes, (units,)."""
    units = weight.shape[1] // size
    if size == 1:
        return (weight.pow(2).sum(0) / inverse.diagonal()[:-1]).numpy()
    blocks = torch.stack([inverse[u * size : (u + 1) * size, u * size : (u + 1) * size] for u in range(units)])
    turned = weight.reshape(len(weight), units, size).permute(1, 2, 0)  # (units, size, width)
    return (torch.linalg.solve(blocks, turned) * turned).sum((1, 2)).numpy()
