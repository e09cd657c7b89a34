"""Python source for the new layers of a plan."""

from __future__ import annotations

import keyword
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from archcost.merging.chain import Activation, Chain, Conv, Kept
from archcost.rewriting.plan.building import Argument, conv_arguments, conv_type, padding_layer

if TYPE_CHECKING:
    from archcost.rewriting.proposal import Proposal

__all__ = ["source_of"]


def source_of(plan: Iterable[Proposal], function: str = "new_layers") -> str:
    """Source of a function of a model that returns the new layers by name, with its imports."""
    lines = ["from torch import nn", ""]
    chains = [(one, name, chain) for one in plan for name, chain in one.replacement.chains.items()]
    if any(isinstance(step, Conv) and step.path for _, _, chain in chains for step in chain):
        lines[1:1] = ["", "from archcost.nn.path_conv import PathConv"]
    if any(isinstance(step, Conv) and step.channels_last for _, _, chain in chains for step in chain):
        lines.insert(0, "import torch")
    lines += ["", f"def {function}(model: nn.Module) -> dict[str, nn.Module]:", "    return {"]
    for one, name, chain in chains:
        if name == one.name:
            lines.append(f"        # {one.rule}: {one.type_name} {one.shape}")
        steps = list(_steps(chain))
        if len(steps) == 1:
            lines.append(f"        {name!r}: {steps[0]},")
        elif not steps:
            lines.append(f"        {name!r}: nn.Identity(),")
        else:
            lines.append(f"        {name!r}: nn.Sequential(")
            lines += [f"            {step}," for step in steps]
            lines.append("        ),")
    return "\n".join([*lines, "    }", ""])


def _steps(chain: Chain) -> Iterator[str]:
    for step in chain:
        if isinstance(step, Activation):
            yield f"nn.{step.kind}()"
        elif isinstance(step, Kept):
            yield f"model{_attributes(step.name)}"
        else:
            pad = padding_layer(step.spec)
            if pad is not None:
                yield f"nn.{pad[0]}({pad[1]})"
            yield _convolution(step)


def _convolution(step: Conv) -> str:
    spec = step.spec
    if step.linear:
        return f"nn.Linear({spec.in_channels}, {spec.out_channels}{', bias=False' * (not spec.bias)})"
    given = ", ".join(f"{name}={_short(value)}" for name, value in conv_arguments(spec).items())
    size = f"kernel_size={_short(spec.kernel_size)}"
    said = f"nn.{conv_type(spec)}({spec.in_channels}, {spec.out_channels}, {size}{', ' * bool(given)}{given})"
    if step.channels_last:
        said += f".to(memory_format=torch.channels_last{'_3d' * (spec.axes == 3)})"
    return said if step.path is None else f"PathConv({said}, {step.path!r})"


def _short(value: Argument) -> str:
    """A value per axis as source, a single number where all axes have the same."""
    return repr(value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value)


def _attributes(name: str) -> str:
    plain = all(part.isidentifier() and not keyword.iskeyword(part) for part in name.split("."))
    return f".{name}" if plain else f".get_submodule({name!r})"
