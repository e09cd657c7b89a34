"""Choose how each layer runs, by the times of its variants as steps of small programs on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import inf

import torch
from torch import Tensor

from archcost.engine.graph import Edits, Graph, Node, Value
from archcost.engine.kept import Kept, key_of
from archcost.engine.operators import Convolution, InvertedResidual
from archcost.engine.program import Program
from archcost.kernels.packing import winograd_tiles
from archcost.kernels.tensors import loaded

__all__ = ["Chosen", "Times", "choose", "heavier", "outputs_of_tile", "runs_of", "seconds_of", "variants"]

Variant = tuple[str, tuple[Node, ...]]
"""A name, and nodes that compute what the original does from the same inputs."""
Times = dict[tuple[str, str], float]
"""Seconds by the key of a layer and the name of a variant."""
Chosen = dict[str, str]
"""The name of the fastest variant by the key of a layer."""

# Taps in a row of which Fourier transforms may pay.
_LONG_ROW = 9
# Runs of each variant: the least is taken, since noise only adds.
_RUNS = 3
# A variant this many times as slow as the best one so far is run once.
_HOPELESS = 1.25
# Even the first run, with all that it has to fetch, is no longer than that where a variant may be the best.
_MUCH_SLOWER = 1.6
# The noise of the least time.
_GAIN = 1.03
# As much as the last level of many caches: weights come from memory, as they do in a network.
_FLUSHED_FLOATS = 8 << 20
# Weights smaller than this stay in the caches from one pass of a network to the next.
_FEW_WEIGHTS = 1 << 18


def variants(node: Node) -> list[Variant]:
    """The ways to compute a node; the first one is always possible."""
    operator = node.operator
    if isinstance(operator, Convolution):
        return [("direct", (node,)), *_tiled(node, operator), *_transformed(node, operator)]
    if isinstance(operator, InvertedResidual) and operator.project is not None:
        return [("fused", (node,)), ("apart", tuple(_apart(node, operator)))]
    return []


def heavier(graph: Graph) -> frozenset[tuple[str, str]]:
    """Keys of layers, and names of all variants but the first, which take more memory than that."""
    return frozenset((key_of(node), name) for node in graph.nodes for name, _ in variants(node)[1:])


def _tiled(node: Node, layer: Convolution) -> Iterator[Variant]:
    """Winograd, where the kernel is dense and its steps are 1."""
    taps = (layer.weight.shape[2], layer.weight.shape[3])
    plain = layer.groups == 1 and layer.stride == (1, 1) and layer.dilation == (1, 1) and max(taps) > 1
    if not plain or layer.before is not None or layer.gated or layer.sources is not None:
        return
    if layer.weight.shape[1] < 8 or min(min(side) for side in layer.padding) < 0:
        return
    for tile in winograd_tiles(taps):
        yield str(tile), (replace(node, operator=replace(layer, tile=tile)),)


def _transformed(node: Node, layer: Convolution) -> Iterator[Variant]:
    """Fourier along the rows, for large depthwise kernels."""
    width = layer.weight.shape[3]
    plain = layer.depthwise and layer.stride == (1, 1) and layer.dilation == (1, 1) and width >= _LONG_ROW
    if not plain or min(min(side) for side in layer.padding) < 0:
        return
    left, right = layer.padding[1]
    size = loaded().archcost_depthwise_size(width, node.inputs[0].shape[3], left, right)
    if size:
        yield "fourier rows", (replace(node, operator=replace(layer, fourier=size)),)


def outputs_of_tile(name: str) -> int:
    """The outputs of a variant's tile along its longer axis; F(4x4, 3x3) has 4. Without a tile, 1."""
    if not name.startswith("F("):
        return 1
    return max(map(int, name[2 : name.index(",")].split("x")))


