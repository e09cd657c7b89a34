"""Inputs by the conventions of libraries: those that a model carries, or that its configuration describes.

Lightning's ``example_input_array``, timm's ``pretrained_cfg``, and the ``config`` and ``dummy_inputs`` of
transformers. No library is imported: attributes tell.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from archcost.trace.call import Call
from archcost.trace.inputs import SEQUENCE_LENGTH, Guess, Shape, from_first_layer, make, times

if TYPE_CHECKING:
    import torch
    from torch import nn

    from archcost.trace.inputs import DTypes
    from archcost.trace.modules import ModuleTree
    from archcost.trace.passes import MakeInputs

__all__ = ["assumed_inputs", "guesses"]

# A second, as the speech models of transformers hear it.
_SAMPLES = 16000


def assumed_inputs(
    model: nn.Module, tree: ModuleTree, dtype: DTypes | None, model_dtype: torch.dtype
) -> Iterator[tuple[MakeInputs, str]]:
    """Ways to make the inputs of a model for which none are given, best first, each with its assumption.

    Args:
        model: the model.
        tree: its modules.
        dtype: as in `archcost.trace.inputs.make`; whole numbers stay whole.
        model_dtype: the dtype of the model's weights.
    """
    example = getattr(model, "example_input_array", None)
    if example is not None:
        # As Lightning calls the model: a list, too, is positional arguments.
        call = Call.of(tuple(example) if isinstance(example, list) else example)
        yield call.on, "inputs from the model's example_input_array"
        return
    for size, kind, assumed in guesses(model, tree):
        kinds: DTypes | None = dtype or kind
        if isinstance(size, dict) and isinstance(kind, dict):
            kinds = {name: kind.get(name) or dtype for name in size}
        yield partial(make, size, kinds, model_dtype), assumed
    dummy = getattr(model, "dummy_inputs", None)
    if isinstance(dummy, Mapping) and getattr(model, "main_input_name", None) in (None, *dummy):
        yield Call.of(dict(dummy)).on, "inputs from the model's dummy_inputs"


def guesses(model: nn.Module, tree: ModuleTree) -> list[Guess]:
    """Input shapes worth trying, best first: ``(shape, dtype or None, what was assumed)``."""
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    if isinstance(config, Mapping) and config.get("input_size"):
        return _of_timm(tree, tuple(config["input_size"]))
    return [*_of_transformers(model), *from_first_layer(tree)]


def _of_timm(tree: ModuleTree, size: tuple[int, ...]) -> list[Guess]:
    """The size of ``pretrained_cfg``, which stays that of the weights where `create_model` got another one.

    The size of images is kept by the layer that cuts them into patches, the channels by the first layer.
    """
    sizes = (_pair(getattr(module, "img_size", None)) for module in tree.modules.values())
    channels = (getattr(module, "in_channels", None) for module in tree.modules.values())
    built = next(filter(None, sizes), size[1:])
    first = next((n for n in channels if isinstance(n, int)), size[0])
    # A multiple of the channels is rather a patch of pixels that was laid into them.
    order = (first, size[0]) if first % size[0] else (size[0], first)
    found: list[Guess] = []
    for n in dict.fromkeys(order):
        more = " and first layer" if n != size[0] else ""
        for image, source in {built: "img_size", size[1:]: "pretrained_cfg"}.items():
            shape = (1, n, *image)
            found.append((shape, None, f"input size {times(shape)} from the model's {source}{more}"))
    return found


def _of_transformers(model: nn.Module) -> list[Guess]:
    """All arguments whose shapes the config tells; and the main one alone, which may do without others."""
    config, main = getattr(model, "config", None), getattr(model, "main_input_name", None)
    if not hasattr(config, "to_dict") or not isinstance(main, str):
        return []
    takes = inspect.signature(model.forward).parameters
    names = sorted(takes.keys() & _READERS, key=lambda name: (name != main, name))
    shapes = {name: shape for name in names if (shape := _READERS[name](config))}
    if main not in shapes:
        return []
    least = {name: shape for name, shape in shapes.items() if name in (main, "decoder_input_ids")}
    return [_described(some) for some in (shapes, *([least] if least != shapes else []))]


def _described(shapes: dict[str, Shape]) -> Guess:
    import torch

    texts = [f"{name} {times(shape)}" for name, shape in shapes.items()]
    whole = {name: torch.int64 for name in shapes if name.endswith("input_ids")}
    return shapes, whole, f"input{'s' * (len(texts) > 1)} {', '.join(texts)} assumed from the model's config"


def _images(config: object) -> Shape | None:
    """The shape of an image, or of the frames of a video."""
    size, frames = _pair(_setting(config, "image_size")), _number(config, "num_frames")
    if size is None:
        return None
    return (1, *([frames] if frames else []), _number(config, "num_channels") or 3, *size)


def _tokens(config: object) -> Shape | None:
    longest = _number(config, "max_position_embeddings", "max_target_positions") or SEQUENCE_LENGTH
    return (1, min(SEQUENCE_LENGTH, longest)) if _number(config, "vocab_size") else None


def _decoded(config: object) -> Shape | None:
    return _tokens(config) if getattr(config, "is_encoder_decoder", False) else None


def _spectrogram(config: object) -> Shape | None:
    """The shape that Whisper takes: its first convolutions halve the time."""
    bands, length = _number(config, "num_mel_bins"), _number(config, "max_source_positions")
    return (1, bands, 2 * length) if bands and length else None


def _sound(config: object) -> Shape | None:
    """The shape of a spectrogram (audio transformers), or of samples where convolutions hear them."""
    bands, length = _number(config, "num_mel_bins"), _number(config, "max_length")
    if bands and length:
        return 1, length, bands
    return (1, _SAMPLES) if _setting(config, "conv_kernel") else None


_READERS: dict[str, Callable[[object], Shape | None]] = {
    "pixel_values": _images,
    "input_ids": _tokens,
    "decoder_input_ids": _decoded,
    "input_features": _spectrogram,
    "input_values": _sound,
}


def _number(config: object, *names: str) -> int | None:
    """The first of the settings that is a whole number above 0."""
    values = (_setting(config, name) for name in names)
    return next((value for value in values if isinstance(value, int) and value > 0), None)


def _setting(config: object, name: str) -> Any:
    """A value of the config or of one inside it (``vision_config``, ``encoder``); None where none has it."""
    own = getattr(config, name, None)
    if own is not None:
        return own
    held = getattr(config, "__dict__", {}).values()
    inner = (_setting(value, name) for value in held if hasattr(value, "to_dict"))
    return next((value for value in inner if value is not None), None)


def _pair(size: object) -> tuple[int, int] | None:
    """Height and width from a whole number, a pair, or a dict of both."""
    if isinstance(size, Mapping):
        size = (size.get("height"), size.get("width"))
    sides = size if isinstance(size, (tuple, list)) else (size, size)
    numbers = [side for side in sides if isinstance(side, int) and side > 0]
    return (numbers[0], numbers[1]) if len(sides) == len(numbers) == 2 else None
