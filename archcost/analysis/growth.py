"""The receptive field of each layer over the depth of a model."""

from __future__ import annotations

from typing import NamedTuple

from archcost.analysis.traced import TracedModel

__all__ = ["DepthPoint", "field_steps"]

# Layers are operations with weights or windows; normalisations and activation functions see no more.
_KINDS = frozenset({"convolution", "pool", "matmul", "attention", "recurrent"})


class DepthPoint(NamedTuple):
    """The receptive field of a layer at its place in the order of execution."""

    module: str
    size: int
    """Pixels of the input, the largest over the axes."""
    is_global: bool
    """Whether the exact receptive field is the whole input."""


def field_steps(analysis: TracedModel) -> list[DepthPoint]:
    """The layers whose outputs are spatial maps, in order of execution.

    Where an operation over the full extent makes the receptive field global, the size is that with the
    operation taken as a constant (`ReceptiveField.local`).
    """
    from archcost.fields.replay.read import is_map, read_field

    fields = analysis.fields
    found = []
    for cost in analysis.operations:
        seen = fields.replay.ops[cost.op.index] if cost.kind in _KINDS else None
        for inputs in fields.inputs:
            if seen is not None and is_map(seen, inputs):
                field = read_field(analysis.trace, seen, inputs, cost.module)
                size = max(field.local.size) or max(field.size)
                found.append(DepthPoint(cost.module, size, field.is_global))
                break
    return found