def _apart(node: Node, operator: InvertedResidual) -> Iterator[Node]:
    x, *rest = node.inputs
    for layer in (operator.expand, operator.depthwise):
        if layer is not None:
            rows, columns = (
                (size + sum(side) - taps) // step + 1
                for size, side, taps, step in zip(
                    *(x.shape[2:], layer.padding, layer.weight.shape[2:], layer.stride), strict=True
                )
            )
            made = Value((x.shape[0], layer.weight.shape[0], rows, columns))
            yield Node(layer, (x,), made, node.modules)
            x = made
    assert operator.project is not None
    yield Node(operator.project, (x, *rest), node.output, node.modules)


def choose(
    graph: Graph,
    *,
    known: Times | None = None,
    allowed: Callable[[str, str], bool] = lambda key, name: True,
    deadline: float = inf,
    isa: str | None = None,
    kept: Kept | None = None,
) -> tuple[Graph, Chosen]:
    """The graph with the fastest variant of each layer, and which these are.

    Args:
        graph: after all passes.
        known: times measured before; new ones are added.
        allowed: whether a variant may be taken, by the key of a layer and its name.
        deadline: of `time.perf_counter`; layers that are not reached keep their first variant.
        isa: the instruction set of the kernels.
        kept: where times are looked up that are not known, and new ones kept.
    """
    kept = Kept() if kept is None else kept
    times: Times = {} if known is None else known
    edits, chosen = Edits(graph), Chosen()
    for node in edits.nodes():
        if len(ways := variants(node)) < 2:
            continue
        key = key_of(node)
        found = [one for one in ways if allowed(key, one[0])]
        least = inf
        for name, nodes in reversed(found):  # the largest tiles are most often the fastest: others stop early
            if (key, name) not in times and (before := kept.find(node, name)) is not None:
                times[key, name] = before
            if (key, name) not in times and time.perf_counter() < deadline:
                times[key, name] = seconds_of(node, nodes, least, isa)
                kept.add(node, name, times[key, name])
            least = min(least, times.get((key, name), inf))
        # The first that is not slower beyond the noise: what comes later is less exact, or more steps.
        best = next((one for one in found if times.get((key, one[0]), inf) <= _GAIN * least), found[0])
        if (key, found[0][0]) not in times:  # the time was up in the middle
            best = found[0]
        chosen[key] = best[0]
        edits.replace([node], best[1])
    kept.write()
    return edits.done(), chosen


def seconds_of(node: Node, nodes: Sequence[Node], beat: float, isa: str | None = None) -> float:
    """The least time of a variant's steps, of a few runs; one where it is far from what is to be beaten."""
    least = inf
    for run, seconds in enumerate(runs_of(node, nodes, isa)):
        if run:
            least = min(least, seconds)
        if run == _RUNS or (run and least > _HOPELESS * beat) or seconds > _MUCH_SLOWER * beat:
            return min(least, seconds)
    raise AssertionError("runs without end")


def runs_of(node: Node, nodes: Sequence[Node], isa: str | None = None) -> Iterator[float]:
    """Seconds of a variant's steps in each of as many runs as are asked for; the first fetches all it needs.

    The input is freshly written, and large weights are not in the caches, as in a network.
    """
    inputs = tuple(dict.fromkeys(node.inputs))
    program = Program(Graph(tuple(nodes), inputs, (node.output,)), isa, packed=False)
    made = {value for one in nodes for value in one.outputs}
    ours = [step.node.output in made for step in program.steps]
    given = [torch.rand(value.shape) for value in inputs]
    cold = program.weights_bytes > 4 * _FEW_WEIGHTS
    while True:
        if cold:
            _flush()
        taken: list[float] = []
        program(given, taken)
        yield sum(one for one, mine in zip(taken, ours, strict=True) if mine)


_flushed: list[Tensor] = []


def _flush() -> None:
    """Push what there is out of the caches."""
    if not _flushed:
        _flushed.append(torch.ones(_FLUSHED_FLOATS))
    _flushed[0].add_(1.0)
