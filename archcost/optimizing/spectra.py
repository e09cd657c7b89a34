"""The error of every rank of a layer's factorisations, from one decomposition each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np
import torch
from torch import Tensor

from archcost.optimizing.statistics import Sampled, Statistics
from archcost.weights.lowrank import root

__all__ = ["Curve", "Table", "curves", "estimated"]

_EXACT = 2**14, 2**18
"""Number of values of a kernel up to which decompositions are in float64: alone, and under a covariance."""
_ALTERNATED = 0.97
"""Squared error of Tucker-2 by alternation over that of the truncated higher-order SVD: the mean, of 0.91 to
0.99, over the layers of five trained networks."""
_ESTIMATED = 768
"""Side above which a spectrum is estimated: LAPACK takes twice as long for 1024, and 10 s for 4096."""


@dataclass(frozen=True, eq=False)
class Curve:
    """The share of a layer's squared output error for each rank: ``lost[r]``."""

    rule: str
    options: dict[str, str]
    option: str
    """The name of the option that is the rank."""
    lost: Tensor

    @property
    def full(self) -> int:
        return len(self.lost) - 1


@dataclass(frozen=True, eq=False)
class Table:
    """As `Curve` for two ranks: ``lost[front, back]``, at least one each."""

    rule: str
    options: dict[str, str]
    lost: Tensor


def curves(kernel: Tensor, seen: Statistics | None, linear: bool = False) -> tuple[list[Curve], Table | None]:
    """The errors of the low-rank families of a kernel, relative to its output's variance.

    With the covariance C of the patches, a kernel W whose rows are outputs loses ``tr(D C D')``, and the best
    D of a rank has the sum of the smallest eigenvalues of ``W C W'`` (reduced-rank regression; the closed
    form of BALF, arXiv 2509.25136). Families that factor other axes take the product of marginal covariances
    in place of C, and are scaled to the error under C itself.

    Args:
        kernel: (groups, out, in, *taps).
        seen: the statistics of the layer's input; None: the identity, weights alone.
    """
    wide = torch.float32 if kernel.numel() > _EXACT[seen is not None] else torch.float64
    kernel = kernel.detach().to("cpu", wide)
    outs, ins = kernel.shape[1:3]
    size = kernel.shape[3:]
    flat = kernel.flatten(2)
    found: list[Curve] = []
    option, rule = ("rank", "low_rank") if linear else ("rank_out", "bottleneck")
    full = min(outs, flat.shape[2])
    by_out = partial(Curve, rule, {} if linear else {"form": "out"}, option)
    if prod(size) == 1:
        return [by_out(_of_rows(flat) if seen is None else _tails(seen.through(flat))[: full + 1])], None
    weighed = kernel
    if seen is not None:
        channels, around = (root(seen.marginal(axes)).to(wide) for axes in ((0,), range(1, 1 + len(size))))
        core = torch.einsum("goik,gij,gkl->gojl", kernel.flatten(3), channels, around)
        weighed = core.reshape(kernel.shape)
    outward, inward = (
        torch.linalg.eigh(_gram(rows.flatten(2))) for rows in (weighed, weighed.transpose(1, 2))
    )
    out = _shares(outward[0]) if seen is None else _tails(seen.through(flat))
    ahead = _shares(inward[0])
    found.append(by_out(out[: full + 1]))
    found.append(Curve("bottleneck", {"form": "in"}, "rank_in", ahead[: min(ins, outs * prod(size)) + 1]))
    between = _between(weighed, outward[1], inward[1]) * (_ALTERNATED if seen is None else 1.0)
    table = Table("bottleneck", {"form": "both"}, between)
    if len(kernel) == 1 and not isinstance(seen, Sampled):  # its weights need the covariance
        # Each input channel is a matrix of its own, (out, taps): depthwise, then 1x1.
        each = kernel[0].flatten(2).transpose(0, 1)
        if seen is not None:
            each = each @ root(seen.marginal(range(1, 1 + len(size)))).to(wide)
        found.append(Curve("separable", {"order": "depthwise-first"}, "terms", _tails(each.mT @ each)))
    if len(size) == 2 and min(size) > 1:
        for name, axis in (("height", 3), ("width", 4)):
            other = 7 - axis
            matrix = weighed
            if seen is not None:  # the marginal over the first stage's own axes, with its channels
                first, second = root(seen.marginal((0, axis - 2))), root(seen.marginal((other - 2,)))
                moved = kernel.permute(0, 1, other, 2, axis)
                moved = torch.einsum("gotn,gtu,gnm->goum", moved.flatten(3), second.to(wide), first.to(wide))
                rows = moved.flatten(1, 2)
            else:
                rows = matrix.permute(0, 1, other, 2, axis).flatten(1, 2).flatten(2)
            found.append(Curve("asymmetric", {"first": name}, "rank", _of_rows(rows)))
    return found, table


