"""Distillation without labels: gradient descent on the old model's outputs and features."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from math import cos, inf, pi
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archcost.errors import InputError
from archcost.nn import adapters
from archcost.optimizing.data import blendable
from archcost.optimizing.ends import as_wide
from archcost.optimizing.verify import class_axis, outputs_for, sums_to_one
from archcost.progress import Progress
from archcost.trace.call import Call, Inputs
from archcost.trace.inputs import tensors_in

__all__ = ["EPOCHS", "LR", "WEIGHT_DECAY", "Distillation", "fitted_layers"]

EPOCHS, LR, WEIGHT_DECAY = 20, 1e-3, 1e-4
_STEP = 16
"""Inputs of a step, where a piece can be split."""
_BLEND = 0.5
"""The most that an input has of another one: a step is on blends of two (H. Zhang and others, "mixup: Beyond
Empirical Risk Minimization", ICLR 2018), as the old model says what it makes of anything."""
_PATIENCE = 12
_SHARE = 0.5
"""Weight of the features' loss beside that of the outputs."""
_LEAST = 1e-12
_HELD = 2**28
"""Most bytes of the old model's outputs and features that are kept from one epoch to the next."""


def fitted_layers(old: nn.Module, new: nn.Module) -> list[str]:
    """Convolutions and linear layers of the old model whose place in the new one ends in such a layer, with
    as many outputs."""
    theirs = dict(new.named_modules())
    found = []
    for name, module in old.named_modules():
        if not (isinstance(module, nn.Linear) or adapters.known(module)) or name not in theirs:
            continue
        if as_wide(old, new, name):
            found.append(name)
    return found


@contextmanager
def _features(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """The outputs of some layers in the last pass, by name."""
    held: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for name in names:

            def note(_: nn.Module, args: Any, y: Any, name: str = name) -> None:
                if isinstance(y, Tensor):
                    held[name] = y

            stack.callback(model.get_submodule(name).register_forward_hook(note).remove)
        yield held


class Distillation:
    """A plain training loop in eval mode: dropout off, statistics of normalisations kept.

    AdamW with a cosine schedule; ``new`` is trained in place and ends with the best epoch's weights.
    """

    def __init__(
        self,
        new: nn.Module,
        old: nn.Module,
        epochs: int = EPOCHS,
        lr: float = LR,
        weight_decay: float = WEIGHT_DECAY,
        seed: int = 0,
    ) -> None:
        self.new, self.old, self.epochs, self.lr, self.seed = new.eval(), old, epochs, lr, seed
        self.names = fitted_layers(old, new)
        self.grads = {name: p.requires_grad for name, p in new.named_parameters()}
        self.parameters = [p.requires_grad_() for p in new.parameters() if p.is_floating_point()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr, weight_decay=weight_decay)
        self.device = next((p.device for p in self.parameters), torch.device("cpu"))
        self.best_epoch = 0
        """The number of epochs after which the weights were best."""
        self._kept: dict[int, tuple[list[Tensor], dict[str, Tensor]]] = {}
        self._kept_bytes = 0

    def run(
        self,
        fitted: Sequence[Inputs],
        held_out: Sequence[Inputs] = (),
        score: Callable[[list[list[Tensor]]], float] | None = None,
        *,
        until: int | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: bool | None = None,
    ) -> int:
        """Train, and return the number of steps.

        Args:
            score: of the outputs for ``held_out``: the best epoch by it is taken, and training stops after 12
                that are no better than those before. None: the last epoch is.
            until: end after so many epochs of the schedule.
            checkpoint: written after each epoch; where it exists, the training goes on from it.
        """
        steps = _steps(fitted)
        last = self.epochs if until is None else until
        state: dict[str, Any] = {
            "best": self._weights(),
            "score": self._score(held_out, score),
            "epoch": 0,
            "stale": 0,
            "steps": 0,
            "best_epoch": 0,
            "trained": inf,
        }
        state = self._resumed(state, checkpoint)
        generator = torch.Generator()
        mode = [(module, module.training) for module in self.old.modules()]
        self.old.eval()
        try:
            with Progress(last, "distill", progress) as bar:
                while state["epoch"] < last and state["stale"] < _PATIENCE:
                    for group in self.optimizer.param_groups:
                        group["lr"] = self.lr * 0.5 * (1 + cos(pi * state["epoch"] / self.epochs))
                    generator.manual_seed(self.seed * 100003 + state["epoch"])
                    for at in torch.randperm(len(steps), generator=generator).tolist():
                        self._step(at, steps[at], generator)
                    state["steps"] += len(steps)
                    now = self._score(held_out, score)
                    state["epoch"] += 1
                    # Of a close model the first epochs lose what the last, slower ones gain.
                    state["stale"] = 0 if now < state["trained"] or score is None else state["stale"] + 1
                    state["trained"] = min(now, state["trained"])
                    if now < state["score"] or score is None:
                        state |= {"best": self._weights(), "score": now, "best_epoch": state["epoch"]}
                    self._saved(state, checkpoint)
                    bar.step()
        finally:
            for module, training in mode:
                module.training = training
            self.new.load_state_dict(state["best"])
            self.best_epoch = int(state["best_epoch"])
            for name, parameter in self.new.named_parameters():
                parameter.requires_grad_(self.grads[name])
                parameter.grad = None
            self._kept.clear()
        return int(state["steps"])

    def _weights(self) -> dict[str, Tensor]:
        return {key: value.detach().clone() for key, value in self.new.state_dict().items()}

    def _score(
        self, held_out: Sequence[Inputs], score: Callable[[list[list[Tensor]]], float] | None
    ) -> float:
        return 0.0 if score is None else score(outputs_for(self.new, held_out))

    def _step(self, at: int | None, piece: Inputs, generator: torch.Generator) -> None:
        if blendable(piece):
            share = _BLEND * float(torch.rand(1, generator=generator))
            other = piece[torch.randperm(len(piece), generator=generator)]
            at, piece = None, torch.lerp(piece, other, share)
        args, kwargs = Call.of(piece).cloned()
        mixed = torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else nullcontext()
        with mixed:
            wanted, theirs = self._of_old(at, piece)
            with _features(self.new, self.names) as ours:
                made = [t for t in tensors_in(self.new(*args, **kwargs)) if t.is_floating_point()]
            loss = sum(
                (_loss(a, b) for a, b in zip(made, wanted, strict=True)), torch.zeros((), device=self.device)
            )
            pairs = [(ours[name], theirs[name]) for name in self.names if name in ours and name in theirs]
            if pairs:
                loss = loss + _SHARE * sum(_relative(a, b) for a, b in pairs) / len(pairs)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()

    @torch.no_grad()
    def _of_old(self, at: int | None, piece: Inputs) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Outputs and features of the old model for a step, kept as far as memory allows; not of blends."""
        if at in self._kept:
            return self._kept[at]
        args, kwargs = Call.of(piece).cloned()
        with _features(self.old, self.names) as theirs:
            wanted = [t for t in tensors_in(self.old(*args, **kwargs)) if t.is_floating_point()]
        found = wanted, {name: one.clone() for name, one in theirs.items()}
        size = sum(one.numel() * one.element_size() for one in (*wanted, *theirs.values()))
        if at is not None and self._kept_bytes + size <= _HELD:
            self._kept[at] = found
            self._kept_bytes += size
        return found

    def _saved(self, state: dict[str, Any], checkpoint: str | os.PathLike[str] | None) -> None:
        if checkpoint is None:
            return
        held = {**state, "model": self.new.state_dict(), "optimizer": self.optimizer.state_dict()}
        part = Path(f"{os.fspath(checkpoint)}.part")
        torch.save(held, part)
        part.replace(checkpoint)  # a kill leaves the last whole one

    def _resumed(self, state: dict[str, Any], checkpoint: str | os.PathLike[str] | None) -> dict[str, Any]:
        if checkpoint is None or not Path(checkpoint).is_file():
            return state
        try:
            held = torch.load(checkpoint, weights_only=True)
            self.new.load_state_dict(held["model"])
            self.optimizer.load_state_dict(held["optimizer"])
            return {key: held[key] for key in state}
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise InputError(
                f"recover: {os.fspath(checkpoint)} is no checkpoint of this model: {error}"
            ) from error


def _steps(pieces: Sequence[Inputs]) -> list[Inputs]:
    found: list[Inputs] = []
    for piece in pieces:
        found += piece.split(_STEP) if isinstance(piece, Tensor) and piece.dim() > 1 else [piece]
    return found


def _loss(made: Tensor, wanted: Tensor) -> Tensor:
    axis = class_axis(wanted)
    error = _relative(made, wanted)
    if axis is None:
        return error
    if sums_to_one(wanted):
        logs, target = (one.float().clamp_min(_LEAST).log() for one in (made, wanted))
    else:
        logs, target = (one.float().log_softmax(axis) for one in (made, wanted))
    size = max(1, wanted.numel() // wanted.shape[axis])
    return error + F.kl_div(logs, target, log_target=True, reduction="sum") / size


def _relative(made: Tensor, wanted: Tensor) -> Tensor:
    made, wanted = made.float(), wanted.float()
    return (made - wanted).square().sum() / wanted.square().sum().clamp_min(1e-12)
