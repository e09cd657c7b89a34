"""Weights from a local file, as plain tensors: code in a checkpoint is never run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from archcost.errors import SpecError

if TYPE_CHECKING:
    from torch import nn


def load_weights(model: nn.Module, path: Path) -> None:
    """Put the state dict in ``path`` into the model; SpecError if it does not fit."""
    import torch

    if not path.is_file():
        raise SpecError(f"weights: there is no file {str(path)!r}")
    state: Any
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise SpecError("weights: reading safetensors needs it: pip install safetensors") from error
    except Exception as error:
        text = str(error).strip().split("\n")[0]
        raise SpecError(f"weights: {path.name} cannot be read as plain tensors: {text}") from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise SpecError(f"weights: {path.name} holds no state dict")
    # DataParallel puts a prefix before every name.
    own = any(key.startswith("module.") for key in model.state_dict())
    if state and not own and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        text = " ".join(str(error).split())[:300]
        raise SpecError(f"weights: {path.name} does not fit the model: {text}") from error
