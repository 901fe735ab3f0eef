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
COMPACT = 0.75  # share of the columns below which the matrices lose the removed ones
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
    left = weight.double().clone()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped(gram)))
    units = np.arange(weight.shape[1] // size)  # those that the matrices have
    places = units  # of the units that are left, in the matrices
    order: list[int] = []
    while len(places):
        # several at once only while many are left: the loss of removing them together is not the sum of their losses
        count = CHUNK if size == 1 and len(places) > 8 * CHUNK else 1
        ranked = places[np.argsort(_loss_increases(left, inverse, size, places), kind="stable")]
        removed, places = ranked[:count], np.sort(ranked[count:])
        order += units[removed].tolist()
        out = columns_of(removed, size)
        across = torch.linalg.solve(inverse[out][:, out], inverse[out])  # (removed, inputs + 1)
        left.addmm_(left[:, out], across[:, :-1], alpha=-1)
        inverse.addmm_(inverse[:, out], across, alpha=-1)
        if len(places) < COMPACT * len(units):  # at every step it would take longer than the two updates
            rest = columns_of(places, size)
            left = left[:, rest]
            rest = torch.cat([rest, torch.tensor([len(inverse) - 1])])  # the constant is kept
            inverse = inverse[rest][:, rest]
            units, places = units[places], np.arange(len(places))
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
    cross = full @ gram  # (width, inputs + 1)
    total = float((cross * full).sum())
    by_width = {}
    for width in widths:
        kept = np.sort(order[len(order) - width :])
        columns = columns_of(kept, size)
        if width == len(order):
            by_width[width] = PrunedSublayer(kept, full[:, :-1].float(), full[:, -1].float(), 0.0)
            continue
        inputs = torch.cat([columns, torch.tensor([inputs_of_all])])  # and the constant
        own, wanted = gram[inputs][:, inputs], cross[:, inputs]
        solution = least_squares(own, wanted) if refit else full[:, inputs]
        # |WX - MX|² = tr(W XXᵀ Wᵀ) - 2 tr(M XXᵀ Wᵀ) + tr(M XXᵀ Mᵀ); the ridge gives M XXᵀ = W XXᵀ - M diag(ridge)
        product = wanted - solution * ridge(own) if refit else solution @ own
        lost = total - 2 * float((solution * wanted).sum()) + float((product * solution).sum())
        error = max(lost, 0.0) / (total or 1.0)
        by_width[width] = PrunedSublayer(kept, solution[:, :-1].float(), solution[:, -1].float(), error)
    return by_width


def least_squares(gram: Tensor, cross: Tensor) -> Tensor:
    """Return argmin over M of |MX - Y|² from XXᵀ (inputs, inputs) and YXᵀ (outputs, inputs), slightly damped."""
    factor = torch.linalg.cholesky(damped(gram))
    return torch.cholesky_solve(cross.T, factor).T


def damped(gram: Tensor) -> Tensor:
    """Return the Gram matrix plus a ridge that keeps it invertible."""
    return gram + torch.diag(ridge(gram))


def ridge(gram: Tensor) -> Tensor:
    """Return what `damped` adds to the diagonal, (inputs,); the entry of the constant, the last, gets almost none."""
    added = torch.full((len(gram),), DAMPING * float(gram.diagonal()[:-1].mean()) if len(gram) > 1 else 0.0)
    added[-1] = 0.0
    return added.double() + 1e-12


def columns_of(units: Units, size: int) -> Tensor:
    """Return the indices of the inputs, (units * size,), that belong to `units`, (units,)."""
    return torch.from_numpy((units[:, None] * size + np.arange(size)).reshape(-1)).long()


def _loss_increases(weight: Tensor, inverse: Tensor, size: int, places: Units) -> NDArray[np.float64]:
    """Return the increase of the loss when one unit is removed, for each of the units `places`, (places,)."""
    if size == 1:
        columns = torch.from_numpy(places)
        return (weight.pow(2).sum(0) / inverse.diagonal()[:-1])[columns].numpy()
    blocks = torch.stack([inverse[u * size : (u + 1) * size, u * size : (u + 1) * size] for u in places.tolist()])
    columns = weight.reshape(len(weight), -1, size)[:, places].permute(1, 2, 0)  # (places, size, width)
    return (torch.linalg.solve(blocks, columns) * columns).sum((1, 2)).numpy()
