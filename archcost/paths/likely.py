"""The paths that may be the fastest, by their counts alone: the others are not worth measuring."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from archcost.spec import ConvSpec

if TYPE_CHECKING:
    import torch

    from archcost.paths.path import ExecutionPath

__all__ = ["likely", "without_kernel"]

_OF_A_FAMILY = 3
# A path without a compiled kernel is worth timing if it multiplies 5 times less than the definition.
_FEWER = 5
# A path that multiplies 20 times more than another compiled path may be too slow to be called even once.
_MORE = 20
_NO_KERNEL = "no compiled kernel runs it here"
# A convolution in phases has more work than its multiplications.
_PARTED = 0.7


def likely(
    spec: ConvSpec, paths: Iterable[ExecutionPath], dtype: torch.dtype
) -> tuple[list[ExecutionPath], dict[str, str]]:
    """The paths worth timing, and the reason against each of the others by its name.

    Those of PyTorch; of each family of compiled paths the three with the fewest multiplications; likewise of
    tensor operations, where they take a fifth of the definition's multiplications at most.

    Args:
        spec: the convolution.
        paths: paths that support it.
        dtype: of input and weights.
    """
    kept: list[ExecutionPath] = []
    refused: dict[str, str] = {}
    counted: list[tuple[int, bool, ExecutionPath]] = []
    for path in paths:
        runs = path.implementation(spec, dtype)
        if runs == "tensor operations" and path.reads_blocks(spec, dtype):
            runs = "compiled"
        count = path.multiplications(spec) + path.transform_multiplications(spec)
        if runs == "PyTorch":
            kept.append(path)
        elif runs == "tensor operations" and _FEWER * count > spec.macs:
            refused[path.name] = _NO_KERNEL
        elif runs == "partly compiled" and count > _PARTED * spec.macs:
            refused[path.name] = "it saves too few multiplications"
        else:
            counted.append((count, runs == "tensor operations", path))
    fewest = min((count for count, tensors, _ in counted if not tensors), default=0)
    families: dict[tuple[str, bool], list[ExecutionPath]] = {}
    for count, tensors, path in sorted(counted, key=lambda one: (one[1], one[0])):
        family = families.setdefault((path.name.rstrip("0123456789"), tensors), [])
        if not tensors and count > _MORE * fewest:
            refused[path.name] = f"another path multiplies {_MORE} times less"
        elif len(family) == _OF_A_FAMILY:
            refused[path.name] = "others of its kind multiply less"
        else:
            family.append(path)
    return [*kept, *(path for family in families.values() for path in family)], refused


def without_kernel(refused: Mapping[str, str]) -> str:
    """A clause with the number of paths skipped for want of a compiled kernel; empty where there are none."""
    count = sum(why.startswith(_NO_KERNEL) for why in refused.values())
    return f"; {count} without a compiled kernel were not timed" if count else ""
