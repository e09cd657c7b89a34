"""A model with other layers for a while: several choices of paths in turns, in one and the same model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress

import torch
from torch import nn

from archcost.accelerating.block import Block
from archcost.accelerating.choosing import Choice
from archcost.accelerating.layers import Layer
from archcost.accelerating.layouts import CHANNELS_LAST, NCHW, label_of, memory_format
from archcost.accelerating.pooling import quick_pool
from archcost.accelerating.program import Program, Step
from archcost.errors import RewriteError
from archcost.nn.absorbed import Absorbed
from archcost.nn.path_conv import PathConv
from archcost.surgery.exchange import Handle, replace

__all__ = ["Stage", "convolution_in", "is_untouched", "new_modules"]


def new_modules(
    model: nn.Module,
    layers: Iterable[Layer],
    chosen: Mapping[str, Choice],
    keeps_nan: bool,
    *,
    all_of_them: bool = False,
    programs: Mapping[str, tuple[Step, ...]] | None = None,
    pools: Iterable[str] = (),
    joined: Mapping[str, tuple[tuple[int, ...], ...]] | None = None,
) -> dict[str, nn.Module]:
    """By name, what comes in the place of convolutions, batch normalisations and activations, of these max
    poolings, and of the modules around them that are programs, where those are given; ``joined`` has the
    steps of each program that run as one."""
    made: dict[str, nn.Module] = {}
    inside: dict[str, dict[str, nn.Module]] = {name: {} for name in programs or {}}
    for layer in layers:
        choice = chosen[layer.name]
        if layer.program in inside:
            own = _of_layer(model, layer, choice, keeps_nan)
            inside[layer.program] |= {
                name.removeprefix(f"{layer.program}."): one for name, one in own.items()
            }
        elif all_of_them or not is_untouched(layer, choice):
            made |= _of_layer(model, layer, choice, keeps_nan)
    for name in pools:
        around = next((one for one in inside if name.startswith(f"{one}.")), None)
        pool = quick_pool(model.get_submodule(name))
        if around is None:
            made[name] = pool
        else:
            inside[around][name.removeprefix(f"{around}.")] = pool
    for name, steps in (programs or {}).items():
        siblings = (joined or {}).get(name, ())
        made[name] = Program(model.get_submodule(name), steps, inside[name], siblings)
    return made


def _of_layer(model: nn.Module, layer: Layer, choice: Choice, keeps_nan: bool) -> dict[str, nn.Module]:
    own: dict[str, nn.Module] = {}
    absorbed = None
    if layer.chain.batch_norm is not None:
        absorbed = Absorbed(model.get_submodule(layer.chain.batch_norm))
        own[layer.chain.batch_norm] = absorbed
    layout = memory_format(choice.writes, layer.x.dim() - 2) if layer.x.dim() in (4, 5) else None
    own[layer.name] = PathConv(
        layer.module,
        choice.path,
        epilogue=layer.epilogue(layout, keeps_nan),
        sizes=layer.sizes,
        absorbed=absorbed,
    )
    if layer.chain.activation is not None:
        own[layer.chain.activation] = nn.Identity()
    if layer.block is not None:
        children = {name.removeprefix(f"{layer.block}."): module for name, module in own.items()}
        convolution = layer.name.removeprefix(f"{layer.block}.")
        own = {layer.block: Block(model.get_submodule(layer.block), convolution, children)}
    return own


def is_untouched(layer: Layer, choice: Choice) -> bool:
    """Whether PyTorch's own module does by itself what was chosen."""
    if choice.path != "native" or choice.reads != choice.writes or layer.chain.batch_norm is not None:
        return False
    # With weights in channels_last it writes that layout whatever it reads.
    return choice.writes == CHANNELS_LAST or label_of(layer.weight) == NCHW


def convolution_in(modules: Mapping[str, nn.Module], layer: Layer) -> PathConv | None:
    """What stands for the layer among new modules; None where its own stays."""
    for around in (layer.program, layer.block):
        if around is not None and around in modules:
            found = modules[around].get_submodule(layer.name.removeprefix(f"{around}."))
            return found if isinstance(found, PathConv) else None
    made = modules.get(layer.name)
    return made if isinstance(made, PathConv) else None


class Stage:
    """One model, on which one of several casts of modules is at a time; closing puts its own ones back."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._casts: dict[str, dict[str, nn.Module]] = {}
        self._handle: Handle | None = None
        self.current: str | None = None

    def add(self, name: str, modules: dict[str, nn.Module]) -> None:
        """A cast, by name."""
        self._casts[name] = modules

    def drop(self, names: Iterable[str]) -> None:
        """Let go of these casts, and of the weights prepared for them."""
        self.close()
        for name in names:
            del self._casts[name]

    def modules(self, name: str) -> dict[str, nn.Module]:
        return self._casts[name]

    def show(self, name: str | None) -> nn.Module:
        """The model with that cast; None is the model as it was."""
        if name != self.current:
            self.close()
            if name is not None and self._casts[name]:
                self._handle = replace(self.model, self._casts[name], inplace=True, hooks="keep")
            self.current = name
        return self.model

    def close(self) -> None:
        """The model as it was."""
        handle, self._handle, self.current = self._handle, None, None
        if handle is not None:
            handle.undo()

    def ready(self, layers: list[Layer], name: str) -> None:
        """Weights of that cast prepared, so that no call of the user's has to wait for it."""
        for layer in layers:
            around = self._casts[name].get(layer.program or "")
            if isinstance(around, Program) and around.joins(layer.name.removeprefix(f"{layer.program}.")):
                continue  # prepared with others, when it was timed
            module = convolution_in(self._casts[name], layer)
            if module is not None:
                with torch.no_grad(), suppress(RewriteError):
                    module.refusal(layer.x)
