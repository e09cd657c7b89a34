"""A copy of a model to work on, shared and tied as the model is, or a clear word on what cannot be copied."""

from __future__ import annotations

import copy
import types
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from archcost.errors import RewriteError
from archcost.trace.modules import ModuleTree, as_written, state_of, type_name, walk

__all__ = ["copied"]

Model = TypeVar("Model", bound=nn.Module)


def copied(model: Model) -> Model:
    """A deep copy: modules and weights shared among themselves as in the model, none of them with it.

    Raises:
        RewriteError: something in it cannot be copied, or would keep its hold on the original.
        ModelError: a module holds itself.
    """
    tree = walk(model)
    for name, module in tree.modules.items():
        if as_written(module) is not module:
            raise RewriteError(
                f"{_called(name, module)} is compiled, and a copy would go on running the original: put its "
                f"_orig_mod there, and compile what comes of it"
            )
        _check_forward(tree, name, module)
    try:
        twin = _duplicate(model)
    except Exception as error:  # whatever a user's attribute raises
        raise RewriteError(f"{_culprit(tree)} cannot be copied: {_line(error)}. {_MEND}") from error
    _check_twin(tree, walk(twin))
    return twin


class _Computed(TorchFunctionMode):
    """Copies tensors that were computed with gradients, which PyTorch refuses, by their values.

    ``torch.nn.utils.weight_norm``, ``spectral_norm`` and pruning leave such a weight behind, and compute it
    anew at each call; so do modules that keep an intermediate result. Views of weights are refused: a copy
    would not follow its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sources: list[torch.Tensor] = []  # alive meanwhile: the memo of a copy goes by ids

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__deepcopy__ and not args[0].is_leaf and not _views_a_leaf(args[0]):
            self._sources.append(args[0].detach())
            args = (self._sources[-1], *args[1:])
        return func(*args, **(kwargs or {}))


def _views_a_leaf(tensor: torch.Tensor) -> bool:
    base = tensor._base
    return base is not None and base.is_leaf


def _duplicate(value: Any) -> Any:
    # A copy made in the caller's inference mode could not be trained.
    with torch.inference_mode(False), _Computed():
        return copy.deepcopy(value)


_MEND = "Work on the model itself, inplace=True"


def _check_forward(tree: ModuleTree, name: str, module: nn.Module) -> None:
    """A function put in the place of a forward is not copied, and so not what it holds on to."""
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
                f"holds on to {type_name(owner)}, of which a copy would go on running the original. {_MEND}"
            )


def _check_twin(tree: ModuleTree, twin: ModuleTree) -> None:
    if list(tree.modules) != list(twin.modules) or list(tree.names.values()) != list(twin.names.values()):
        raise RewriteError(f"the model's copy has other modules than the model. {_MEND}")
    for name, module in tree.modules.items():
        if twin.modules[name] is module:
            raise RewriteError(
                f"{_called(name, module)} cannot be copied: its own way of copying gives itself. {_MEND}"
            )
    if _sharing(tree) != _sharing(twin):
        raise RewriteError(f"the model's copy does not tie the weights that the model ties. {_MEND}")
    originals = {id(tensor) for tensor in _ordinary_state(tree)}
    if any(id(tensor) in originals for tensor in _ordinary_state(twin)):
        raise RewriteError(f"the model's copy shares weights with the model. {_MEND}")


def _ordinary_state(tree: ModuleTree) -> Iterator[torch.Tensor]:
    # A ScriptModule makes a new tensor object at each look, so ids mean nothing there.
    kept = (
        tensor for module, _, _, tensor in state_of(tree) if not isinstance(module, torch.jit.ScriptModule)
    )
    yield from kept


def _sharing(tree: ModuleTree) -> list[int]:
    """Of each parameter and buffer, the place of the first one that is the same object."""
    first: dict[int, int] = {}
    return [first.setdefault(id(tensor), place) for place, tensor in enumerate(_ordinary_state(tree))]


def _culprit(tree: ModuleTree) -> str:
    """The innermost module that cannot be copied, and the attribute, as far as one can tell."""
    for name, module in reversed(list(tree.modules.items())):
        for key, value in _contents(module):
            try:
                _duplicate(value)
            except Exception:
                return f"{key} of {_called(name, module)}"
    for name, module in reversed(list(tree.modules.items())):
        try:
            _duplicate(module)
        except Exception:
            return _called(name, module)
    return "the model"


def _contents(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """What a module holds, its children apart."""
    for key, value in vars(module).items():
        if key in ("_parameters", "_buffers"):
            yield from value.items()
        elif key != "_modules":
            yield key, value


def _called(name: str, module: nn.Module) -> str:
    return f"{name or 'the model'} ({type_name(module)})"


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
