"""The input channels of a layer that it can do without, and what the others must do in their place."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["eliminated", "instead"]

_RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Added to the covariance, as a share of the mean of its diagonal: the least that will do."""
_STEPS = 64
"""Rounds of an elimination, at least: what goes in one is chosen one by one among `_NEAR` times as many."""
_NEAR = 4


def eliminated(
    weight: Tensor, covariance: Tensor, counts: Iterable[int]
) -> dict[int, tuple[tuple[int, ...], float]]:
    """The channels to keep and the error, for each number of them to be kept.

    Backward elimination by least squares: without channel j, where the others are fitted anew, the squared
    error grows by ``tr(W_j inv(P_jj) W_j')``, with P the inverse of the covariance of the channels that are
    left and W their weights, as in B. Hassibi and D. Stork, "Second Order Derivatives for Network Pruning:
    Optimal Brain Surgeon" (NIPS 1992), here for all outputs at once.

    Args:
        weight: (out, in, *taps).
        covariance: of the patches of the layer's input, (in * taps, in * taps).
        counts: how many channels to keep, at least one.

    Returns:
        By count: numbers of the channels, ascending, and the squared error of the layer's output relative to
        its variance.
    """
    outs, ins = weight.shape[:2]
    covariance = _regular(covariance)
    rows = weight.to(torch.float64).reshape(outs, -1)
    taps = rows.shape[1] // ins
    total = max(float(((rows @ covariance) * rows).sum()), 1e-300)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
    left, lost = torch.arange(ins), 0.0
    found: dict[int, tuple[tuple[int, ...], float]] = {}
    for count in sorted(set(counts), reverse=True):
        while len(left) > count:
            few = min(len(left) - count, max(1, ins // _STEPS))
            gone, cost = _least(rows, inverse, taps, few)
            lost += cost
            stay = torch.ones(len(left), dtype=torch.bool)
            stay[gone] = False
            out, rest = (mask.repeat_interleave(taps).nonzero().flatten() for mask in (~stay, stay))
            across = inverse[out][:, rest]
            solved = torch.linalg.solve(inverse[out][:, out], across)
            rows = rows[:, rest] - rows[:, out] @ solved
            inverse = inverse[rest][:, rest] - across.mT @ solved
            left = left[stay]
        found[count] = tuple(left.tolist()), min(lost / total, 1.0)
    return found


def _least(rows: Tensor, inverse: Tensor, taps: int, count: int) -> tuple[list[int], float]:
    """The channels whose loss costs least, one after another, and what they cost together."""
    channels = len(inverse) // taps
    costs = _costs(rows, inverse, taps)
    near = costs.topk(min(channels, _NEAR * count), largest=False).indices.sort().values
    columns = (near[:, None] * taps + torch.arange(taps)).flatten()
    rows, inverse = rows[:, columns], inverse[columns][:, columns]
    gone: list[int] = []
    spent = 0.0
    for _ in range(count):
        costs = _costs(rows, inverse, taps)
        costs[[at for at, one in enumerate(near.tolist()) if one in gone]] = torch.inf
        at = int(costs.argmin())
        spent += float(costs[at])
        gone.append(int(near[at]))
        own = slice(at * taps, (at + 1) * taps)
        solved = torch.linalg.solve(inverse[own, own], inverse[own])
        rows = rows - rows[:, own] @ solved
        inverse = inverse - inverse[:, own] @ solved
        # Its own block is nothing now: as if it were apart from all others.
        inverse[own, own] = torch.eye(taps, dtype=inverse.dtype)
    return gone, spent


def _costs(rows: Tensor, inverse: Tensor, taps: int) -> Tensor:
    """The growth of the squared error without each channel."""
    if taps == 1:
        alone: Tensor = rows.square().sum(0) / inverse.diagonal()
        return alone
    count = len(inverse) // taps
    blocks = inverse.reshape(count, taps, count, taps).diagonal(dim1=0, dim2=2).movedim(-1, 0)
    each = rows.reshape(len(rows), count, taps).transpose(0, 1)
    found: Tensor = torch.linalg.solve(blocks, each.mT @ each)
    return found.diagonal(dim1=1, dim2=2).sum(-1)


def instead(weight: Tensor, covariance: Tensor, keep: Iterable[int]) -> Tensor:
    """The weights (out, in, *taps) of the channels that are kept, with the least squared error."""
    outs, ins, taps = len(weight), weight.shape[1], weight[0, 0].numel()
    stay = torch.zeros(ins, dtype=torch.bool)
    stay[list(keep)] = True
    columns = stay.repeat_interleave(taps).nonzero().flatten()
    covariance = _regular(covariance)
    wanted = covariance[columns] @ weight.to(torch.float64).reshape(outs, -1).mT
    found: Tensor = torch.linalg.solve(covariance[columns][:, columns], wanted).mT
    return found.reshape(outs, -1, *weight.shape[2:])


def _regular(covariance: Tensor) -> Tensor:
    """The covariance with as much on its diagonal as makes it positive definite.

    That of many columns is summed in float32, and has negative eigenvalues of that size.
    """
    covariance = covariance.to("cpu", torch.float64)
    usual = float(covariance.diagonal().mean()) or 1.0
    for ridge in _RIDGES:
        found = covariance + ridge * usual * torch.eye(len(covariance), dtype=torch.float64)
        if not int(torch.linalg.cholesky_ex(found).info):
            break
    return found
