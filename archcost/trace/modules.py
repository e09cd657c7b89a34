"""The module tree of a model: names, shared modules, cycles, lazy modules, packed int8 weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any

from archcost.errors import ArchcostError, ModelError
from archcost.trace.graph import ModuleInfo, PackedWeights, StateInfo, StateKind
from archcost.trace.sites import sites_of

if TYPE_CHECKING:
    import torch
    from torch import nn

# A module reached by more names than this keeps the first ones: sharing can make their number explode.
MAX_ALIASES = 32


@dataclass
class ModuleTree:
    """The registered modules of a model, and the names by which each of them can be reached."""

    names: dict[int, list[str]] = field(default_factory=dict)
    modules: dict[str, nn.Module] = field(default_factory=dict)
    """First name -> module, in order of definition, parents before their children."""

    def name_under(self, module: nn.Module, parent: str) -> str:
        """The name of a called module, seen from the module that called it.

        A shared module is named by its place under the caller; one that no module has registered is
        named by its type under the caller.
        """
        names = self.names.get(id(module))
        if names is None:
            label = f"<{type(module).__name__}>"
            return f"{parent}.{label}" if parent else label
        if len(names) > 1 and parent:
            for name in names:
                if name.startswith(parent + "."):
                    return name
        return names[0]


def walk(model: nn.Module) -> ModuleTree:
    """The module tree of a model.

    Raises:
        ModelError: a module contains itself.
    """
    tree = ModuleTree()
    # Depth first with an explicit stack: a model may be nested deeper than Python recurses.
    stack: list[tuple[str, nn.Module, bool]] = [("", model, False)]
    path: dict[int, str] = {}
    while stack:
        name, module, leaving = stack.pop()
        if leaving:
            del path[id(module)]
            continue
        if id(module) in path:
            held = path[id(module)] or "the model itself"
            raise ModelError(
                f"the module tree has a cycle: {name!r} is {held!r} again. Keep the back reference out of "
                f"the module tree, for example in a tuple: self.parent = (parent,)"
            )
        names = tree.names.setdefault(id(module), [])
        if len(names) >= MAX_ALIASES:
            continue
        names.append(name)
        if len(names) == 1:
            tree.modules[name] = module
        path[id(module)] = name
        stack.append((name, module, True))
        prefix = name + "." if name else ""
        children = [(prefix + key, child) for key, child in module._modules.items() if child is not None]
        stack.extend((child_name, child, False) for child_name, child in reversed(children))
    return tree


def check_model(model: object, error: type[ArchcostError] = ModelError, where: str = "") -> None:
    """Raise ``error`` for a ``model`` that is not a torch.nn.Module, with the expression to pass instead."""
    from torch import nn

    if isinstance(model, nn.Module):
        return
    name = getattr(model, "__name__", None)
    if isinstance(model, str):
        got = f"the string {model!r}; if it names a model, pass archcost.load({model!r}).model"
    elif isinstance(model, type):
        got = f"the class {name}; pass an instance: {name}(...)"
    elif name is not None and callable(model):
        called = "its result" if name == "<lambda>" else f"{name}()"
        got = (
            f"the function {name}. If it builds a model, pass {called}; if it computes on tensors, call it "
            f"in the forward of a module"
        )
    elif isinstance(getattr(model, "model", None), nn.Module):  # what archcost.load gives, an Analysis
        got = f"{_a(model)}; pass its .model"
    elif type(model).__name__ == "ExportedProgram":
        got = "an ExportedProgram; pass its .module()"
    elif isinstance(model, Mapping):
        got = f"{_a(model)}; load it into a model: model.load_state_dict(...)"
    else:
        got = _a(model)
    raise error(f"{where}expected a torch.nn.Module, got {got}")


def _a(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeio' else 'a'} {name}"


def as_written(model: nn.Module) -> nn.Module:
    """The original module of a model that ``torch.compile`` wrapped; any other model as it is."""
    from torch import nn

    original = getattr(model, "_orig_mod", None)
    if type(model).__name__ == "OptimizedModule" and isinstance(original, nn.Module):
        return original
    return model


def check_values(model: nn.Module, what: str) -> None:
    """Raise ModelError for a model on `meta`, which can be counted but not executed."""
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise ModelError(f"{what} runs the model, whose weights are on `meta` and have no values: load them")


def nearest(name: object, names: Iterable[str]) -> str:
    """The end of a message about an unknown module name: the closest known name, or where to find names."""
    from difflib import get_close_matches

    near = get_close_matches(str(name), list(names), n=1)
    return f"did you mean {near[0]!r}?" if near else "model.named_modules() lists the names"


def no_convolution(model: str, name: object, known: Iterable[str], modules: Mapping[str, ModuleInfo]) -> str:
    """The message about a name that is not a convolution's: it may be another module's."""
    found = next((info for key, info in modules.items() if name in (key, *info.aliases)), None)
    if found is not None:
        return f"{name!r} of {model} is a {found.type_name}, not a convolution"
    return f"{model} has no convolution {name!r}; {nearest(name, known)}"


def check_initialised(tree: ModuleTree) -> None:
    """Raise ModelError for a lazy module without weights."""
    from torch.nn.parameter import is_lazy

    for name, module in tree.modules.items():
        tensors = (*module._parameters.values(), *module._buffers.values())
        if any(p is not None and is_lazy(p) for p in tensors):
            raise ModelError(
                f"{name or 'the model'} ({type(module).__name__}) is lazy and has no weights yet: "
                f"run one forward pass, model(example), before analysing it"
            )


def describe(tree: ModuleTree) -> dict[str, ModuleInfo]:
    """The plain description of every registered module, by first name."""
    sites = sites_of(tree.modules)
    return {
        name: ModuleInfo(
            name,
            type_name(module),
            is_training(module),
            tuple(tree.names[id(module)][1:]),
            _details(module),
            sites.get(name),
        )
        for name, module in tree.modules.items()
    }


def is_training(module: nn.Module) -> bool:
    """The training flag of a module; False for a frozen ScriptModule, which has none."""
    return bool(getattr(module, "training", False))


def type_name(module: nn.Module) -> str:
    """The class of a module; a ScriptModule is named by the class it was compiled from."""
    return str(getattr(module, "original_name", None) or type(module).__name__)


def _details(module: nn.Module) -> str:
    try:
        return module.extra_repr().replace("\n", ", ")
    except Exception:  # a user's extra_repr may need a state that the module is not in
        return ""


def _tables(module: nn.Module) -> tuple[tuple[StateKind, Mapping[str, torch.Tensor | None]], ...]:
    """The parameters and the buffers that a module registers itself."""
    return ("parameter", module._parameters), ("buffer", module._buffers)


def state_of(tree: ModuleTree) -> Iterator[tuple[nn.Module, StateKind, str, torch.Tensor]]:
    """Every registered ``(module, kind, key, tensor)``; a tied tensor each time it is registered."""
    for name, kind, key, tensor in named_state(tree):
        yield tree.modules[name], kind, key, tensor


def named_state(tree: ModuleTree) -> Iterator[tuple[str, StateKind, str, torch.Tensor]]:
    """Every registered ``(module's first name, kind, key, tensor)``; a tied tensor each time."""
    for name, module in tree.modules.items():
        for kind, table in _tables(module):
            for key, tensor in table.items():
                if tensor is not None:
                    yield name, kind, key, tensor


def describe_state(tree: ModuleTree) -> tuple[StateInfo, ...]:
    """Parameters and buffers, each once under its first name, with the weights that int8 modules pack."""
    import torch

    rows: list[StateInfo] = []
    seen: dict[int, int] = {}
    aliases: dict[int, tuple[str, ...]] = {}
    for owner, module in tree.modules.items():
        prefix = owner + "." if owner else ""
        for kind, table in _tables(module):
            for key, tensor in table.items():
                if tensor is None:
                    continue
                if (row := seen.get(id(tensor))) is not None:
                    aliases[row] = (*aliases.get(row, ()), prefix + key)
                    continue
                # A ScriptModule makes a new tensor object at each look, so ids mean nothing there.
                if type(table) is dict:
                    seen[id(tensor)] = len(rows)
                numel = tensor.numel()
                size = tuple(tensor.shape), numel, numel * tensor.element_size(), tensor.requires_grad
                rows.append(StateInfo(prefix + key, owner, kind, *size))
        # The packed weights that a quantized module holds as plain attributes.
        packs = {k: unpack(v) for k, v in vars(module).items() if type(v) is torch.ScriptObject}
        for key, packed in packs.items():
            if packed is not None:
                size = packed.shape, prod(packed.shape) + packed.bias, packed.nbytes, False
                rows.append(StateInfo(prefix + key, owner, "parameter", *size))
    for row, names in aliases.items():
        rows[row] = replace(rows[row], aliases=names)
    return tuple(rows)


def unpack(packed: Any) -> PackedWeights | None:
    """The shape and geometry of a packed int8 weight; None for any other script object."""
    try:
        weight, bias = packed.unpack()[:2]
        convolution = weight.dim() > 2
        groups = int(packed.groups()) if convolution else 1
        transposed = bool(packed.transpose()) if convolution else False
        geometry = (packed.stride(), packed.padding(), packed.dilation()) if convolution else ((), (), ())
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return None
    nbytes = sum(x.numel() * x.element_size() for x in (weight, bias) if x is not None)
    extra = 0 if bias is None else bias.numel()
    return PackedWeights(tuple(weight.shape), extra, groups, transposed, nbytes, *map(tuple, geometry))
