"""Unlabelled inputs from the command line: a folder of images, a tensor, a calibration, or a function."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from archcost.errors import InputError, SpecError

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from archcost.trace.inputs import InputSize

__all__ = ["load_data"]

_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff", ".gif")


def load_data(given: str, spec: str, size: InputSize | None, most: int) -> Any:
    """The batches that ``--data`` names, as `archcost.optimize` takes them.

    Images are looked for in all folders below, every n-th where there are more than ``most``, and go through
    the transforms that torchvision publishes with the model's weights, else are scaled to ImageNet's
    statistics at the size of the input.

    Raises:
        SpecError: there is no such file or function, or no image in the folder.
    """
    path = Path(given)
    if path.is_dir():
        return _images(path, spec, size, most)
    source, colon, name = given.rpartition(":")
    if colon and source.endswith(".py"):
        from archcost.models.specs import attribute

        made = attribute(source, name)
        return made() if callable(made) else made
    if path.suffix == ".npz" and path.is_file():
        from archcost.optimizing.calibration import Calibration

        return Calibration.read(path)
    if path.is_file():
        from archcost.cli.batches import load_batches

        return load_batches([given], 64)
    raise SpecError(f"--data: there is no folder or file {given!r}; FILE.py:FUNCTION gives batches from code")


def _images(folder: Path, spec: str, size: InputSize | None, most: int) -> torch.Tensor:
    import torch
    from torchvision.io import ImageReadMode, decode_image

    found = sorted(one for one in folder.rglob("*") if one.suffix.lower() in _IMAGES)
    if not found:
        raise SpecError(f"--data: there is no image in {folder}")
    step = max(1, len(found) // max(most, 1))
    transform = _transform(spec, size)
    made, wrong = [], 0
    for one in found[::step][:most]:
        try:
            made.append(transform(decode_image(str(one), ImageReadMode.RGB)))
        except RuntimeError:
            wrong += 1
    if not made:
        raise SpecError(f"--data: none of the {wrong} images in {folder} can be read")
    return torch.stack(made)


def _transform(spec: str, size: InputSize | None) -> Callable[[torch.Tensor], torch.Tensor]:
    from torchvision.transforms import v2

    source, _, name = spec.rpartition(":")
    if source == "torchvision":
        from torchvision.models import get_model_weights

        try:
            made: Callable[[torch.Tensor], torch.Tensor] = get_model_weights(name).DEFAULT.transforms()
        except (ValueError, AttributeError):
            pass
        else:
            return made
    if not (isinstance(size, tuple) and len(size) == 4 and size[1] in (1, 3)):
        raise InputError("--data: give --input-size N,C,H,W, for images of that size")
    import torch

    _, channels, height, width = (int(n) for n in size)  # type: ignore[arg-type]
    grey = [v2.Grayscale()] if channels == 1 else []
    scaled: Callable[[torch.Tensor], torch.Tensor] = v2.Compose(
        [
            v2.Resize(max(height, width), antialias=True),
            v2.CenterCrop([height, width]),
            *grey,
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406][:channels], [0.229, 0.224, 0.225][:channels]),
        ]
    )
    return scaled
