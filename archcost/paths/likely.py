"""Which paths paper gives a chance to be the fastest here: what is not worth the time of measuring it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from archcost.spec import ConvSpec

if TYPE_CHECKING:
    import torch

    from archcost.paths.path import ExecutionPath

__all__ = ["likely", "without_kernel"]

_OF_A_FAMILY = 3
# Without a compiled kernel, what multiplies so many times less than the definition is worth a look.
_FEWER = 5
# What multiplies so many times more than another compiled path can be far too slow to be called even once.
_MORE = 20
_NO_KERNEL = "no compiled kernel runs it here"
# What is parted into phases has more to do than to multiply.
_PARTED = 0.7


def likely(
    spec: ConvSpec, paths: Iterable[ExecutionPath], dtype: torch.dtype
) -> tuple[list[ExecutionPath], dict[str, str]]:
    """PyTorch's own, and of each family of compiled paths those with the fewest multiplications; likewise of
    tensor operations those with a fifth of the definition's at most; and by name, the reason against each of
    the others. All of them support the convolution."""
    kept: list[ExecutionPath] = []
    refused: dict[str, str] = {}
    counted: list[tuple[int, bool, ExecutionPath]] = []
    for path in paths:
        runs = path.implementation(spec, dtype)
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
            refused[path.name] = f"another multiplies {_MORE} times less"
        elif len(family) == _OF_A_FAMILY:
            refused[path.name] = "others of its kind multiply less"
        else:
            family.append(path)
    return [*kept, *(path for family in families.values() for path in family)], refused


def without_kernel(refused: Mapping[str, str]) -> str:
    """How many were left out because no compiled kernel runs them, as words to add to a verdict; or none."""
    count = sum(why.startswith(_NO_KERNEL) for why in refused.values())
    return f"; {count} without a compiled kernel were not timed" if count else ""
