"""Results as files that can be read back: JSON with a schema version, no pickle.

A file holds ``{"schema": "archcost.saved/1", "archcost", "torch", "result"}``. Types that JSON has are
written as they are; all others as a list that begins with a word: ``["tuple", ...]``,
``["dict", [key, value], ...]``, ``["dtype", "float32"]``, ``["float", "nan"]``,
``["array", dtype, shape, base64]``, ``["tensor", array]``, and
``["of", "archcost.spec.ConvSpec", {field: value}]`` for a dataclass or a named tuple of archcost's own.
Reading creates instances of these types only, so that a file cannot run code.
"""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from importlib import import_module
from math import isfinite
from typing import TYPE_CHECKING, Any

from archcost.errors import ArchcostError, SpecError
from archcost.report.data import Path, versions
from archcost.report.values import Json

if TYPE_CHECKING:
    import numpy as np
    import torch
    from _typeshed import DataclassInstance
    from numpy.typing import NDArray

    _TorchWord = torch.dtype | torch.layout | torch.memory_format | torch.device

__all__ = ["embedded", "load_result", "save"]

SCHEMA = "archcost.saved/1"
# The element of a page that holds the saved result, compressed.
_SAVED = '<script type="application/gzip" id="archcost-saved">'
_PLAIN = (str, bool, int, type(None))
_TORCH = ("dtype", "layout", "memory_format", "device")


def save(result: object, path: Path) -> None:
    """Write a result to a file, without a model or a store that it holds."""
    text = _text(result)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def embedded(result: object) -> str:
    """The saved result for a page: compressed, in letters that end no element."""
    return base64.b64encode(gzip.compress(_text(result).encode("ascii"), mtime=0)).decode("ascii")


def _text(result: object) -> str:
    whole = {"schema": SCHEMA, **versions(), "result": _written(result)}
    return json.dumps(whole, allow_nan=False, separators=(",", ":"))


def load_result(path: Path) -> Any:
    """Read a result that `Result.save` wrote, or a page; its model is not part of the file.

    Raises:
        SpecError: the file cannot be read or holds no saved result; the message says what it holds.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        whole = json.loads(_in_page(text) if text.startswith("<!doctype html>") else text)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        why = (error.strerror or "").lower() if isinstance(error, OSError) else f"it is no JSON ({error})"
        raise SpecError(f"{path} cannot be read as a saved result: {why}") from error
    schema = whole.get("schema") if isinstance(whole, dict) else None
    if schema != SCHEMA:
        what = f"has the schema {schema!r}" if schema else "has no schema"
        raise SpecError(
            f"{path} {what} and is not a saved result ({SCHEMA!r}): result.save(path) writes one, or "
            f"archcost analyze SPEC --save FILE"
        )
    try:
        return _read(whole["result"])
    except ArchcostError:
        raise
    except Exception as error:
        by = f"archcost {whole.get('archcost')}"
        raise SpecError(f"{path} was written by {by}; this version cannot read it: {error!r}") from error


def _in_page(page: str) -> str:
    """The saved result in a page, as JSON; raises ValueError where it holds none."""
    held = page.partition(_SAVED)[2].partition("<")[0]
    if not held:
        raise ValueError("an HTML page without a saved result")
    return gzip.decompress(base64.b64decode(held)).decode("ascii")


def _written(value: Any) -> Json:
    if type(value) in _PLAIN and isinstance(value, _PLAIN):
        return value
    if isinstance(value, float):
        return value if isfinite(value) else ["float", repr(value)]
    kind = type(value)
    if kind.__module__.startswith("archcost.") and (is_dataclass(value) or hasattr(value, "_fields")):
        names = value._fields if hasattr(value, "_fields") else _stored(value)
        held = {name: _written(getattr(value, name)) for name in names}
        return ["of", f"{kind.__module__}.{kind.__qualname__}", held]
    if isinstance(value, (tuple, list, set, frozenset)):
        word = next(one.__name__ for one in (tuple, list, set, frozenset) if isinstance(value, one))
        return [word, *map(_written, value)]
    if isinstance(value, dict):
        return ["dict", *([_written(key), _written(item)] for key, item in value.items())]
    return _of_torch(value)


def _stored(value: DataclassInstance) -> list[str]:
    """Names of the saved fields: those in ``SAVED``, or all without ``metadata={"saved": False}``."""
    named: tuple[str, ...] = getattr(value, "SAVED", ())
    return [*named] or [one.name for one in fields(value) if one.metadata.get("saved", True)]


def _of_torch(value: object) -> Json:
    import numpy as np
    import torch

    for word in _TORCH:
        if isinstance(value, getattr(torch, word)):
            return [word, str(value).removeprefix("torch.")]
    if isinstance(value, torch.Tensor):
        return ["tensor", _of_torch(value.detach().cpu().numpy())]
    if isinstance(value, np.generic):
        return _written(value.item())
    if isinstance(value, np.ndarray):
        held = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode("ascii")
        return ["array", value.dtype.str, list(value.shape), held]
    if isinstance(value, (complex, torch.SymInt, torch.SymFloat)):
        return ["complex", value.real, value.imag] if isinstance(value, complex) else _written(float(value))
    raise SpecError(f"a {type(value).__module__}.{type(value).__qualname__} cannot be saved")


def _read(value: Json) -> Any:
    if not isinstance(value, list):
        return value
    word, *rest = value
    return _WORDS[word](*rest)


def _instance(name: str, held: dict[str, Json]) -> Any:
    """An instance of a dataclass or a named tuple of archcost's own, and of nothing else."""
    module, _, kind = name.rpartition(".")
    if not module.startswith("archcost."):
        raise SpecError(f"{name} is not a class of archcost")
    found = getattr(import_module(module), kind)
    if not (isinstance(found, type) and (is_dataclass(found) or hasattr(found, "_fields"))):
        raise SpecError(f"{name} is not a dataclass or a named tuple")
    return getattr(found, "restored", found)(**{key: _read(item) for key, item in held.items()})


def _array(dtype: str, shape: list[int], held: str) -> NDArray[np.generic]:
    import numpy as np

    flat = np.frombuffer(base64.b64decode(held), np.dtype(dtype))
    made: NDArray[np.generic] = flat.reshape(shape).copy()
    return made


def _tensor(array: Json) -> torch.Tensor:
    import torch

    return torch.from_numpy(_read(array))


def _torch_word(word: str) -> Callable[[str], _TorchWord]:
    def read(text: str) -> _TorchWord:
        import torch

        return torch.device(text) if word == "device" else getattr(torch, text)

    return read


_WORDS: dict[str, Callable[..., Any]] = {
    **{
        kind.__name__: lambda *items, kind=kind: kind(map(_read, items))
        for kind in (tuple, list, set, frozenset)
    },
    "dict": lambda *pairs: {_read(key): _read(item) for key, item in pairs},
    "float": float,
    "complex": complex,
    "array": _array,
    "tensor": _tensor,
    "of": _instance,
    **{word: _torch_word(word) for word in _TORCH},
}
