"""Move reshapes and permutes behind what does not care, until they meet their inverse and vanish."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from archcost.engine.graph import Edits, Graph, Node, Value, swept
from archcost.engine.operators import (
    Activate,
    Channels,
    Convolution,
    LayerNorm,
    Linear,
    Mean,
    Operator,
    Permute,
    Reshape,
)

__all__ = ["sink_views"]

_LAST = (0, 2, 3, 1)
"""From images to images whose channels are the last dimension."""


def sink_views(graph: Graph) -> Graph:
    """Linear layers and norms on permuted images become 1x1 convolutions and norms over channels."""
    return swept(graph, _changed)


def _changed(edits: Edits, node: Node) -> bool:
    return (
        _merged(edits, node)
        or _shuffle(edits, node)
        or _behind_reshape(edits, node)
        or _behind_permute(edits, node)
        or _flat_mean(edits, node)
    )


def _merged(edits: Edits, node: Node) -> bool:
    """Two views in a row are one; one that changes nothing is none."""
    view = node.operator
    if not isinstance(view, (Reshape, Permute)):
        return False
    (x,) = node.inputs
    inner = edits.maker(x)
    if inner is not None and type(inner.operator) is type(view):
        if isinstance(view, Permute) and isinstance(inner.operator, Permute):
            view = Permute(tuple(inner.operator.order[dim] for dim in view.order))
        edits.replace([node], [replace(node, operator=view, inputs=inner.inputs)])
        return True
    nothing = (
        x.shape == node.output.shape if isinstance(view, Reshape) else list(view.order) == sorted(view.order)
    )
    if nothing and edits.bypass(node, x):
        return True
    # Dimensions of one element can change places without any element moving.
    if isinstance(view, Permute) and _keeps_order(view, x.shape):
        edits.replace([node], [replace(node, operator=Reshape(node.output.shape))])
        return True
    return False


def _keeps_order(view: Permute, shape: tuple[int, ...]) -> bool:
    several = [dim for dim in view.order if shape[dim] != 1]
    return several == sorted(several)


def _shuffle(edits: Edits, node: Node) -> bool:
    """(n, g, c, h, w) to (n, c, g, h, w) between reshapes of images is a channel shuffle."""
    if not isinstance(node.operator, Reshape) or len(node.output.shape) != 4:
        return False
    permute = edits.maker(node.inputs[0])
    if permute is None or permute.operator != Permute((0, 2, 1, 3, 4)):
        return False
    split = edits.maker(permute.inputs[0])
    if split is None or not isinstance(split.operator, Reshape):
        return False
    (x,) = split.inputs
    n, groups, each, h, w = split.output.shape
    if x.shape != (n, groups * each, h, w) or node.output.shape != x.shape:
        return False
    sources = tuple((0, group * each + i) for i in range(each) for group in range(groups))
    edits.replace([node], [replace(node, operator=Channels(sources), inputs=(x,))])
    return True


def _behind(edits: Edits, view: Node, node: Node, operator: Operator, inner: tuple[int, ...]) -> bool:
    """The view done to the result in place of the input."""
    middle = Value(inner)
    done = Node(operator, (*view.inputs, *node.inputs[1:]), middle, node.modules)
    after = (
        replace(view.operator, shape=node.output.shape)
        if isinstance(view.operator, Reshape)
        else view.operator
    )
    edits.replace([node], [done, Node(after, (middle,), node.output, view.modules)])
    return True


def _behind_reshape(edits: Edits, node: Node) -> bool:
    operator = node.operator
    if not isinstance(operator, (Linear, Activate, LayerNorm)) or len(node.inputs) != 1:
        return False
    view = edits.maker(node.inputs[0])
    if view is None or not isinstance(view.operator, Reshape):
        return False
    before, after = view.inputs[0].shape, view.output.shape
    if isinstance(operator, Activate):
        return _behind(edits, view, node, operator, before)
    if before[-1] != after[-1] or (isinstance(operator, LayerNorm) and operator.dim != -1):
        return False
    return _behind(edits, view, node, operator, (*before[:-1], node.output.shape[-1]))


def _behind_permute(edits: Edits, node: Node) -> bool:
    operator = node.operator
    view = edits.maker(node.inputs[0])
    if view is None or not isinstance(view.operator, Permute) or len(node.inputs) != 1:
        return False
    (x,) = view.inputs
    if isinstance(operator, Activate):
        return _behind(edits, view, node, operator, x.shape)
    if view.operator.order != _LAST:
        return False
    if isinstance(operator, LayerNorm) and operator.dim == -1:
        return _behind(edits, view, node, replace(operator, dim=1), x.shape)
    if isinstance(operator, Linear):
        convolution = Convolution(
            weight=operator.weight[:, :, None, None],
            bias=operator.bias,
            stride=(1, 1),
            padding=((0, 0), (0, 0)),
            dilation=(1, 1),
            groups=1,
            activation=operator.activation,
        )
        shape = (x.shape[0], operator.weight.shape[0], *x.shape[2:])
        return _behind(edits, view, node, convolution, shape)
    return False


def _flat_mean(edits: Edits, node: Node) -> bool:
    """A mean whose dimensions of one element are reshaped away."""
    inner = edits.maker(node.inputs[0])
    if not isinstance(node.operator, Reshape) or inner is None or not isinstance(inner.operator, Mean):
        return False
    (x,) = inner.inputs
    rest = tuple(size for dim, size in enumerate(x.shape) if dim not in inner.operator.dims)
    if not inner.operator.keepdim or node.output.shape != rest or prod(rest) == 0:
        return False
    edits.replace([node], [replace(node, operator=Mean(inner.operator.dims, False), inputs=(x,))])
    return True
