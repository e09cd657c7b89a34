"""Depth: weighted layers and activation functions on the longest path through the data flow."""

from __future__ import annotations

from archcost.cost.registry import Count
from archcost.trace.graph import Op, PackedWeights, Trace, refs
from archcost.trace.schema import arguments

_LAYERS = {"convolution", "matmul", "recurrent"}
_ADDS_TO = {"aten.addmm", "aten.addmv", "aten.addbmm", "aten.baddbmm", "aten._addmm_activation"}
# Fused operators with several layers: (weighted layers, activation functions) on their longest path.
_HOLDS = {"aten._native_multi_head_attention": (2, 1), "aten._transformer_encoder_layer_fwd": (4, 2)}
_RECURRENT = {"aten.lstm.input", "aten.gru.input", "aten.rnn_tanh.input", "aten.rnn_relu.input"}


def depends_on_input(trace: Trace) -> list[bool]:
    """Whether the result of each operation depends on the model's input, and not on weights alone."""
    from_input = {s.index for s in trace.storages if s.origin == "input"}
    if not from_input:  # a model that makes its own input
        return [True] * len(trace.ops)
    depends = [False] * len(trace.ops)
    for op in trace.ops:
        depends[op.index] = any(depends[i] for i in op.fed_by) or any(s in from_input for s in op.reads)
    return depends


def is_weighted(op: Op, count: Count, trace: Trace, depends: list[bool]) -> bool:
    """Whether an operation is a weighted layer: a product of an activation with a weight.

    Products of two activations (attention) and of two weights (low-rank or normalised weights) are not.
    """
    if not depends[op.index]:
        return False
    if op.base in _HOLDS:
        return True
    if count.kind not in _LAYERS or not count.macs:
        return False
    if any(isinstance(arg, PackedWeights) for arg in op.args):
        return True
    # The first argument of these operators is added to the product.
    factors = op.args[1:3] if op.base in _ADDS_TO else op.args
    return any(_is_weight(ref.storage, trace, depends) for ref in refs(factors))


def _is_weight(storage: int, trace: Trace, depends: list[bool]) -> bool:
    found = trace.storages[storage]
    if found.origin in ("parameter", "buffer"):
        return True
    # Computed from parameters: weight standardisation, a spectral norm, a fused kernel.
    if found.created_by is None or depends[found.created_by]:
        return False
    maker = trace.ops[found.created_by]
    return bool(maker.fed_by or maker.reads)


def longest_path(
    trace: Trace, counts: list[Count], weighted: list[bool], depends: list[bool]
) -> tuple[int, int]:
    """The numbers of weighted layers and of activation functions, each on its longest path from the input."""
    layers = [0] * len(trace.ops)
    bends = [0] * len(trace.ops)
    for op, count in zip(trace.ops, counts, strict=True):
        if not depends[op.index]:
            continue
        held = _HOLDS.get(op.base) or _stacked(op)
        layer, bend = held or (int(weighted[op.index]), int(_is_nonlinear(op, count)))
        layers[op.index] = layer + max((layers[i] for i in op.fed_by), default=0)
        bends[op.index] = bend + max((bends[i] for i in op.fed_by), default=0)
    return max(layers, default=0), max(bends, default=0)


def stacked_layers(op: Op) -> int:
    """The number of layers in a recurrent operator; 1 for any other operator."""
    return (_stacked(op) or (1, 1))[0]


def _stacked(op: Op) -> tuple[int, int] | None:
    """(weighted layers, activation functions) of a recurrent operator, whatever its number of steps."""
    layers = arguments(op).get("num_layers") if op.name in _RECURRENT else None
    return layers and (layers, layers)


def _is_nonlinear(op: Op, count: Count) -> bool:
    fused = op.name.startswith("quantized.") and "relu" in op.name
    return count.kind in ("activation", "attention", "recurrent") or fused
