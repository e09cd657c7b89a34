"""Passes: pure functions from graph to graph, each named after what it does."""

from __future__ import annotations

from archcost.engine.graph import Graph
from archcost.engine.passes.activations import fuse_activations
from archcost.engine.passes.additions import fuse_additions
from archcost.engine.passes.affine import fold_affine
from archcost.engine.passes.before import fuse_before
from archcost.engine.passes.branches import merge_branches
from archcost.engine.passes.channels import merge_channels
from archcost.engine.passes.gates import fuse_gates
from archcost.engine.passes.linears import fold_linears
from archcost.engine.passes.mobile import fuse_inverted_residuals
from archcost.engine.passes.neighbours import merge_neighbours
from archcost.engine.passes.views import sink_views

__all__ = ["PASSES", "fused"]

PASSES = (
    sink_views,
    merge_channels,
    fold_affine,
    merge_branches,
    fold_affine,
    fold_linears,
    merge_neighbours,
    fuse_activations,
    fuse_additions,
    fuse_activations,
    fuse_gates,
    fuse_before,
    fuse_inverted_residuals,
)


def fused(graph: Graph) -> Graph:
    """The graph after all passes, in order."""
    for change in PASSES:
        graph = change(graph)
    return graph
