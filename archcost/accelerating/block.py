"""Block: in the place of a module that only convolves, normalises and clamps by a function of its code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from archcost.nn.path_conv import PathConv, seen_from_outside
from archcost.surgery.refusals import hooks_of
from archcost.trace.graph import ModuleCall, Trace

if TYPE_CHECKING:
    from archcost.nn.folding import FusedBlock

__all__ = ["NOTHING", "Block", "block_of"]

_OWN = frozenset(vars(nn.Module()))
# What a batch normalisation allocates beside its result, and what autograd does.
NOTHING = ("aten.empty", "aten.detach")


class Block(nn.Module):
    """Its convolution alone, which does the rest, in training mode as well.

    It has the attributes and children of the module that it stands for, two of them others: names and
    ``state_dict`` stay.
    """

    def __init__(self, module: nn.Module, convolution: str, children: dict[str, nn.Module]) -> None:
        super().__init__()
        vars(self).update({key: value for key, value in vars(module).items() if key not in _OWN})
        for key, child in module._modules.items():
            self.register_module(key, children.get(key, child))
        self.training = module.training
        self.stands_for = type(module)
        self._convolution = convolution

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = (*args, *kwargs.values())
        if len(given) != 1:
            raise TypeError(f"{self.stands_for.__name__} takes one input, got {len(given)}")
        convolution: Any = self._modules[self._convolution]
        if not seen_from_outside() and type(convolution) is PathConv:
            run = convolution.runner(given[0], convolution.epilogue.clamp)
            if run is not None:
                return run(given[0], None)
        return convolution(*given)

    def extra_repr(self) -> str:
        return f"in the place of {self.stands_for.__name__}"


def block_of(model: nn.Module, trace: Trace, chain: FusedBlock) -> str | None:
    """The name of the module whose every call is this chain and nothing else; None where there is none."""
    name, _, key = chain.conv.rpartition(".")
    if not name or chain.clamp is None or chain.activation is not None:
        return None
    parent = model.get_submodule(name)
    if chain.batch_norm is not None and chain.batch_norm.rpartition(".")[0] != name:
        return None
    if parent._parameters or parent._buffers or hooks_of(parent) or "forward" in vars(parent):
        return None
    # What its code does beside, when training, is not in the trace.
    code = getattr(type(parent).forward, "__code__", None)
    if code is None or {"training", "is_grad_enabled"} & set(code.co_names):
        return None
    if len(parent._modules) != 1 + (chain.batch_norm is not None):
        return None
    info = trace.modules.get(name)
    if info is None or info.aliases or isinstance(parent, nn.Sequential):
        return None
    calls = [call for call in trace.calls if call.module == name]
    alike = all(_is_only(trace, call, chain.batch_norm is not None) for call in calls)
    return name if calls and alike and key in parent._modules else None


def _is_only(trace: Trace, call: ModuleCall, normalises: bool) -> bool:
    """Whether a call convolves its input, normalises and clamps, and gives that."""
    ops = [op for op in trace.ops[call.first_op : call.end_op] if op.base not in NOTHING]
    if len(ops) != 2 + normalises or len(call.inputs) != 1 or len(call.outputs) != 1:
        return False
    first, last = ops[0], ops[-1]
    return (
        first.base == "aten.convolution"
        and first.args[0] == call.inputs[0]
        and last.outputs[0].storage == call.outputs[0].storage
        and last.outputs[0].shape == call.outputs[0].shape
    )
