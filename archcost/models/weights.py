"""Weights from a local file, as plain tensors: code in a checkpoint is never run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archcost.errors import SpecError

if TYPE_CHECKING:
    from torch import nn


# How a file begins that torch.save wrote, now and formerly.
_SAVED = (b"PK", b"\x80")


def read_tensors(path: Path, what: str) -> Any:
    """The plain tensors of a file that ``torch.save`` wrote; SpecError, for ``what``, for any other."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken file makes it raise
        # In other words than PyTorch's, which advise to load it unsafely.
        held = re.search(r"GLOBAL (\S+)", str(error))
        with path.open("rb") as file:
            saved = file.read(2).startswith(_SAVED)
        if held is not None:
            why = f"it holds a {held[1]}, and code of a file is never run; save its state_dict() or tensors"
        else:
            why = "the file is damaged" if saved else "it is no file that torch.save wrote"
        raise SpecError(f"{what}: {path.name} cannot be read as plain tensors: {why}") from error


def _safetensors(path: Path) -> Any:
    try:
        from safetensors.torch import load_file

        return load_file(path)
    except ImportError as error:
        raise SpecError("weights: reading safetensors needs it: pip install safetensors") from error
    except Exception as error:  # whatever a broken file makes it raise
        why = str(error).strip().split("\n")[0]
        raise SpecError(f"weights: {path.name} cannot be read as plain tensors: {why}") from error


def load_weights(model: nn.Module, path: Path) -> None:
    """Put the state dict in ``path`` into the model; SpecError if it does not fit."""
    if not path.is_file():
        raise SpecError(f"weights: there is no file {str(path)!r}")
    state = _safetensors(path) if path.suffix == ".safetensors" else read_tensors(path, "weights")
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
