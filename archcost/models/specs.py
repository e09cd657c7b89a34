"""SPECs: a model by the name of a torchvision or timm model, a file or a package. Nothing is downloaded."""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

from archcost.errors import SpecError
from archcost.models.building import Loaded, build, near
from archcost.models.weights import load_weights
from archcost.trace.inputs import as_dtype
from archcost.trace.sites import inherit_sites, recording_sites

if TYPE_CHECKING:
    import torch
    from torch import nn

T = TypeVar("T")

FORMS = "torchvision:NAME, timm:NAME, path/to/file.py:factory_or_class or package.module:attr"


def load(
    spec: str,
    *,
    weights: str | Path | None = None,
    without_values: bool = False,
    dtype: torch.dtype | str | None = None,
) -> Loaded:
    """The model that a SPEC names, in eval mode, with random weights or those of a local file.

    Args:
        spec: ``torchvision:NAME``, ``timm:NAME``, ``path/to/file.py:factory_or_class`` or
            ``package.module:attr``. A class or a function is called without arguments.
        weights: the path of a state dict, read by ``torch.load(weights_only=True)`` or safetensors.
        without_values: leave the weights on `meta`, which builds a model of any size at once; where a
            constructor needs their values, they are made.
        dtype: the dtype of the floating-point weights; None leaves them as built.

    Raises:
        SpecError: there is no such model or file, it cannot be built, or the weights do not fit.
    """
    source, colon, name = spec.rpartition(":")
    if not colon or not source or not name:
        raise SpecError(f"unknown model {spec!r}{_sources(spec)}")
    light = without_values and weights is None
    with recording_sites():
        if source == "torchvision":
            from archcost.models.vision import load_published

            loaded = load_published(name, light)
        elif source == "timm":
            loaded = _timm(name, light)
        else:
            is_file = source.endswith(".py")
            # The path stays until the factory has been called, which may import its sibling modules.
            with _importable(str(Path(source).resolve().parent) if is_file else os.getcwd()):
                holder = _from_file(source) if is_file else _from_package(source)
                loaded = _attribute(holder, name, spec, light)
    if weights is not None:
        load_weights(loaded.model, Path(weights))
    if dtype is not None:
        # A copy, since a SPEC may name a module object that is used elsewhere as well.
        original = loaded.model
        loaded = replace(loaded, model=copy.deepcopy(original).to(as_dtype(dtype)))
        inherit_sites(loaded.model, original)
    return loaded


def attribute(file: str, name: str) -> object:
    """What a Python file calls by a name.

    Raises:
        SpecError: there is no such file or name, or the file cannot be imported.
    """
    with _importable(str(Path(file).resolve().parent)):
        holder = _from_file(file)
    if not hasattr(holder, name):
        public = [key for key in vars(holder) if not key.startswith("_")]
        raise SpecError(f"{file}: there is no {name!r}{near(name, public)}")
    found: object = getattr(holder, name)
    return found


def load_for(spec: str, side: int, without_values: bool = True) -> nn.Module | None:
    """The model of a SPEC built for images of another side; None where its constructor takes none.

    Vision transformers of torchvision and timm refuse images of any size but the one they are built for.
    """
    source, _, name = spec.rpartition(":")
    try:
        if source == "torchvision":
            from archcost.models.vision import build_torchvision, published

            row = replace(published(name)[0], image_size=side)
            return build_torchvision(row, without_values).model
        if source == "timm":
            import timm

            make = partial(timm.create_model, name, pretrained=False, img_size=side)
            return build(make, without_values, spec)[0]
    except SpecError:  # no such argument, or no such side
        pass
    return None


def _sources(name: str) -> str:
    """The end of the message about a SPEC without a source: where a model of that name is, or the forms."""
    found: list[str] = []
    with contextlib.suppress(ImportError):
        from archcost.models.vision import names

        found += [f"torchvision:{name}"] * (name in names())
    with contextlib.suppress(ImportError):
        import timm

        found += [f"timm:{name}"] * timm.is_model(name)
    return f": did you mean {' or '.join(found)}?" if found else f"; a SPEC is {FORMS}"


def _timm(name: str, light: bool) -> Loaded:
    try:
        import timm
    except ImportError as error:
        raise SpecError(f"timm:{name} needs timm: pip install timm") from error
    if not timm.is_model(name):
        raise SpecError(f"timm has no model {name!r}{near(name, timm.list_models())}")
    spec = f"timm:{name}"
    model, empty = build(lambda: timm.create_model(name, pretrained=False), light, spec)
    return Loaded(model, spec, without_values=empty)


def _from_file(path: str) -> ModuleType:
    file = Path(path)
    if not file.is_file():
        raise SpecError(f"there is no file {path!r}")
    module_spec = importlib.util.spec_from_file_location(f"archcost_user_{file.stem}", file)
    if module_spec is None or module_spec.loader is None:
        raise SpecError(f"{path!r} is not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    # Pickling and dataclasses look up classes by their module.
    sys.modules[module_spec.name] = module
    loader = module_spec.loader
    _import(path, lambda: loader.exec_module(module))
    return module


def _from_package(name: str) -> ModuleType:
    return _import(name, lambda: importlib.import_module(name))


def _import(what: str, run: Callable[[], T]) -> T:
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


def _attribute(holder: ModuleType, name: str, spec: str, light: bool) -> Loaded:
    from torch import nn

    found: object = holder
    for part in name.split("."):
        if not hasattr(found, part):
            public = [key for key in vars(found) if not key.startswith("_")]
            raise SpecError(f"{spec}: there is no {part!r}{near(part, public)}")
        found = getattr(found, part)
    if isinstance(found, nn.Module):
        return Loaded(found.eval(), spec)
    if not callable(found):
        raise SpecError(f"{spec} is a {type(found).__name__}; expected a module, a class or a function")
    model, empty = build(lambda: _made(found, spec), light, spec)
    return Loaded(model, spec, without_values=empty)


def _made(factory: Callable[[], object], spec: str) -> nn.Module:
    from torch import nn

    model = factory()
    if not isinstance(model, nn.Module):
        raise TypeError(f"{spec} returned a {type(model).__name__}, not a torch.nn.Module")
    return model
