"""The numbers of a merge: the layers' own weights, put together in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from archcost.errors import RewriteError
from archcost.rewriting.merging.affine import Linear, linear
from archcost.rewriting.merging.branches import affine_of, branches_of, convolution_of
from archcost.rewriting.movable import norm_problem
from archcost.rewriting.surgery.refusals import is_convolution
from archcost.spec import ConvSpec

__all__ = ["merged_block", "merged_row"]


def merged_row(layers: Sequence[tuple[str, nn.Module]], spec: ConvSpec) -> Linear:
    """Of convolutions and batch normalisations, one after another; ``spec`` has the size of the input.

    Raises:
        RewriteError: they are no longer what can be merged, as in training mode.
    """
    name, module = layers[0]
    whole: Linear | str = linear(*convolution_of(module, tuple(spec.input_size), True))
    for name, module in layers[1:]:
        assert isinstance(whole, Linear)
        if is_convolution(module):
            size = whole.spec(spec.input_size).output_size
            whole = whole.convolved(*convolution_of(module, size, True))
            if isinstance(whole, str):
                raise RewriteError(f"{name} {whole}")
            continue
        why = norm_problem(module)
        if why is not None:
            raise RewriteError(f"{name} cannot be merged: it {why}")
        whole = whole.scaled(*affine_of(module))
    assert isinstance(whole, Linear)
    return whole


def merged_block(name: str, block: nn.Module, spec: ConvSpec) -> Linear:
    """Of a module that sums branches: traced once more by itself, on meta, with nothing computed.

    Raises:
        RewriteError: it is no longer what can be merged, as in training mode.
    """
    from archcost.trace.run import record

    dtype = next((p.dtype for p in block.parameters()), torch.float32)
    x = torch.empty(spec.batch, spec.in_channels, *spec.input_size, dtype=dtype, device="meta")
    trace = record(block, x, progress=False)
    found = branches_of(trace, block, trace.calls[0], {}, weights=True)
    if isinstance(found, str):
        raise RewriteError(f"{name} cannot be merged: it {found}")
    return found.whole
