"""Weights that code beside their own module reads: exchanging the module would not reach it."""

from __future__ import annotations

from archcost.trace.dataflow import first_names
from archcost.trace.graph import Trace

__all__ = ["used_elsewhere"]


def used_elsewhere(trace: Trace) -> dict[str, tuple[str, ...]]:
    """By the name of a module, the others that read or write a parameter of its own, in order.

    ``F.conv2d(x, self.conv.weight)`` in a parent is one, and so is a child that has the same parameter. A
    module called under another of its names is itself. What did not run in this pass does not show.
    """
    first = first_names(trace)
    owner_of = {info.name: info.owner for info in trace.state if info.kind == "parameter"}
    owners = {
        storage.index: owner_of[storage.name]
        for storage in trace.storages
        if storage.origin == "parameter" and storage.name in owner_of
    }
    found: dict[str, dict[str, None]] = {}
    for op in trace.ops:
        name = trace.module_of(op)
        user = first.get(name, name)
        for storage in (*op.reads, *op.writes):
            owner = owners.get(storage)
            if owner is not None and owner != user:
                found.setdefault(owner, {})[user] = None
    return {owner: tuple(users) for owner, users in found.items()}
