"""The weights of merged layers, composed in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from archcost.errors import Refusal, RewriteError
from archcost.merging.affine import Affine, identity
from archcost.merging.branches import affine_of, branches_of, convolution_of
from archcost.merging.norms import norm_problem
from archcost.merging.transposed import Transposed, begun
from archcost.spec import ConvSpec
from archcost.surgery.refusals import is_convolution
from archcost.trace.dataflow import Dataflow
from archcost.trace.run import record

__all__ = ["merged_block", "merged_row"]


def merged_row(
    layers: Sequence[tuple[str, nn.Module]], spec: ConvSpec, first: nn.Module | None = None
) -> Affine | Transposed:
    """Convolutions and batch normalisations in a row as a single convolution, with weights in float64.

    Args:
        layers: names and modules in order, a convolution first.
        spec: the first convolution, with the size of its input.
        first: a batch normalisation before all of them.

    Raises:
        RewriteError: the layers cannot be merged, as in training mode.
    """
    name, module = layers[0]
    size = tuple(spec.input_size)
    if first is None:
        whole: Affine | Transposed | Refusal = begun(*convolution_of(module, size, True))
    else:
        _check(f"the batch normalisation before {name}", first)
        before = identity(spec.in_channels, len(size), True).scaled(*affine_of(first))
        whole = before.convolved(*convolution_of(module, size, True))
    for name, module in layers[1:]:
        if isinstance(whole, Refusal):
            break
        if is_convolution(module):
            size = whole.spec(spec.input_size).output_size
            whole = whole.convolved(*convolution_of(module, size, True))
            continue
        _check(name, module)
        whole = whole.scaled(*affine_of(module))
    if isinstance(whole, Refusal):
        raise RewriteError(f"{name} {whole}")
    return whole


def _check(name: str, norm: nn.Module) -> None:
    why = norm_problem(norm)
    if why is not None:
        raise RewriteError(f"{name} cannot be merged: it {why}")


def merged_block(name: str, block: nn.Module, spec: ConvSpec) -> Affine:
    """A module that sums branches as a single convolution, with weights; traced on meta, nothing is computed.

    Raises:
        RewriteError: the module cannot be merged, as in training mode.
    """
    dtype = next((p.dtype for p in block.parameters()), torch.float32)
    x = torch.empty(spec.batch, spec.in_channels, *spec.input_size, dtype=dtype, device="meta")
    trace = record(block, x, progress=False)
    found = branches_of(Dataflow(trace), block, trace.calls[0], weights=True)
    if isinstance(found, Refusal):
        raise RewriteError(f"{name} cannot be merged: it {found}")
    return found.whole
