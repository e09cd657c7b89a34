"""The zoo on the terminal: one line a model, written as soon as it is counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from archcost.analysis.zoo import ZooRow

_LINE = "{:38} {:>27} {:>13} {:>10} {:>10}  {}"


def header() -> str:
    """The names of the columns; GMACs are those counted, published is what torchvision says."""
    return _LINE.format("Model", "Input", "Params", "GMACs", "Published", "").rstrip()


def line(row: ZooRow) -> str:
    """One model: its figures, and in words how they stand to the published ones."""
    size = row.input_text.replace(" float32", "")
    gmacs = f"{row.macs / 1e9:.3f}"
    return _LINE.format(
        row.name, size, f"{row.params:,}", gmacs, f"{row.published_gmacs:.3f}", _verdict(row)
    ).rstrip()


def _verdict(row: ZooRow) -> str:
    if not row.matches:
        wrong = ["parameters"] * (row.params_match is False) + ["MACs"] * (row.macs_match is False)
        return f"DIFFERS in {' and '.join(wrong)} (published: {row.published_params:,} parameters)"
    if row.macs_match is None:
        return "ok (MACs depend on the boxes proposed)"
    if row.params_match is None:
        return f"ok (norms fused: float model {row.published_params:,} parameters)"
    return "ok"
