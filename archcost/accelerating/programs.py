"""Which modules are programs: where by the trace every call is convolutions, sums, clamps, poolings and
concatenations, and no more."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from archcost.accelerating.pooling import POOLS
from archcost.accelerating.program import Step
from archcost.accelerating.steps import dead_copies, steps_of
from archcost.nn.folding import FusedBlock
from archcost.surgery.refusals import hooks_of
from archcost.trace.graph import Trace

__all__ = ["programs_of"]

_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Identity)
_OF_TRAINING = frozenset({"training", "is_grad_enabled"})


def programs_of(
    model: nn.Module, trace: Trace, chains: Mapping[str, FusedBlock]
) -> dict[str, tuple[Step, ...]]:
    """By name of the module, the steps that its every call is; none of them lies in another.

    ``chains`` has the convolutions that may be replaced, each with what it takes over.
    """
    found: dict[str, tuple[Step, ...]] = {}
    dead = dead_copies(trace)
    for name, info in trace.modules.items():  # a parent comes before its children
        inside = any(name.startswith(f"{other}.") for other in found)
        if not name or inside or info.aliases or not _is_open(model.get_submodule(name), name, chains):
            continue
        calls = [call for call in trace.calls if call.module == name]
        made = {steps_of(trace, call, name, chains, dead) for call in calls}
        steps = made.pop() if len(made) == 1 else None
        if steps is not None and _is_worth_it(steps):
            found[name] = steps
    return found


def _is_worth_it(steps: tuple[Step, ...]) -> bool:
    """More than one convolution or a sum, and each convolution once."""
    keys = [step.keys for step in steps if step.keys]
    sums = any(step.adds is not None for step in steps)
    return (len(keys) > 1 or (bool(keys) and sums)) and len(set(keys)) == len(keys)


def _is_open(module: nn.Module, name: str, chains: Mapping[str, FusedBlock]) -> bool:
    """Whether it is nothing but what the trace can tell: no tensors of its own, no hooks, no other layers."""
    if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)) or not module._modules:
        return False
    norms = {chain.batch_norm for chain in chains.values()}
    for key, part in module.named_modules(prefix=name, remove_duplicate=False):
        if hooks_of(part) or "forward" in vars(part) or part.training:
            return False
        if key in chains or key in norms or type(part) in _ACTIVATIONS:
            continue
        if type(part) in POOLS and not getattr(part, "return_indices", False):
            continue
        holds = part._modules or type(part).forward is nn.Sequential.forward
        if part._parameters or part._buffers or not holds or not _is_always_the_same(type(part)):
            return False
    return True


def _is_always_the_same(kind: type[nn.Module]) -> bool:
    """Whether its code, and the methods that this calls, do not ask whether they train: what they do then
    is not in the trace."""
    names, seen = ["forward"], set()
    while names:
        name = names.pop()
        code = getattr(getattr(kind, name, None), "__code__", None)
        if name == "forward" and code is None:
            return False
        if code is None or name in seen or getattr(nn.Module, name, None) is getattr(kind, name):
            continue
        seen.add(name)
        if _OF_TRAINING & set(code.co_names):
            return False
        names += code.co_names
    return True
