"""Tensors in nested arguments, and the identity and size of their storages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import torch

Returned: TypeAlias = "torch.Tensor | complex | str | Sequence[Returned] | None"
"""The result of an operator."""
Written: TypeAlias = torch.Tensor | Sequence[torch.Tensor]
"""An argument of an operator that it writes into."""


def is_mixed(tensors: list[torch.Tensor]) -> bool:
    """Whether some tensors are on `meta` and others have values."""
    if len(tensors) < 2:
        return False
    first = tensors[0].is_meta
    return any(tensor.is_meta is not first for tensor in tensors)


def storage_key(tensor: torch.Tensor) -> int:
    """An identity of a tensor's storage while it lives; negative for a tensor without storage."""
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):
        return -id(tensor)


def nbytes_of(tensor: torch.Tensor) -> int:
    """Bytes of a tensor's whole storage, or of its elements where it has no storage."""
    try:
        return tensor.untyped_storage().nbytes()
    except (NotImplementedError, RuntimeError):
        return tensor.numel() * tensor.element_size()


def flat(values: Iterable[object]) -> list[torch.Tensor]:
    """The tensors in a structure of tuples and lists, in order."""
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += flat(value)
    return found
