"""Why a neighbour of a convolution may not be replaced or moved with it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn.utils import parametrize

from archcost.rewriting.proposal import lies_in
from archcost.rewriting.survey.survey import Survey
from archcost.surgery.refusals import hooks_of, wraps

__all__ = ["why_fixed"]


def why_fixed(survey: Survey, name: str) -> str | None:
    """Why a module may not be moved, in words that follow its name; None where it and its children may."""
    return next(_reasons(survey, name), None)


def _reasons(survey: Survey, name: str) -> Iterator[str]:
    tree = survey.tree
    module = tree.modules[name]
    if not name:
        yield "is the whole model: wrap it, torch.nn.Sequential(model)"
    inside = {id(one) for one in module.modules()}
    for one in module.modules():
        inner = tree.names[id(one)][0]
        said = "" if one is module else f"holds {inner}, which "
        kinds = hooks_of(one)
        if kinds:
            yield f"{said}has a {kinds[0]}, which would see other tensors"
        if isinstance(one, torch.jit.ScriptModule):
            yield f"{said}is a ScriptModule"
        if parametrize.is_parametrized(one):
            yield f"{said}is parametrized"
        readers = survey.readers.get(inner, ())
        if not all(lies_in(reader, name) for reader in readers):
            yield f"{said}has parameters that {readers[0] or 'the model itself'} also reads"
        if id(one) in survey.held:
            yield f"{said}is also held in {survey.held[id(one)]}, which is not a registration"
        for parameter in one._parameters.values():
            if parameter is not None and not survey.owners[id(parameter)] <= inside:
                yield f"{said}shares parameters with other modules"
    parents = [".".join(name.split(".")[:count]) for count in range(name.count(".") + 1)]
    for parent in parents:
        holder = tree.modules.get(parent)
        if isinstance(holder, torch.jit.ScriptModule):
            yield "lies in a ScriptModule"
        if holder is not None and wraps(holder) is not None:
            yield f"lies in {parent or 'a model'}, which {wraps(holder)}"
