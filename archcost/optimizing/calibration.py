"""calibrate: the statistics of a model's layers over unlabelled inputs, in a file that optimize takes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn

from archcost.analysis.analysis import analyze
from archcost.errors import InputError
from archcost.optimizing.data import data_of
from archcost.optimizing.layers import layers_of
from archcost.optimizing.statistics import CEILING, Sampled, Statistics, Whole, collected, in_parts
from archcost.rewriting.survey.survey import survey_of
from archcost.trace.call import Inputs
from archcost.weights.features import weight_of
from archcost.weights.moments import Moments

__all__ = ["Calibration", "calibrate"]

_FORMAT, _VERSION = "archcost.calibration", 1
_HEAD = "archcost"


@dataclass(frozen=True, eq=False)
class Calibration:
    """The statistics of a model's layers by name, and some of the inputs that they are of."""

    path: Path
    model: str
    """Class name of the model."""
    layers: dict[str, tuple[int, ...]] = field(repr=False)
    """Shape of each layer's weight."""
    inputs: torch.Tensor | None = field(default=None, repr=False)
    """The inputs that were kept with them."""

    def __repr__(self) -> str:
        kept = "no inputs" if self.inputs is None else f"{len(self.inputs)} inputs"
        return f"<Calibration of {len(self.layers)} layers of a {self.model} and {kept} in {self.path}>"

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Calibration:
        """The calibration in a file; statistics stay in it until they are needed.

        Raises:
            InputError: it cannot be read as one.
        """
        try:
            with np.load(path, allow_pickle=False) as held:
                head = json.loads(str(held[_HEAD]))
                inputs = torch.from_numpy(held["inputs"]) if "inputs" in held else None
            if head["format"] != _FORMAT or head["version"] != _VERSION:
                raise ValueError(f"it is {head['format']} {head['version']}")
            layers = {name: tuple(shape) for name, shape in head["layers"].items()}
            return cls(Path(path), str(head["model"]), layers, inputs)
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise InputError(f"{os.fspath(path)} is no file of archcost.calibrate: {error}") from error

    def statistics(self, names: Sequence[str], model: nn.Module) -> dict[str, Statistics]:
        """The statistics of some layers.

        Raises:
            InputError: a layer of the model has another shape than the calibrated one.
        """
        found: dict[str, Statistics] = {}
        with np.load(self.path, allow_pickle=False) as held:
            for name in names:
                if name not in self.layers:
                    continue
                shape = tuple(weight_of(model.get_submodule(name)).shape)
                if shape != self.layers[name]:
                    raise InputError(
                        f"{self.path}: {name} was calibrated with a weight of shape {self.layers[name]}, and "
                        f"has {shape} here: calibrate this model"
                    )
                count = int(held[f"{name}/count"])
                mean = torch.from_numpy(held[f"{name}/mean"])
                if f"{name}/rows" in held:
                    rows = torch.from_numpy(held[f"{name}/rows"])
                    found[name] = Sampled(count, shape[1:], mean, rows)
                    continue
                low, high = (torch.from_numpy(held[f"{name}/{end}"]) for end in ("low", "high"))
                covariance = torch.from_numpy(held[f"{name}/covariance"]).double()
                found[name] = Whole(Moments(count, shape[1:], mean, covariance, low, high))
        return found


def calibrate(
    model: nn.Module,
    batches: Iterable[Inputs] | torch.Tensor,
    path: str | os.PathLike[str],
    *,
    keep_inputs: int = 256,
    memory: int = CEILING,
    progress: bool | None = None,
) -> Calibration:
    """The covariances of the inputs of all convolutions and linear layers, written to a file.

    `archcost.optimize` takes the result, or the file's path, as ``batches``: plans for several budgets then
    share one pass over the data.

    Args:
        batches: unlabelled inputs, as for `archcost.optimize`.
        path: the file to write, an ``.npz`` without pickled objects.
        keep_inputs: the most inputs to keep in the file, for refit and check; where batches are no tensors,
            none are kept, and both are left out.
        memory: most bytes of covariances held at once.
        progress: draw a progress bar on stderr; by default on a terminal.

    Raises:
        InputError: there are no batches, or the model does not take them.
        ModelError: the model cannot be traced.
    """
    data = data_of(batches)
    pieces = [*data.fitted, *(data.held_out if data.apart else ())]
    first = pieces[0]
    analysis = analyze(model, first[:1] if isinstance(first, torch.Tensor) else first, progress=progress)
    layers = [one for one in layers_of(survey_of(analysis, hooks="keep")) if one.refusal is None]
    arrays: dict[str, np.ndarray] = {}
    shapes: dict[str, list[int]] = {}
    modules = {one.name: one.module for one in layers if not one.specs[0].transposed}
    for part in in_parts(modules, memory):
        for name, one in collected(model, part, pieces, ceiling=memory, progress=progress).items():
            shapes[name] = list(weight_of(modules[name]).shape)
            arrays |= {f"{name}/{key}": value for key, value in _arrays(one).items()}
    tensors = [piece for piece in pieces if isinstance(piece, torch.Tensor)]
    if keep_inputs > 0 and len(tensors) == len(pieces):
        arrays["inputs"] = torch.cat(tensors)[:keep_inputs].cpu().numpy()
    head = {"format": _FORMAT, "version": _VERSION, "model": type(model).__name__, "layers": shapes}
    arrays[_HEAD] = np.array(json.dumps(head))
    try:
        with Path(path).open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise InputError(f"calibrate: cannot write {os.fspath(path)}: {error}") from error
    return Calibration.read(path)


def _arrays(one: Statistics) -> dict[str, np.ndarray]:
    if isinstance(one, Sampled):
        return {"count": np.array(one.count), "mean": one.mean.numpy(), "rows": one.rows.numpy()}
    moments = one.moments
    low, high = cast(torch.Tensor, moments.low), cast(torch.Tensor, moments.high)
    return {
        "count": np.array(moments.count),
        "mean": moments.mean.numpy(),
        "covariance": moments.covariance.float().numpy(),
        "low": low.numpy(),
        "high": high.numpy(),
    }
