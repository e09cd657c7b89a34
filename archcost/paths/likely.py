"""Which paths paper gives a chance to be the fastest here: what is not worth the time of measuring it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from archcost.spec import ConvSpec

if TYPE_CHECKING:
    import torch

    from archcost.paths.path import ExecutionPath

__all__ = ["likely"]

_OF_A_FAMILY = 3
# What is parted into phases has more to do than to multiply.
_PARTED = 0.7


def likely(
    spec: ConvSpec, paths: Iterable[ExecutionPath], dtype: torch.dtype
) -> tuple[list[ExecutionPath], dict[str, str]]:
    """PyTorch's own, and of each family of compiled paths those with the fewest multiplications; and by
    name, the reason against each of the others. All of them support the convolution."""
    kept: list[ExecutionPath] = []
    refused: dict[str, str] = {}
    families: dict[str, list[tuple[int, ExecutionPath]]] = {}
    for path in paths:
        runs = path.implementation(spec, dtype)
        count = path.multiplications(spec) + path.transform_multiplications(spec)
        if runs == "PyTorch":
            kept.append(path)
        elif runs == "tensor operations":
            refused[path.name] = "no compiled kernel runs it here"
        elif runs == "partly compiled" and count > _PARTED * spec.macs:
            refused[path.name] = "it saves too few multiplications"
        else:
            families.setdefault(path.name.rstrip("0123456789"), []).append((count, path))
    for several in families.values():
        ordered = [path for _, path in sorted(several, key=lambda one: one[0])]
        kept += ordered[:_OF_A_FAMILY]
        refused |= {path.name: "others of its kind multiply less" for path in ordered[_OF_A_FAMILY:]}
    return kept, refused
