"""SPECs and the zoo: from a name or a file to a model and its inputs. Nothing is ever downloaded."""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archcost.errors import SpecError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Loaded", "Published", "load", "published", "zoo"]

FORMS = "torchvision:NAME, timm:NAME, path/to/file.py:factory_or_class or package.module:attr"


@dataclass(frozen=True)
class Loaded:
    """A model made from a SPEC, in eval mode, with the input it is meant for where that is known."""

    model: nn.Module
    spec: str
    input_size: Any = None
    """As `archcost.analyze` takes it; None where the SPEC does not say."""
    assumed: str = ""
    """Where the input size comes from, in words."""
    without_values: bool = False
    """Its large weights are on `meta`: enough to count, not to run."""


def load(spec: str, *, weights: str | Path | None = None, without_values: bool = False) -> Loaded:
    """The model that ``spec`` names, built with random weights or those of a local file.

    ``spec`` is ``torchvision:NAME``, ``timm:NAME``, ``path/to/file.py:factory_or_class`` or
    ``package.module:attr``; what it names is a module, or is called without arguments to make one.
    ``weights`` is a state dict, read by ``torch.load(weights_only=True)`` or safetensors.
    ``without_values`` leaves the weights on `meta`, which builds a model of any size at once; where a
    constructor needs values, they are made. Raises SpecError, in one line, when there is nothing to load.
    """
    source, colon, name = spec.rpartition(":")
    if not colon or not source or not name:
        raise SpecError(f"{spec!r} is no SPEC; give {FORMS}")
    light = without_values and weights is None
    if source == "torchvision":
        loaded = _torchvision(name, light)
    elif source == "timm":
        loaded = _timm(name, light)
    else:
        holder = _from_file(source) if source.endswith(".py") else _from_package(source)
        loaded = _attribute(holder, name, spec, light)
    if weights is not None:
        _load_weights(loaded.model, Path(weights))
    return loaded


# Building without values


@contextlib.contextmanager
def _without_values() -> Iterator[None]:
    """Uninitialised tensors, which is what layers are made of, go to `meta`; computed ones stay real.

    A default device of `meta` would take the arithmetic of constructors along: RegNets need its values.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class EmptyOnMeta(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            kwargs = kwargs or {}
            if func is torch.empty and kwargs.get("device") is None:
                kwargs = {**kwargs, "device": "meta"}
            return func(*args, **kwargs)

    with EmptyOnMeta():
        yield


def _build(make: Any, light: bool, spec: str) -> tuple[nn.Module, bool]:
    """Call ``make``, without values if asked and possible: the model in eval mode, whether it has none."""
    if light:
        with contextlib.suppress(Exception), _quietly(), _without_values():
            return make().eval(), True
    try:
        with _quietly():
            return make().eval(), False
    except Exception as error:
        raise SpecError(f"{spec}: building the model failed: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Warnings of constructors (deprecations, slow initialisation) are not the user's to mend."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# torchvision

# Frames of a clip and the side of a square image where the weights' transforms do not say it; the sizes
# are those at which torchvision publishes the operations of its models.
VIDEO_FRAMES = 16
FLOW_SIZE = 512
DETECTION_SIZE = 800
_DETECTION_SIZES = {"ssd300_vgg16": 300, "ssdlite320_mobilenet_v3_large": 320}


@dataclass(frozen=True)
class Published:
    """What torchvision publishes of a model: parameters, and GMACs rounded to three decimals."""

    name: str
    task: str
    weights: str
    params: int
    gmacs: float
    image_size: int
    """The ``image_size`` argument that vision transformers are built with; 0 for all others."""
    input_size: Any


def _torchvision_names() -> list[str]:
    from torchvision.models import list_models

    return list_models()


def _task(name: str) -> str:
    from torchvision.models import get_model_builder

    module = get_model_builder(name).__module__
    for task in ("quantization", "segmentation", "detection", "video", "optical_flow"):
        if f".{task}" in module:
            return task
    return "classification"


def _size_of(name: str, task: str, entry: Any) -> Any:
    """The input at which ``entry``, an entry of a weights enumeration, was measured, batch of 1."""
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
    """What torchvision publishes of ``name``, an entry for each of its weights, the default one first."""
    from torchvision.models import get_model_weights

    task, weights = _task(name), get_model_weights(name)
    rows = []
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


def _torchvision_arguments(name: str, task: str, image_size: int) -> dict[str, Any]:
    """Constructor arguments: no download, and the heads that the published figures include."""
    from torchvision.models import get_model_builder

    known = inspect.signature(get_model_builder(name)).parameters
    arguments: dict[str, Any] = {"weights": None}
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
    """The torchvision model that a published row describes."""
    from torchvision.models import get_model

    arguments = _torchvision_arguments(row.name, row.task, row.image_size)
    # Quantizing calibrates on real values, and detection models compute with theirs.
    light = without_values and row.task not in ("quantization", "detection")
    spec = f"torchvision:{row.name}"
    model, empty = _build(lambda: get_model(row.name, **arguments), light, spec)
    if _freezes_norms(row):
        _freeze_norms(model)
    source = f"torchvision's weights {row.weights}"
    return Loaded(model, spec, row.input_size, f"input size {_text(row.input_size)} from {source}", empty)


def _freezes_norms(row: Published) -> bool:
    """Whether the constructor freezes the backbone's batch norms when it loads trained weights."""
    return row.task == "detection" and not row.name.startswith("ssd") and not row.name.endswith("_v2")


