"""export: the table of a fleet as a file that others can use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from archcost.errors import SpecError
from archcost.fleet.errors import FleetError
from archcost.fleet.kept import FleetStore
from archcost.fleet.tasks import Layer, Model, Product

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "export", "frame"]

COLUMNS = (
    *("kind", "device", "subject", "path", "layout", "dtype", "threads", "batch", "median_s", "q1_s", "q3_s"),
    *("samples", "dropped", "disturbed", "clock", "error", "torch", "machine", "measured_at"),
    *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "transposed"),
    *("output_padding", "padding_mode", "bias", "input_size"),
)
_OF_TIME = (
    *("path", "layout", "dtype", "threads", "median_s", "q1_s", "q3_s", "samples", "dropped", "disturbed"),
    *("clock", "error", "torch", "measured_at"),
)
_OF_WHOLE = ("median_s", "q1_s", "q3_s", "samples", "dropped", "disturbed", "clock")


def frame(store: FleetStore) -> pd.DataFrame:
    """A row for each layer, device, path, layout, dtype, number of threads and images; for each product of
    matrices; and for each model.

    ``subject`` is the layer or the model in words; sizes are in the words of `archcost.ConvSpec`.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for task, mark, state, result, at in store.results():
        device = mark.partition("@")[2]
        if state != "done":
            continue
        if isinstance(task, Layer):
            for one in result["times"]:
                own = {name: one[name] for name in _OF_TIME}
                own |= {"batch": task.spec.batch, "machine": one["device"], **one["spec"]}
                rows.append({"kind": "layer", "device": device, "subject": str(task.spec), **own})
        elif isinstance(task, (Model, Product)):
            kind = "model" if isinstance(task, Model) else "product"
            own = {name: result[kind][name] for name in _OF_WHOLE} | {"threads": task.threads}
            if isinstance(task, Model):
                own |= {"path": task.how, "batch": task.batch}
            subject = task.model if isinstance(task, Model) else str(task)
            rows.append({"kind": kind, "device": device, "subject": subject, **own, "measured_at": at})
    found: pd.DataFrame = pd.DataFrame(rows, columns=list(COLUMNS))
    for name in ("kernel_size", "stride", "padding", "dilation", "output_padding", "input_size"):
        found[name] = found[name].map(lambda size: _text(size) if isinstance(size, (list, tuple)) else None)
    for name in ("batch", "groups", "in_channels", "out_channels"):
        found[name] = found[name].astype("Int64")
    return found


def export(
    store: str | os.PathLike[str] | None,
    path: str | os.PathLike[str] | None = None,
    format: Literal["csv", "json", "parquet"] = "csv",
) -> str | None:
    """Write the table of a store, over an existing file.

    Args:
        store: the file that `archcost.fleet.measure` wrote; None is the user's own store.
        path: the file to write; None returns the text.
        format: ``json`` is a list of objects; ``parquet`` needs pyarrow, and a path.

    Returns:
        The text, where no path is given.

    Raises:
        SpecError: there is no such store or format, or the file cannot be written.
        FleetError: pyarrow is missing.
    """
    if store is not None and not Path(store).is_file():
        raise SpecError(f"fleet: there is no store {os.fspath(store)!r}")
    if format not in ("csv", "json", "parquet"):
        raise SpecError(f"fleet: format is {format!r}; give csv, json or parquet")
    with FleetStore(store) as kept:
        found = frame(kept)
    try:
        if format == "parquet":
            if path is None:
                raise SpecError("fleet: parquet is no text; give a file with -o")
            found.to_parquet(path, index=False)
            return None
        text = found.to_csv(index=False) if format == "csv" else found.to_json(orient="records", indent=1)
        if path is None:
            return str(text)
        Path(path).write_text(str(text), encoding="utf-8")
    except ImportError as error:
        raise FleetError("fleet: parquet needs pyarrow: pip install 'archcost[fleet]'") from error
    except OSError as error:
        raise SpecError(f"fleet: cannot write {os.fspath(path or '')}: {error.strerror}") from error
    return None


def _text(size: Any) -> str:
    """``3x3``; of two sides of an axis ``1+2``."""
    return "x".join("+".join(map(str, one)) if isinstance(one, (list, tuple)) else str(one) for one in size)
