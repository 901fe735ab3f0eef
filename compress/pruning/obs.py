"""Structured Optimal Brain Surgeon: the output matrix of one sublayer at each width, corrected for removed units.

References: Hassibi and Stork 1992; Frantar and Alistarh 2022; Kurtic et al. 2023, "ZipLM". A unit S is the columns of
one head, or of one neuron, in a matrix W with inputs X. Each step removes the unit whose removal increases the loss
|WX - W'X|² least: the increase is tr(W_S ((H⁻¹)_SS)⁻¹ W_Sᵀ) with H = XXᵀ. The remaining columns of W are updated to
compensate for it. Units are removed one at a time, because of two redundant heads only one may be removed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DAMPING = 1e-3  # of the Gram matrix, as a share of its mean diagonal
CHUNK = 16  # neurons removed in one step: 1,536 rank-one updates take minutes, 96 of rank sixteen take seconds

Units = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PrunedSublayer:
    """One sublayer at one width."""

    kept: Units  # (units kept,), in their original order
    weight: Tensor  # (width, inputs kept)
    bias: Tensor  # (width,)
    error: float  # share of the sublayer's output that is lost: |WX - W'X|² / |WX|²


SublayerWidths = dict[int, PrunedSublayer]  # units kept → the sublayer


def removal_order(weight: Tensor, gram: Tensor, size: int) -> Units:
    """Return all units in order of removal, (units,).

    Args:
        weight: (width, inputs), the output matrix.
        gram: (inputs + 1, inputs + 1), of its inputs and a constant 1, which is never removed.
        size: inputs of one unit: the head size, or 1.
    """
    left, inverse = weight.double(), torch.linalg.inv(damped(gram))
    units = np.arange(weight.shape[1] // size)
    order: list[int] = []
    while len(units):
        # several at once only while many are left: the loss of removing them together is not the sum of their losses
        count = CHUNK if size == 1 and len(units) > 8 * CHUNK else 1
        ranked = np.argsort(_loss_increases(left, inverse, size), kind="stable")
        removed, kept = ranked[:count], np.sort(ranked[count:])
        order += units[removed].tolist()
        out, rest = columns_of(removed, size), columns_of(kept, size)
        across = torch.linalg.solve(inverse[out][:, out], inverse[out])  # (removed, inputs left + 1)
        left = left[:, rest] - left[:, out] @ across[:, rest]
        rest = torch.cat([rest, torch.tensor([len(inverse) - 1])])  # the constant is kept
        inverse = inverse[rest][:, rest] - inverse[rest][:, out] @ across[:, rest]
        units = units[kept]
    return np.array(order)


def prune_to_each_width(
    full: Tensor, gram: Tensor, order: Units, widths: Sequence[int], refit: bool = True
) -> SublayerWidths:
    """Return the sublayer at each of `widths`, with units removed in `order`.

    Args:
        full: (width, inputs + 1), the output matrix with its bias as the last column.
        gram: (inputs + 1, inputs + 1).
        order: every unit once, in order of removal.
        widths: numbers of units to keep.
        refit: whether the remaining weights are corrected by least squares; otherwise they are unchanged.
    """
    inputs_of_all = full.shape[1] - 1
    size, full = inputs_of_all // len(order), full.double()
    total = float((full @ gram * full).sum()) or 1.0
    by_width = {}
    for width in widths:
        kept = np.sort(order[len(order) - width :])
        columns = columns_of(kept, size)
        if width == len(order):
            by_width[width] = PrunedSublayer(kept, full[:, :-1].float(), full[:, -1].float(), 0.0)
            continue
        inputs = torch.cat([columns, torch.tensor([inputs_of_all])])  # and the constant
        solution = least_squares(gram[inputs][:, inputs], full @ gram[:, inputs]) if refit else full[:, inputs]
        lost = full.clone()
        lost[:, inputs] -= solution
        error = float((lost @ gram * lost).sum()) / total
        by_width[width] = PrunedSublayer(kept, solution[:, :-1].float(), solution[:, -1].float(), max(error, 0.0))
    return by_width


def least_squares(gram: Tensor, cross: Tensor) -> Tensor:
    """Return argmin over M of |MX - Y|² from XXᵀ (inputs, inputs) and YXᵀ (outputs, inputs), slightly damped."""
    factor = torch.linalg.cholesky(damped(gram))
    return torch.cholesky_solve(cross.T, factor).T


def damped(gram: Tensor) -> Tensor:
    """Return the Gram matrix plus a ridge that keeps it invertible; the entry of the constant gets almost none."""
    ridge = torch.full((len(gram),), DAMPING * float(gram.diagonal()[:-1].mean()) if len(gram) > 1 else 0.0)
    ridge[-1] = 0.0
    return gram + torch.diag(ridge.double() + 1e-12)


def columns_of(units: Units, size: int) -> Tensor:
    """Return the indices of the inputs, (units * size,), that belong to `units`, (units,)."""
    return torch.from_numpy((units[:, None] * size + np.arange(size)).reshape(-1)).long()


def _loss_increases(weight: Tensor, inverse: Tensor, size: int) -> NDArray[np.float64]:
    """Return the increase of the loss when one unit is removed, for each unit, (units,)."""
    units = weight.shape[1] // size
    if size == 1:
        return (weight.pow(2).sum(0) / inverse.diagonal()[:-1]).numpy()
    blocks = torch.stack([inverse[u * size : (u + 1) * size, u * size : (u + 1) * size] for u in range(units)])
    columns = weight.reshape(len(weight), units, size).permute(1, 2, 0)  # (units, size, width)
    return (torch.linalg.solve(blocks, columns) * columns).sum((1, 2)).numpy()
