"""A kernel as a stack of smaller kernels: their sizes and first weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import gcd, prod

import torch

from archcost.rewriting.rules.linear import of_group
from archcost.spec import ConvSpec
from archcost.weights.lowrank import balanced, truncated

__all__ = ["exact_middle", "jumps", "parted", "stages"]


def stages(spec: ConvSpec) -> list[tuple[int, ...]]:
    """Kernel sizes of the stages, the strided first; each axis independently, 1 once it is finished."""
    columns = (spec.kernel_size, jumps(spec))
    per_axis = [_along_one(k, jump) for k, jump in zip(*columns, strict=True)]
    deep = max(map(len, per_axis))
    filled = [row + [1] * (deep - len(row)) for row in per_axis]
    return [tuple(row[i] for row in filled) for i in range(deep)]


def jumps(spec: ConvSpec) -> tuple[int, ...]:
    """Distance between the taps of later stages in taps of the layer, by axis."""
    columns = (spec.stride, spec.dilation)
    return tuple(s // gcd(s, d) for s, d in zip(*columns, strict=True))


def _along_one(taps: int, jump: int) -> list[int]:
    """Kernel sizes of 3, and a 2 last, with the field of ``taps``; ``[taps]`` where there are none.

    Behind a first stage of k1 taps the others reach ``(taps - k1) / jump`` further. That has to be a whole
    number, and k1 at least the jump, or the stages would miss taps of the layer.
    """
    if taps <= 3:
        return [taps]
    first = 3 if jump == 1 else jump + (taps - jump) % jump
    first = max(first, 2)
    rest, left = divmod(taps - first, jump)
    if left or rest < 1:
        return [taps]
    return [first] + [3] * (rest // 2) + [2] * (rest % 2)


def exact_middle(spec: ConvSpec) -> int:
    """Middle channels of a group at which every kernel is exact: 4 min(I, O) for 5x5."""
    ins, outs = of_group(spec)
    kernels, jump, size = stages(spec), jumps(spec), spec.kernel_size
    shifts = [_shifts(k, b, j) for k, b, j in zip(size, kernels[-1], jump, strict=True)]
    channels = ins * prod(len(front) for front, _ in shifts)
    if len(kernels) > 2:
        return channels
    return min(channels, outs * prod(len(back) for _, back in shifts))


def parted(
    kernel: torch.Tensor, back: Sequence[int], jump: Sequence[int], middle: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Split a kernel into a first stage and a last stage of ``back`` taps, ``jump`` apart.

    Every tap x = u + jump t of the layer is spread over pairs of a tap u of the first and t of the last
    stage: evenly, or over so few pairs that ``middle`` channels are exact where that is possible. The SVD of
    the matrix (out, t) x (in, u) gives both stages.

    Args:
        kernel: (groups, out, in, *size).

    Returns:
        The last stage, (groups, out, middle, *back), and the first, (groups, middle, in, *its size).
    """
    groups, outs, ins, *size = kernel.shape
    front = [k - j * (b - 1) for k, b, j in zip(size, back, jump, strict=True)]
    shifts = [_shifts(k, b, j) for k, b, j in zip(size, back, jump, strict=True)]
    few_in, few_out = (prod(len(pair[side]) for pair in shifts) for side in (0, 1))
    share = torch.ones((), dtype=kernel.dtype)
    place = torch.zeros((), dtype=torch.long)
    for axis, (b_taps, f_taps, j) in enumerate(zip(back, front, jump, strict=True)):
        keep = (0 if middle >= ins * few_in else 1) if middle >= min(ins * few_in, outs * few_out) else None
        part = _shares(size[axis], b_taps, f_taps, j, keep, shifts[axis])
        share = share[..., None, None] * part
        at = j * torch.arange(b_taps)[:, None] + torch.arange(f_taps)
        place = place[..., None, None] * size[axis] + at
    axes = len(size)
    order = (*range(0, 2 * axes, 2), *range(1, 2 * axes, 2))
    share, place = (table.permute(order).reshape(prod(back), prod(front)) for table in (share, place))
    lifted = kernel.flatten(3)[..., place.to(kernel.device)] * share.to(kernel)
    matrix = lifted.transpose(2, 3).reshape(groups, outs * prod(back), ins * prod(front))
    rank = min(middle, *matrix.shape[-2:])
    b, a = balanced(*truncated(matrix, rank))
    if rank < middle:  # spare channels: no effect yet, but trainable
        spare = a.norm(dim=-1).mean() / a.shape[-1] ** 0.5
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(groups, middle - rank, a.shape[-1], dtype=torch.float64, generator=generator)
        a = torch.cat([a, spare * noise.to(a)], 1)
        b = torch.cat([b, b.new_zeros(groups, b.shape[1], middle - rank)], 2)
    last = b.reshape(groups, outs, prod(back), middle).transpose(2, 3)
    return last.reshape(groups, outs, middle, *back), a.reshape(groups, middle, ins, *front)


def _shares(
    size: int, back: int, front: int, jump: int, keep: int | None, shifts: tuple[list[int], list[int]]
) -> torch.Tensor:
    """The shares (back, front) of tap u + jump t that pairs get, along one axis."""
    table = torch.zeros(back, front, dtype=torch.float64)
    pairs: Iterator[tuple[int, int]] = product(range(back), range(front))
    taken: set[int] = set()
    for t, u in pairs:
        x = u + jump * t
        if keep is None:
            table[t, u] = 1
        elif x not in taken and (u in shifts[0] if keep == 0 else t in shifts[1]):
            table[t, u] = 1
            taken.add(x)
    if keep is None:
        index = jump * torch.arange(back)[:, None] + torch.arange(front)
        table = table / torch.bincount(index.flatten(), minlength=size)[index]
    return table


def _shifts(size: int, back: int, jump: int) -> tuple[list[int], list[int]]:
    """The fewest taps u of the first stage, and t of the last, that reach every tap with all of the other."""
    front = size - jump * (back - 1)
    ahead: list[int] = []
    for phase in range(min(jump, size)):
        most = (size - 1 - phase) // jump - (back - 1)
        ahead += [phase + jump * min(q, most) for q in range(0, most + back, back)]
    behind: list[int] = []
    reached = 0
    while reached < size:
        behind.append(min(reached // jump, back - 1))
        reached = jump * behind[-1] + front
    return sorted(set(ahead)), behind
