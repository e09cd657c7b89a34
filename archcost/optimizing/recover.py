"""recover: a changed model brought closer to the old one, without labels; kept only where it helps."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from math import cos, pi
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archcost.errors import InputError
from archcost.nn import adapters
from archcost.optimizing.data import data_of
from archcost.optimizing.optimized import moved_text
from archcost.optimizing.verify import Moved, class_axis, moved, outputs_for
from archcost.progress import Progress
from archcost.report.columns import number, words
from archcost.report.document import Asked, Document, Table
from archcost.report.result import Result
from archcost.surgery.copying import copied
from archcost.trace.call import Call, Inputs
from archcost.trace.inputs import tensors_in
from archcost.weights.refit import refit

__all__ = ["Recovered", "recover"]

_PATIENCE = 5
_SHARE = 0.5
"""Weight of the features' loss beside that of the outputs."""


@dataclass(frozen=True)
class Recovered(Result):
    """The result of `recover`: the better model of the two, and both changes on held-out inputs."""

    model: nn.Module
    method: str
    before: Moved
    after: Moved
    """Of the recovered model, whether or not it was kept."""
    kept: bool
    """Whether ``model`` is the recovered one; else it is a copy of the one given."""
    steps: int

    def document(self, asked: Asked) -> Document:
        """The schema of ``archcost.recovered/1``: the fields by their names, without the model."""
        asked.without_depth("a recovery")
        rows = [("before", self.before), ("after", self.after)]
        table = Table("moved", _COLUMNS, lambda: rows)
        verdict = "kept" if self.kept else "not kept, as it does not help"
        return Document(
            schema="archcost.recovered/1",
            headings=[(type(self.model).__name__, f"recovered by {self.method}")],
            tables=[table],
            shown=[table],
            record=lambda: {
                "method": self.method,
                "before": asdict(self.before),
                "after": asdict(self.after),
                "kept": self.kept,
                "steps": self.steps,
            },
            lines=[f"{verdict}: {moved_text(self.before)} before, {moved_text(self.after)} after"],
        )


def _share(value: float) -> str:
    return f"{value:.3g}"


_COLUMNS = (
    words("when", "", "Before or after", lambda row: row[0]),
    number(
        "agreement", "Agreement", "Share of outputs that keep their class", _share, lambda r: r[1].agreement
    ),
    number("kl", "Divergence", "KL divergence, nats", _share, lambda r: r[1].kl),
    number("error", "Error", "||new - old|| / ||old|| of the outputs", _share, lambda r: r[1].error),
)