def _of_rows(rows: Tensor) -> Tensor:
    """As `_tails` of the smaller Gram matrix of (groups, n, m)."""
    small = rows if rows.shape[1] <= rows.shape[2] else rows.mT
    return estimated(small[0]) if len(small) == 1 and small.shape[1] > _ESTIMATED else _tails(_gram(small))


def _tails(gram: Tensor) -> Tensor:
    """The share of the trace outside of the leading 0, 1, 2 ... eigenvectors, over all groups together."""
    return _shares(torch.linalg.eigvalsh((gram + gram.mT) / 2))


def estimated(matrix: Tensor, probes: int = 2, steps: int = 24, apart: int = 32) -> Tensor:
    """As `_tails` of ``M M'``, within a few per cent, without a decomposition of that size.

    The leading directions by subspace iteration, the density of the other eigenvalues by stochastic Lanczos
    quadrature (S. Ubaru, J. Chen and Y. Saad, SIAM J. Matrix Anal. Appl. 38, 2017, 1075-1099).

    Args:
        matrix: M, (n, m).
        probes: random vectors whose Krylov spaces are averaged.
        steps: dimensions of each.
        apart: number of leading directions.
    """
    rows = len(matrix)
    random = torch.Generator().manual_seed(0)  # the user's random numbers are left alone
    basis = torch.randn(rows, 2 * apart, generator=random).to(matrix)
    for _ in range(3):
        basis = torch.linalg.qr(matrix @ (matrix.mT @ basis))[0]
    values, vectors = torch.linalg.eigh(_gram(basis.mT @ matrix))
    lead, known = values[-apart:], basis @ vectors[:, -apart:]
    starts = torch.randn(probes, rows, generator=random).to(matrix)
    found = [_lanczos(matrix, known, one, steps) for one in starts]
    nodes, shares = (torch.cat(one) for one in zip(*found, strict=True))
    order = nodes.argsort(descending=True)
    counts = torch.cat([torch.ones_like(lead), (rows - apart) / probes * shares[order]]).double()
    sizes = torch.cat([lead.flip(0), nodes[order]]).double().clamp_min(0) * counts
    total = float(sizes.sum()) or 1.0
    ranks, kept = (np.concatenate([[0.0], one.cumsum(0).numpy()]) for one in (counts, sizes))
    lost: Tensor = torch.from_numpy(kept[-1] / total - np.interp(np.arange(rows + 1), ranks, kept / total))
    return lost


def _lanczos(matrix: Tensor, known: Tensor, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the spectral density of ``M M'`` seen from a vector, beside known directions."""
    start = start - known @ (known.mT @ start)
    space, inner, between = (start / start.norm())[None], list[Tensor](), list[Tensor]()
    for _ in range(steps):
        ahead = matrix @ (matrix.mT @ space[-1])
        inner.append(ahead @ space[-1])
        for _ in range(2):  # rounding loses orthogonality
            ahead = ahead - known @ (known.mT @ ahead) - space.mT @ (space @ ahead)
        between.append(ahead.norm())
        space = torch.cat([space, ahead[None] / between[-1].clamp_min(torch.finfo(ahead.dtype).tiny)])
    off = torch.diag(torch.stack(between[:-1]), 1)
    nodes, states = torch.linalg.eigh(torch.diag(torch.stack(inner)) + off + off.mT)
    return nodes, states[0].square()


def _shares(values: Tensor) -> Tensor:
    """As `_tails`, from the eigenvalues, (groups, n)."""
    values = values.double().clamp_min(0).sum(0)
    sums = values.cumsum(-1)
    total = float(sums[-1])
    tails = torch.cat([torch.zeros(1, dtype=torch.float64), sums]).flip(0)
    return tails / total if total else torch.zeros_like(tails)


def _gram(rows: Tensor) -> Tensor:
    return rows @ rows.mT


def _between(kernel: Tensor, outward: Tensor, inward: Tensor) -> Tensor:
    """The share outside of the leading directions of inputs and outputs (truncated higher-order SVD)."""
    turned = torch.einsum("goik,goa->gaik", kernel.flatten(3), outward.flip(-1))
    turned = torch.einsum("gaik,gib->gabk", turned, inward.flip(-1))
    size = turned.square().sum(-1, dtype=torch.float64).sum(0).T  # (in, out)
    kept = size.cumsum(0).cumsum(1)
    total = float(kept[-1, -1])
    whole = torch.zeros(kept.shape[0] + 1, kept.shape[1] + 1, dtype=torch.float64)
    whole[1:, 1:] = kept / total if total else kept
    return (1 - whole).clamp_min(0)
