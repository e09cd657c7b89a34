"""torchvision's models, built as published, and the parameters and GMACs that torchvision publishes."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from archcost.errors import SpecError
from archcost.models.building import Loaded, build, near

if TYPE_CHECKING:
    from torch import nn
    from torchvision.models import WeightsEnum

Size: TypeAlias = "tuple[int, ...] | list[Size]"
"""The shape of an input, or those of several."""

# Input sizes at which torchvision publishes operations, where the transforms of the weights do not hold them:
# frames of a clip, sides of square images.
VIDEO_FRAMES = 16
FLOW_SIZE = 512
DETECTION_SIZE = 800
_DETECTION_SIZES = {"ssd300_vgg16": 300, "ssdlite320_mobilenet_v3_large": 320}


@dataclass(frozen=True)
class Published:
    """The figures that torchvision publishes for a model: parameters, and GMACs rounded to 3 decimals."""

    name: str
    task: str
    weights: str
    params: int
    gmacs: float
    image_size: int
    """The ``image_size`` argument of a vision transformer's constructor; 0 for other models."""
    input_size: Size


def names() -> list[str]:
    """The names of all models that torchvision registers."""
    from torchvision.models import list_models

    return list(list_models())


def task_of(name: str) -> str:
    """The task of a torchvision model: ``classification``, ``segmentation``, ``detection`` ..."""
    from torchvision.models import get_model_builder

    module = get_model_builder(name).__module__
    for task in ("quantization", "segmentation", "detection", "video", "optical_flow"):
        if f".{task}" in module:
            return task
    return "classification"


def _size_of(name: str, task: str, entry: WeightsEnum) -> Size:
    """The input size (batch 1) at which ``entry`` of a weights enumeration was measured."""
    if task == "detection":
        side = _DETECTION_SIZES.get(name, DETECTION_SIZE)
        return [[(3, side, side)]]
    if task == "optical_flow":
        return [(1, 3, FLOW_SIZE, FLOW_SIZE)] * 2
    transforms = entry.transforms()
    size = transforms.resize_size if task == "segmentation" else transforms.crop_size
    height, width = (size[0], size[-1])
    return (1, 3, VIDEO_FRAMES, height, width) if task == "video" else (1, 3, height, width)


def published(name: str) -> list[Published]:
    """The published figures of a model, one entry per set of weights, the default weights first."""
    from torchvision.models import get_model_weights

    task, weights = task_of(name), get_model_weights(name)
    rows: list[Published] = []
    for entry in weights:
        if "_ops" not in entry.meta or "num_params" not in entry.meta:
            continue
        minimum = entry.meta.get("min_size", (0,))[0] if name.startswith("vit_") else 0
        row = Published(
            name=name,
            task=task,
            weights=entry.name,
            params=entry.meta["num_params"],
            gmacs=entry.meta["_ops"],
            image_size=minimum,
            input_size=_size_of(name, task, entry),
        )
        rows.insert(0 if entry is weights.DEFAULT else len(rows), row)
    return rows


def _torchvision_arguments(name: str, task: str, image_size: int) -> dict[str, int | None]:
    """Constructor arguments: no download, and the output heads that the published figures include."""
    from torchvision.models import get_model_builder

    known = inspect.signature(get_model_builder(name)).parameters
    arguments: dict[str, int | None] = {"weights": None}
    if "weights_backbone" in known:
        arguments["weights_backbone"] = None
    if task == "segmentation":
        arguments["num_classes"] = 21
        if "aux_loss" in known:
            arguments["aux_loss"] = True
    if task == "quantization":
        arguments["quantize"] = True
    if "googlenet" in name:
        arguments |= {"aux_logits": False, "init_weights": False}
    if "inception_v3" in name:
        arguments |= {"aux_logits": True, "init_weights": False}
    if image_size:
        arguments["image_size"] = image_size
    return arguments


def build_torchvision(row: Published, without_values: bool = True) -> Loaded:
    """The torchvision model that ``row`` describes; by default with weights on `meta` where possible."""
    from torchvision.models import get_model

    arguments = _torchvision_arguments(row.name, row.task, row.image_size)
    # Quantizing calibrates on real values, and detection models compute with theirs.
    light = without_values and row.task not in ("quantization", "detection")
    spec = f"torchvision:{row.name}"
    model, empty = build(lambda: get_model(row.name, **arguments), light, spec)
    if _freezes_norms(row):
        _freeze_norms(model)
    source = f"torchvision's weights {row.weights}"
    return Loaded(model, spec, row.input_size, f"input size {_text(row.input_size)} from {source}", empty)


def _freezes_norms(row: Published) -> bool:
    """Whether the constructor freezes the backbone's batch norms when it loads trained weights."""
    return row.task == "detection" and not row.name.startswith("ssd") and not row.name.endswith("_v2")


def _freeze_norms(model: nn.Module) -> None:
    """Replace the backbone's batch norms by frozen ones, whose weights are buffers, as published."""
    from torch import nn
    from torchvision.ops import FrozenBatchNorm2d

    for name, module in list(model.get_submodule("backbone.body").named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            parent, _, key = name.rpartition(".")
            frozen = FrozenBatchNorm2d(module.num_features, module.eps)
            setattr(model.get_submodule("backbone.body").get_submodule(parent), key, frozen)


def _text(size: Size) -> str:
    if isinstance(size, tuple):
        return "x".join(map(str, size))
    return f"[{', '.join(map(_text, size))}]"


def load_published(name: str, light: bool) -> Loaded:
    """The torchvision model with that name, built for its default weights.

    Raises:
        SpecError: torchvision has no such model.
    """
    known = names()
    if name not in known:
        raise SpecError(f"torchvision has no model {name!r}{near(name, known)}; archcost zoo lists them")
    return build_torchvision(published(name)[0], light)
