"""Kinds of measurement: what was timed, and in which surroundings. Times of two kinds are never compared.

In files of version 1, and lines exported from them, the kind is part of the path's name.
"""

from __future__ import annotations

__all__ = ["CHAIN", "COLD", "IN_MODEL", "OLD_LAYERS", "PATH", "ROOFLINE", "STEP", "kind_and_path"]

PATH = "path"
"""A convolution alone on one path, its input in the caches."""
COLD = "cold"
"""A convolution alone on one path, each call with another input, from beyond the caches."""
IN_MODEL = "in a model"
"""A convolution whose input was just written and whose weights have left the nearer caches, as in a model."""
CHAIN, OLD_LAYERS = "chain", "before chain"
"""The new layers of a proposal, and the old layers in turns with them; the path is a digest of the pair."""
ROOFLINE = "roofline"
"""The machine's peak and bandwidths; the paths are those of `archcost.latency.prediction.roofline`."""
STEP = "step"
"""A layer as steps of an accelerated model's program; the path is the variant, and what is fused into it."""

_MARK = f", {IN_MODEL}"


def kind_and_path(name: str) -> tuple[str, str]:
    """Kind and path from a path's name of version 1.

    >>> kind_and_path("winograd-4, cold"), kind_and_path("before chain 0123456789ab")
    (('cold', 'winograd-4'), ('before chain', '0123456789ab'))
    """
    if _MARK in name:
        return IN_MODEL, name.replace(_MARK, "", 1)
    for kind, before, after in ((COLD, "", ", cold"), (ROOFLINE, "roofline-", "")):
        if name.startswith(before) and name.endswith(after):
            return kind, name.removeprefix(before).removesuffix(after)
    for kind in (OLD_LAYERS, CHAIN):
        if name.startswith(f"{kind} "):
            return kind, name.removeprefix(f"{kind} ")
    return PATH, name
