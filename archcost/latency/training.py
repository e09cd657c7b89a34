"""`training_step` with a measured time: real steps of a copy of the model."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

from archcost.analysis.training import TrainingStep
from archcost.analysis.training import training_step as counted
from archcost.errors import ArchcostError, ModelError, one_line

if TYPE_CHECKING:
    from torch import nn

    from archcost.trace.call import Inputs
    from archcost.trace.inputs import DTypes, InputSize
    from archcost.trace.training import MakeOptimizer

__all__ = ["training_step"]


def training_step(
    model: nn.Module | str,
    inputs: Inputs = None,
    *,
    input_size: InputSize | None = None,
    dtype: DTypes | None = None,
    optimizer: str | MakeOptimizer = "adamw",
    measure: bool = False,
    seconds: float = 10.0,
) -> TrainingStep:
    """What one training step costs: MACs of forward, backward and update by operator, and memory at the peak.

    Nothing is computed: forward, PyTorch's own backward from the sum of every output, and two updates run on
    the device `meta`. Frozen parameters and gradient checkpointing are seen as they are. The cost of the loss
    is not included.

    Args:
        model: a module, which comes back untouched, or a SPEC. In eval mode it is taken in training mode.
        inputs: as in `archcost.analyze`.
        input_size: as in `archcost.analyze`; by default the one that the model suggests.
        dtype: as in `archcost.analyze`.
        optimizer: a name of ``torch.optim`` (SGD and RMSprop with momentum), or a function of parameters that
            makes an optimiser.
        measure: time real steps as well, of a copy of the model.
        seconds: the wall time that measuring may take.

    Raises:
        InputError: the inputs do not fit, or there is no such optimiser.
        ModelError: the model needs values, or nothing in it can be trained.
        SpecError: the SPEC names nothing that can be loaded.
    """
    found = counted(model, inputs, input_size=input_size, dtype=dtype, optimizer=optimizer)
    if not measure:
        return found
    times = _timed(model, inputs, found, dtype, optimizer, seconds)
    if times is None:
        return replace(found, notes=(*found.notes, f"not timed: no time for five steps in {seconds:g} s"))
    return replace(found, measured_ms=times)


def _timed(
    model: nn.Module | str,
    inputs: Inputs,
    found: TrainingStep,
    dtype: DTypes | None,
    optimizer: str | MakeOptimizer,
    seconds: float,
) -> float | None:
    """The median time of a step in ms; None where there was no time for five."""
    import torch

    from archcost.latency.requests import requests_of
    from archcost.models.specs import load
    from archcost.trace import inputs as made
    from archcost.trace.call import Call
    from archcost.trace.modules import walk
    from archcost.trace.training import optimizer_named

    floats = made.floating(dtype)
    trained = load(model, dtype=floats).model if isinstance(model, str) else copy.deepcopy(model)
    if found.in_train_mode:
        trained.train()
    if inputs is None:
        args = made.make(found.input_size, found.input_dtypes, made.dtype_of(walk(trained)), "cpu")
        call = Call(*args)
    else:
        call = Call.of(inputs)
    update = optimizer_named(optimizer)([one for one in trained.parameters() if one.requires_grad])

    def step() -> None:
        outputs = trained(*call.args, **call.kwargs)
        roots = [one for one in made.tensors_in(outputs) if one.requires_grad]
        torch.autograd.backward(roots, [torch.ones_like(one) for one in roots])
        update.step()
        update.zero_grad()

    try:
        times = requests_of(step, 1, seconds)
    except ArchcostError:
        raise
    except Exception as error:
        raise ModelError(f"{found.name}: a real training step failed: {one_line(error)}") from error
    return None if times is None else times.median_ms