def recover(
    new: nn.Module,
    old: nn.Module,
    batches: Iterable[Inputs] | Tensor,
    method: Literal["least_squares", "distill"] = "least_squares",
    *,
    epochs: int = 20,
    lr: float = 2e-4,
    weight_decay: float = 1e-4,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Recovered:
    """The changed model, fitted to the old one's outputs and features over unlabelled inputs.

    ``least_squares`` refits every layer in order in closed form. ``distill`` is gradient descent (G. Hinton,
    O. Vinyals and J. Dean, "Distilling the Knowledge in a Neural Network", 2015): AdamW with a cosine
    schedule, on the divergence of classes, or the squared error, and the squared errors of the layers that
    both models have; normalisations keep their statistics. It stops after 5 epochs without gain on the
    held-out quarter, and the best epoch is taken. On a GPU passes are in bfloat16.

    Args:
        new: a rewritten or otherwise changed model; it ends unchanged.
        old: the model to follow, with the same outputs.
        batches: unlabelled inputs, as for `archcost.optimize`.
        epochs, lr, weight_decay, seed: of the distillation; the same seed gives the same result on a machine.
        checkpoint: a file written after each epoch; where it exists, the distillation goes on from it.
        progress: draw a progress bar on stderr; by default on a terminal.

    Raises:
        InputError: an argument is not valid, there are no batches, or the checkpoint is of another model.
    """
    if method not in ("least_squares", "distill"):
        raise InputError(f"recover: method is {method!r}; it takes 'least_squares' or 'distill'")
    data = data_of(batches)
    wanted = outputs_for(old, data.held_out)
    work = copied(new)
    before = moved(outputs_for(work, data.held_out), wanted)
    steps = 0
    if method == "least_squares":
        names = _fitted(old, work)
        found = refit(old, work, names, list(data.fitted), progress=progress)
        steps = len(found)
    else:
        loop = _Loop(work, old, epochs, lr, weight_decay, seed)
        steps = loop.run(data.fitted, data.held_out, wanted, checkpoint, progress)
    after = moved(outputs_for(work, data.held_out), wanted)
    kept = after.score < before.score
    return Recovered(work if kept else copied(new), method, before, after, kept, steps)


def _fitted(old: nn.Module, new: nn.Module) -> list[str]:
    """Convolutions and linear layers of the old model whose place in the new one ends in such a layer."""
    theirs = dict(new.named_modules())
    found = []
    for name, module in old.named_modules():
        if not (isinstance(module, nn.Linear) or adapters.known(module)) or name not in theirs:
            continue
        last = theirs[name]
        while isinstance(last, nn.Sequential) and len(last):
            last = last[-1]
        if isinstance(last, nn.Linear) or adapters.known(last):
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


class _Loop:
    """A plain training loop in eval mode: dropout off, statistics of normalisations kept."""

    def __init__(
        self, new: nn.Module, old: nn.Module, epochs: int, lr: float, weight_decay: float, seed: int
    ) -> None:
        self.new, self.old, self.epochs, self.lr, self.seed = new.eval(), old, epochs, lr, seed
        self.names = _fitted(old, new)
        self.grads = {name: p.requires_grad for name, p in new.named_parameters()}
        self.parameters = [p.requires_grad_() for p in new.parameters() if p.is_floating_point()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr, weight_decay=weight_decay)
        self.device = next((p.device for p in self.parameters), torch.device("cpu"))

    def run(
        self,
        fitted: Sequence[Inputs],
        held_out: Sequence[Inputs],
        wanted: list[list[Tensor]],
        checkpoint: str | os.PathLike[str] | None,
        progress: bool | None,
    ) -> int:
        """Train, leave the best epoch's weights in the model, and return the number of steps."""
        best = moved(outputs_for(self.new, held_out), wanted).score
        state: dict[str, Any] = {
            "best": {key: value.detach().clone() for key, value in self.new.state_dict().items()},
            "score": best,
            "epoch": 0,
            "stale": 0,
            "steps": 0,
        }
        state = self._resumed(state, checkpoint)
        generator = torch.Generator()
        mode = [(module, module.training) for module in self.old.modules()]
        self.old.eval()
        try:
            with Progress(self.epochs, "distill", progress) as bar:
                while state["epoch"] < self.epochs and state["stale"] < _PATIENCE:
                    for group in self.optimizer.param_groups:
                        group["lr"] = self.lr * 0.5 * (1 + cos(pi * state["epoch"] / self.epochs))
                    generator.manual_seed(self.seed * 100003 + state["epoch"])
                    for at in torch.randperm(len(fitted), generator=generator).tolist():
                        state["steps"] += self._step(fitted[at])
                    score = moved(outputs_for(self.new, held_out), wanted).score
                    state["epoch"] += 1
                    state["stale"] += 1
                    if score < state["score"]:
                        now = {key: value.detach().clone() for key, value in self.new.state_dict().items()}
                        state |= {"best": now, "score": score, "stale": 0}
                    self._saved(state, checkpoint)
                    bar.step()
        finally:
            for module, training in mode:
                module.training = training
            self.new.load_state_dict(state["best"])
            for name, parameter in self.new.named_parameters():
                parameter.requires_grad_(self.grads[name])
                parameter.grad = None
        return int(state["steps"])

    def _step(self, piece: Inputs) -> int:
        args, kwargs = Call.of(piece).cloned()
        mixed = torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else nullcontext()
        with mixed, _features(self.new, self.names) as ours, _features(self.old, self.names) as theirs:
            with torch.no_grad():
                wanted = [t for t in tensors_in(self.old(*args, **kwargs)) if t.is_floating_point()]
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
        return 1

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


def _loss(made: Tensor, wanted: Tensor) -> Tensor:
    axis = class_axis(wanted)
    error = _relative(made, wanted)
    if axis is None:
        return error
    logs, target = (one.float().log_softmax(axis) for one in (made, wanted))
    size = max(1, wanted.numel() // wanted.shape[axis])
    return error + F.kl_div(logs, target, log_target=True, reduction="sum") / size


def _relative(made: Tensor, wanted: Tensor) -> Tensor:
    made, wanted = made.float(), wanted.float()
    return (made - wanted).square().sum() / wanted.square().sum().clamp_min(1e-12)
