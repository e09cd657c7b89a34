"""Weights from a local file, read as plain tensors: code in a checkpoint is never executed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from archcost.errors import SpecError

if TYPE_CHECKING:
    import torch
    from torch import nn

Plain: TypeAlias = "torch.Tensor | complex | str | Sequence[Plain] | Mapping[str, Plain] | None"
"""Tensors and plain values, as a file without code holds them."""

# The first bytes of a file that torch.save wrote: the zip format, and the older pickle.
_SAVED = (b"PK", b"\x80")


def read_tensors(path: Path, what: str) -> Plain:
    """The tensors in a file that ``torch.save`` wrote.

    Raises:
        SpecError: the file is another one, or holds code; its message begins with ``what``.
    """
    import torch

    try:
        found: Plain = torch.load(path, map_location="cpu", weights_only=True)
        return found
    except Exception as error:  # whatever a broken file makes it raise
        # PyTorch's own message advises to load the file unsafely.
        held = re.search(r"GLOBAL (\S+)", str(error))
        with path.open("rb") as file:
            saved = file.read(2).startswith(_SAVED)
        if held is not None:
            why = f"it holds a {held[1]}, whose code is not executed; save its state_dict() or tensors"
        else:
            why = "the file is damaged" if saved else "torch.save did not write it"
        raise SpecError(f"{what}: {path.name} cannot be read as plain tensors: {why}") from error


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        from safetensors.torch import load_file

        return load_file(path)
    except ImportError as error:
        raise SpecError("weights: .safetensors needs safetensors: pip install safetensors") from error
    except Exception as error:  # whatever a broken file makes it raise
        why = str(error).strip().split("\n")[0]
        raise SpecError(f"weights: {path.name} cannot be read as plain tensors: {why}") from error


def load_weights(model: nn.Module, path: Path) -> None:
    """Load the state dict in the file ``path`` into ``model``.

    Raises:
        SpecError: there is no such file, it holds no state dict, or that does not fit the model.
    """
    if not path.is_file():
        raise SpecError(f"weights: there is no file {str(path)!r}")
    state = _safetensors(path) if path.suffix == ".safetensors" else read_tensors(path, "weights")
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise SpecError(f"weights: {path.name} holds no state dict")
    # DataParallel prefixes every name with "module.".
    own = any(key.startswith("module.") for key in model.state_dict())
    if state and not own and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        text = " ".join(str(error).split())[:300]
        raise SpecError(f"weights: {path.name} does not fit the model: {text}") from error