def _freeze_norms(model: nn.Module) -> None:
    """What the published model has in its backbone: norms whose weights are buffers, not parameters."""
    from torch import nn
    from torchvision.ops import FrozenBatchNorm2d

    for name, module in list(model.get_submodule("backbone.body").named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            parent, _, key = name.rpartition(".")
            frozen = FrozenBatchNorm2d(module.num_features, module.eps)
            setattr(model.get_submodule("backbone.body").get_submodule(parent), key, frozen)


def _text(size: Any) -> str:
    if isinstance(size, tuple):
        return "x".join(map(str, size))
    return f"[{', '.join(_text(one) for one in size)}]"


def _torchvision(name: str, light: bool) -> Loaded:
    names = _torchvision_names()
    if name not in names:
        raise SpecError(f"torchvision has no model {name!r}{_near(name, names)}; archcost zoo lists them")
    return build_torchvision(published(name)[0], light)


# timm, files and packages


def _timm(name: str, light: bool) -> Loaded:
    try:
        import timm
    except ImportError as error:
        raise SpecError(f"timm:{name} needs timm: pip install timm") from error
    if not timm.is_model(name):
        raise SpecError(f"timm has no model {name!r}{_near(name, timm.list_models())}")
    spec = f"timm:{name}"
    model, empty = _build(lambda: timm.create_model(name, pretrained=False), light, spec)
    return Loaded(model, spec, without_values=empty)


def _from_file(path: str) -> Any:
    file = Path(path)
    if not file.is_file():
        raise SpecError(f"there is no file {path!r}")
    module_spec = importlib.util.spec_from_file_location(f"archcost_user_{file.stem}", file)
    if module_spec is None or module_spec.loader is None:
        raise SpecError(f"{path!r} is no Python file")
    module = importlib.util.module_from_spec(module_spec)
    # Pickling and dataclasses look classes up by their module; siblings are imported as from a script.
    sys.modules[module_spec.name] = module
    with _importable(str(file.resolve().parent)):
        _import(path, lambda: module_spec.loader.exec_module(module))  # type: ignore[union-attr]
    return module


def _from_package(name: str) -> Any:
    with _importable(os.getcwd()):
        return _import(name, lambda: importlib.import_module(name))


def _import(what: str, run: Any) -> Any:
    try:
        return run()
    except ModuleNotFoundError as error:
        raise SpecError(f"cannot import {what}: {error}; a SPEC is {FORMS}") from error
    except Exception as error:
        raise SpecError(f"importing {what} failed: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _importable(folder: str) -> Iterator[None]:
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def _attribute(holder: Any, name: str, spec: str, light: bool) -> Loaded:
    from torch import nn

    found = holder
    for part in name.split("."):
        if not hasattr(found, part):
            public = [key for key in vars(found) if not key.startswith("_")]
            raise SpecError(f"{spec}: {part!r} is not there{_near(part, public)}")
        found = getattr(found, part)
    if isinstance(found, nn.Module):
        return Loaded(found, spec)
    if not callable(found):
        raise SpecError(f"{spec} is a {type(found).__name__}; expected a module, a class or a function")
    model, empty = _build(lambda: _made(found, spec), light, spec)
    return Loaded(model, spec, without_values=empty)


def _made(factory: Any, spec: str) -> nn.Module:
    from torch import nn

    model = factory()
    if not isinstance(model, nn.Module):
        raise TypeError(f"{spec} returned a {type(model).__name__}, not a torch.nn.Module")
    return model


def _near(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""


# Weights


def _load_weights(model: nn.Module, path: Path) -> None:
    import torch

    if not path.is_file():
        raise SpecError(f"--weights: there is no file {str(path)!r}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise SpecError("--weights: reading safetensors needs it: pip install safetensors") from error
    except Exception as error:
        text = str(error).strip().split("\n")[0]
        raise SpecError(f"--weights: {path.name} cannot be read as plain tensors: {text}") from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise SpecError(f"--weights: {path.name} holds a {type(state).__name__}, not a state dict")
    if state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        text = " ".join(str(error).split())[:300]
        raise SpecError(f"--weights: {path.name} does not fit the model: {text}") from error


# The zoo


@dataclass(frozen=True)
class ZooRow:
    """One torchvision model, counted, beside what torchvision publishes of it.

    ``params_match`` and ``macs_match`` are None where the comparison means nothing: the MACs of a
    detection model depend on how many boxes its weights propose, and a quantized model has lost the
    parameters of the norms it folded.
    """

    name: str
    task: str
    input_text: str
    params: int
    published_params: int
    params_match: bool | None
    macs: int
    published_gmacs: float
    macs_match: bool | None
    notes: tuple[str, ...] = ()

    @property
    def matches(self) -> bool:
        return self.params_match is not False and self.macs_match is not False


def zoo(
    pattern: str = "*", *, tasks: tuple[str, ...] | None = None, every_weight: bool = False
) -> Iterator[ZooRow]:
    """Count the torchvision models whose names match ``pattern``, one at a time.

    ``tasks`` keeps some of classification, segmentation, video, optical_flow, quantization and
    detection; ``every_weight`` takes each published set of weights, at its own size, not the default
    one alone.
    """
    for row in zoo_entries(pattern, tasks=tasks, every_weight=every_weight):
        yield count_entry(row)


def zoo_entries(
    pattern: str = "*", *, tasks: tuple[str, ...] | None = None, every_weight: bool = False
) -> list[Published]:
    """What `zoo` would count, before counting it. Raises SpecError where nothing matches."""
    names = fnmatch.filter(_torchvision_names(), pattern)
    if not names:
        raise SpecError(f"no torchvision model matches {pattern!r}{_near(pattern, _torchvision_names())}")
    rows = []
    for name in names:
        if tasks is None or _task(name) in tasks:
            rows += published(name) if every_weight else published(name)[:1]
    return rows


def count_entry(row: Published) -> ZooRow:
    """Build, count and compare one model of the zoo."""
    from archcost.analysis import analyze

    loaded = build_torchvision(row)
    analysis = analyze(loaded.model, input_size=row.input_size, progress=False)
    total = analysis.total
    return ZooRow(
        name=row.name,
        task=row.task,
        input_text=analysis.input_text,
        params=total.params,
        published_params=row.params,
        params_match=None if row.task == "quantization" else total.params == row.params,
        macs=total.macs,
        published_gmacs=row.gmacs,
        macs_match=None if row.task == "detection" else round(total.macs / 1e9, 3) == row.gmacs,
        notes=analysis.notes,
    )
