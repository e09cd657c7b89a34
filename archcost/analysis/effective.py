"""`effective_field`, which measures the part of its receptive field that a layer's gradient comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from archcost.errors import InputError, SpecError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from archcost.analysis.analysis import Analysis
    from archcost.fields.effective import EffectiveField
    from archcost.fields.witness import Claim
    from archcost.trace.call import Call, Inputs
    from archcost.trace.graph import TensorRef
    from archcost.trace.inputs import InputSize

__all__ = ["effective_field"]


def effective_field(
    model: nn.Module | str | Analysis,
    inputs: Inputs = None,
    layer: str | None = None,
    position: Sequence[int] | int | None = None,
    *,
    call: int | None = None,
    of: int | None = None,
    input_size: InputSize | None = None,
    samples: int = 8,
    share: float = 0.95,
    seed: int = 0,
    signs: bool = False,
    device: str | torch.device | None = None,
) -> EffectiveField:
    """Measure the effective receptive field of a layer (Luo, Li, Urtasun and Zemel, NIPS 2016).

    It is the gradient of a position of the layer's output, summed over its channels, with respect to the
    input: absolute values, summed over the channels of the input, mean over the samples. A copy of the model
    with its weights runs in eval mode and in its own precision (float16 and bfloat16 in float32); the exact
    receptive field beside it is that of eval mode as well. Publications differ in the data, in the sign of
    the channels (see ``signs``) and in the measure of size. Here the size is the side of the smallest square,
    around the centre of the window, with ``share`` of the gradient's sum.

    Args:
        model: a module, a SPEC, or an Analysis.
        inputs: as in `archcost.analyze`; a batch of n images is n samples. By default ``samples`` inputs of
            standard normal numbers, zeros where the dtype is integer.
        layer: as in `archcost.receptive_field`.
        position: as in `archcost.receptive_field`.
        call: which call of a layer that is called several times, from 0; by default the last.
        of: as in `archcost.receptive_field`.
        input_size: the shape of the input, batch included, if ``inputs`` are not given.
        samples: the number of random inputs, if ``inputs`` are not given.
        share: the share of the gradient in the square of side `EffectiveField.side`: above 0, at most 1.
        seed: the seed of random inputs and signs.
        signs: sum the channels with random signs, drawn for each sample. For a layer whose channels sum to
            a constant, such as after a LayerNorm.
        device: the device to measure on; by default that of the model.

    Returns:
        The gradient over the input and the side of the square.

    Raises:
        SpecError: no such layer or position, a layer whose output has no positions, or an invalid share.
        InputError: the inputs do not fit, or their dtype is integer, which has no gradient.
        ModelError: the gradient is missing, 0 or not finite, or the model cannot be copied or run.
    """
    from archcost.analysis.analysis import Analysis, analyze
    from archcost.fields.effective import check_share, measure
    from archcost.trace.call import Call
    from archcost.trace.modules import as_written

    check_share(share)
    if not isinstance(samples, int) or samples < 1:
        raise InputError(f"effective_field: samples is {samples!r}; give a whole number, at least 1")
    if isinstance(model, Analysis):
        if input_size is not None:
            raise InputError("effective_field: an Analysis has its input size; leave input_size out")
        analysis = model
    else:
        analysis = analyze(model, inputs, input_size=input_size, progress=False)
    source = as_written(analysis.model)
    analysis = _in_eval_mode(analysis, source)
    claim = _chosen(analysis, source, layer, position, call, of)
    if inputs is not None:
        passes = [Call.of(inputs)]
        _check_size(passes[0], claim)
    else:
        passes = _drawn(analysis, samples, seed)
    return measure(source, passes, claim, share=share, signs=signs, seed=seed, device=device)


def _in_eval_mode(analysis: Analysis, source: nn.Module) -> Analysis:
    """The Analysis of the model in eval mode, in which the gradient is measured."""
    from archcost.analysis.analysis import analyze
    from archcost.trace.call import like_traced
    from archcost.trace.modules import walk
    from archcost.trace.state import Untouched

    if not any(module.training for module in analysis.trace.modules.values()):
        return analysis
    call = like_traced(analysis.trace)
    with Untouched(walk(source)):
        try:
            source.eval()
        except NotImplementedError:  # an exported module has a single mode
            return analysis
        return analyze(source, call, progress=False)


def _chosen(
    analysis: Analysis,
    source: nn.Module,
    layer: str | None,
    position: Sequence[int] | int | None,
    call: int | None,
    of: int | None,
) -> Claim:
    """The receptive field to measure, and where the model computes the layer's output."""
    fields = analysis.fields
    field = fields.select(layer, position, call, of)
    if field.calls:
        call = sum(made.module == field.layer for made in analysis.trace.calls) - 1
        field = fields.at(field.layer, position, call, of)
    if not field.position:
        at = "the model's output" if not field.layer else f"the output of {field.layer!r}"
        raise SpecError(
            f"effective_field: {at} has no spatial positions; name a layer before the pooling or flattening"
        )
    claim = fields.claim(field, call, source)
    if claim.op is not None:
        raise SpecError(
            f"effective_field: the last spatial map, of {field.layer}, is made inside a forward, where no "
            f"hook finds it: name a layer before it, or give the model as it was before torch.jit or "
            f"torch.export"
        )
    return claim


def _check_size(call: Call, claim: Claim) -> None:
    from archcost.trace.inputs import check_tensors

    check_tensors(call)
    field, dims = claim.field, claim.dims
    tensors = call.tensors
    shape = tuple(tensors[field.input_index].shape) if len(tensors) > field.input_index else ()
    fits = len(shape) > max(dims) and tuple(shape[d] for d in dims) == field.input_size
    if not fits:
        wanted = "x".join(map(str, field.input_size))
        raise InputError(
            f"effective_field: input {field.input_index} has shape {shape}, but the Analysis is of "
            f"{wanted} pixels; give inputs of that size, or the model instead of its Analysis"
        )


def _drawn(analysis: Analysis, samples: int, seed: int) -> list[Call]:
    """Calls with inputs of the traced shapes: standard normal numbers, zeros for integer dtypes."""
    import torch

    from archcost.trace.call import like_traced

    generator = torch.Generator().manual_seed(seed)

    def drawn(ref: TensorRef) -> torch.Tensor:
        if ref.dtype.is_floating_point or ref.dtype.is_complex:
            kind = torch.complex64 if ref.dtype.is_complex else torch.float32
            return torch.randn(ref.shape, generator=generator, dtype=kind).to(ref.dtype)
        return torch.zeros(ref.shape, dtype=ref.dtype)

    return [like_traced(analysis.trace, drawn) for _ in range(samples)]
