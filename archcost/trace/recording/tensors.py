"""Tensors and their storages, as the recorders tell them apart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


def is_mixed(tensors: list[torch.Tensor]) -> bool:
    """Whether some tensors are on `meta` and others have values."""
    if len(tensors) < 2:
        return False
    first = tensors[0].is_meta
    return any(tensor.is_meta is not first for tensor in tensors)


def storage_key(tensor: torch.Tensor) -> int:
    """The identity of a storage while it lives; negative for a tensor that has none."""
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):
        return -id(tensor)


def nbytes_of(tensor: torch.Tensor) -> int:
    """Bytes of the whole storage of a tensor; of the elements of one that has none."""
    try:
        return tensor.untyped_storage().nbytes()
    except (NotImplementedError, RuntimeError):
        return tensor.numel() * tensor.element_size()


def flat(values: Iterable[Any]) -> list[torch.Tensor]:
    """The tensors in a structure of tuples and lists, in order."""
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += flat(value)
    return found
