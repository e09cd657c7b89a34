"""A copy of a model with the same sharing and tying, or a message on what cannot be copied."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from archcost.errors import RewriteError
from archcost.trace.graph import Args, Kwargs
from archcost.trace.modules import ModuleTree, as_written, state_of, type_name, walk

__all__ = ["copied"]

T = TypeVar("T")
Model = TypeVar("Model", bound=nn.Module)


def copied(model: Model) -> Model:
    """A deep copy of a model that shares modules and weights as the model does, and none with it.

    Raises:
        RewriteError: a part cannot be copied, or its copy would still refer to the original.
        ModelError: a module contains itself.
    """
    tree = walk(model)
    for name, module in tree.modules.items():
        if as_written(module) is not module:
            raise RewriteError(
                f"{_called(name, module)} is compiled, and a copy would still run the original: put its "
                f"_orig_mod there, and compile the result"
            )
        _check_forward(tree, name, module)
    try:
        twin = _duplicate(model)
    except Exception as error:  # whatever a user's attribute raises
        raise RewriteError(f"{_culprit(tree)} cannot be copied: {_line(error)}. {_MEND}") from error
    _check_twin(tree, walk(twin))
    return twin


class _Computed(TorchFunctionMode):
    """Copies tensors with a gradient history by value, where PyTorch refuses to.

    ``torch.nn.utils.weight_norm``, ``spectral_norm`` and pruning store such a weight, computed at each call,
    as
    do modules that keep an intermediate result. Views of weights are refused: a copy would not follow its
    weight.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sources: list[torch.Tensor] = []  # kept alive, as deepcopy's memo goes by ids

    def __torch_function__(
        self, func: Callable[..., T], types: Sequence[type], args: Args = (), kwargs: Kwargs | None = None
    ) -> T:
        if func is torch.Tensor.__deepcopy__ and not args[0].is_leaf and not _views_a_leaf(args[0]):
            self._sources.append(args[0].detach())
            args = (self._sources[-1], *args[1:])
        return func(*args, **(kwargs or {}))


def _views_a_leaf(tensor: torch.Tensor) -> bool:
    base = tensor._base
    return base is not None and base.is_leaf


def _duplicate(value: T) -> T:
    # A copy made in the caller's inference mode could not be trained.
    with torch.inference_mode(False), _Computed():
        return copy.deepcopy(value)


_MEND = "Change the model itself, inplace=True"


def _check_forward(tree: ModuleTree, name: str, module: nn.Module) -> None:
    """Refuse a forward replaced by a function whose closure refers to the original."""
    forward = vars(module).get("forward")
    if not isinstance(forward, types.FunctionType):
        return
    for cell in forward.__closure__ or ():
        try:
            held = cell.cell_contents
        except ValueError:  # not filled yet
            continue
        owner = getattr(held, "__self__", held)
        if isinstance(owner, nn.Module) and id(owner) in tree.names:
            raise RewriteError(
                f"{_called(name, module)} cannot be copied: its forward was replaced by a function that "
                f"refers to the original {type_name(owner)}. {_MEND}"
            )


def _check_twin(tree: ModuleTree, twin: ModuleTree) -> None:
    if list(tree.modules) != list(twin.modules) or list(tree.names.values()) != list(twin.names.values()):
        raise RewriteError(f"a copy of the model has other modules than the model. {_MEND}")
    for name, module in tree.modules.items():
        if twin.modules[name] is module:
            raise RewriteError(
                f"{_called(name, module)} cannot be copied: its __deepcopy__ returns itself. {_MEND}"
            )
    if _sharing(tree) != _sharing(twin):
        raise RewriteError(f"a copy of the model does not tie the weights that the model ties. {_MEND}")
    originals = {id(tensor) for tensor in _ordinary_state(tree)}
    if any(id(tensor) in originals for tensor in _ordinary_state(twin)):
        raise RewriteError(f"a copy of the model shares weights with the model. {_MEND}")


def _ordinary_state(tree: ModuleTree) -> Iterator[torch.Tensor]:
    # A ScriptModule makes a new tensor object at each look, so ids mean nothing there.
    kept = (
        tensor for module, _, _, tensor in state_of(tree) if not isinstance(module, torch.jit.ScriptModule)
    )
    yield from kept


def _sharing(tree: ModuleTree) -> list[int]:
    """For each parameter and buffer the place of the first that is the same object."""
    first: dict[int, int] = {}
    return [first.setdefault(id(tensor), place) for place, tensor in enumerate(_ordinary_state(tree))]


def _culprit(tree: ModuleTree) -> str:
    """The innermost module that cannot be copied, with the attribute where it is known."""
    for name, module in reversed(list(tree.modules.items())):
        # Attributes, parameters and buffers, without the children.
        for key, value in {**module._parameters, **module._buffers, **vars(module)}.items():
            try:
                if key not in ("_parameters", "_buffers", "_modules"):
                    _duplicate(value)
            except Exception:
                return f"{key} of {_called(name, module)}"
    for name, module in reversed(list(tree.modules.items())):
        try:
            _duplicate(module)
        except Exception:
            return _called(name, module)
    return "the model"


def _called(name: str, module: nn.Module) -> str:
    return f"{name or 'the model'} ({type_name(module)})"


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
