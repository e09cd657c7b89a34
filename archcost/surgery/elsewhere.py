"""Weights read outside their own module, where an exchange of the module has no effect."""

from __future__ import annotations

from archcost.trace.dataflow import first_names
from archcost.trace.graph import Trace

__all__ = ["used_elsewhere"]


def used_elsewhere(trace: Trace) -> dict[str, tuple[str, ...]]:
    """The modules that read or write a parameter of another module, in order, by the owner's name.

    Such as a parent with ``F.conv2d(x, self.conv.weight)``, or a child with the same parameter. A module
    called
    under another of its names is not another. Code that did not run in this pass is not seen.
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
