"""Baselines: what models cost when it was last agreed on, in a small file that is reviewed like code.

The file is JSON, sorted, a line for each measure and each block of a model::

    {
      "schema": "archcost.baseline/1",
      "models": {
        "resnet50": {
          "depth": 50,
          "input": "1x3x224x224 float32",
          "macs": 4089184256,
          "blocks": {
            "conv1": {"kept_for_backward": 602112, "macs": 118013952, "params": 9408, "type": "Conv2d"},
            ...

``blocks`` are the modules of the deepest level that has at most 32 of them, so that a change can be traced;
those that cost nothing are left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from archcost.analysis.analysis import Analysis
from archcost.analysis.budget import MEASURES
from archcost.analysis.reports.rows import Ledger
from archcost.errors import InputError
from archcost.report.text import visible
from archcost.report.units import axes_text, count_text, percent_text

__all__ = ["Change", "Record", "changes", "explained", "read", "record_of", "verdict", "written"]

SCHEMA = "archcost.baseline/1"
MOST_BLOCKS = 32
MOST_EXPLAINED = 8
_OF_BLOCK = {"macs": "macs", "params": "params", "kept_for_backward": "kept_for_backward_bytes"}

Value = int | list[int] | str | None
Block = dict[str, int | str | None]


@dataclass(frozen=True)
class Record:
    """The costs of one model: its input, the totals by measure, and the costs of its blocks by name."""

    totals: dict[str, Value]
    blocks: dict[str, Block]
    level: int
    """The level of the modules that the blocks are."""


def record_of(analysis: Analysis, level: int | None = None) -> Record:
    """The costs of a model as they are now.

    Args:
        analysis: the counted model.
        level: that of the blocks; by default the deepest with at most 32.
    """
    totals: dict[str, Value] = {name: one.of(analysis) for name, one in MEASURES.items() if name != "flops"}
    network = analysis.fields.network
    totals["receptive_field"] = None if network is None else list(map(max, network.size, network.local.size))
    totals["uncounted"] = analysis.total.uncounted
    totals["input"] = analysis.input_text
    ledger = Ledger(analysis)
    if level is None:
        deepest = max((module.level for module in analysis.modules), default=0)
        fitting = [n for n in range(1, deepest + 1) if len(ledger.frontier(n)) <= MOST_BLOCKS]
        level = max(fitting, default=1)
    blocks: dict[str, Block] = {}
    for row in ledger.frontier(level):
        name = f"{row.module.name} (own operations)" if row.kind == "own" else row.module.name
        costs: Block = {key: getattr(row.cost, attribute) for key, attribute in _OF_BLOCK.items()}
        if any(costs.values()):
            blocks[name.strip()] = {**costs, "type": row.module.type_name}
    return Record(totals, blocks, level)


def read(path: Path) -> dict[str, Record]:
    """The records of a file by the name of the model; none where there is no file.

    Raises:
        InputError: the file is no baseline.
    """
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        if whole["schema"] != SCHEMA:
            raise ValueError(f"its schema is {whole['schema']!r}, not {SCHEMA!r}")
        records = {}
        for name, held in whole["models"].items():
            blocks, level = held.pop("blocks"), held.pop("level")
            records[name] = Record(held, blocks, level)
        return records
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is not a baseline of archcost ({type(error).__name__}: {error}); "
            f"delete it and run pytest --archcost-update"
        ) from error


def written(records: Mapping[str, Record]) -> str:
    """The text of the file, the same for the same records."""
    models = []
    for name, record in sorted(records.items()):
        lines = {**record.totals, "level": record.level}
        blocks = _lines(record.blocks, 8)
        body = "".join(f"      {_json(key)}: {_json(value)},\n" for key, value in sorted(lines.items()))
        models.append(f'    {_json(name)}: {{\n{body}      "blocks": {{\n{blocks}\n      }}\n    }}')
    inner = ",\n".join(models)
    return f'{{\n  "schema": "{SCHEMA}",\n  "models": {{\n{inner}\n  }}\n}}\n'


def _lines(items: Mapping[str, Block], indent: int) -> str:
    return ",\n".join(f"{' ' * indent}{_json(key)}: {_json(value)}" for key, value in items.items())


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


@dataclass(frozen=True)
class Change:
    """A measure that is not what the baseline says."""

    measure: str
    old: Value
    new: Value

    @property
    def is_dearer(self) -> bool:
        """Whether it is worse: more, a smaller receptive field, or not comparable."""
        old, new = self.old, self.new
        if isinstance(old, int) and isinstance(new, int):
            return new > old
        if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
            return any(b < a for a, b in zip(old, new, strict=True))
        return True

    def __str__(self) -> str:
        """``macs: 3.90 G -> 4.09 G (+4.9 %)``."""
        show: Callable[[int], str] = MEASURES[self.measure].show if self.measure in MEASURES else count_text
        old, new = (_text(value, show) for value in (self.old, self.new))
        if isinstance(self.old, int) and isinstance(self.new, int):
            if old == new:
                old, new = f"{self.old:,}", f"{self.new:,}"
            more = f"{_signed(100 * (self.new - self.old) / self.old)} %" if self.old else f"+{new}"
            return f"{self.measure}: {old} -> {new} ({more})"
        return f"{self.measure}: {old} -> {new}"


def _text(value: Value, show: Callable[[int], str]) -> str:
    if isinstance(value, list):
        return axes_text(value)
    return show(value) if isinstance(value, int) else "unknown" if value is None else value


def _signed(percent: float) -> str:
    return f"{'-' if percent < 0 else '+'}{percent_text(abs(percent))}"


def changes(old: Record, new: Record, rel: float = 0.0) -> list[Change]:
    """The measures that differ by more than ``rel`` times the old value; the input first."""
    names = sorted({*old.totals, *new.totals} - {"input"})
    every = [Change(name, old.totals.get(name), new.totals.get(name)) for name in ("input", *names)]
    return [one for one in every if not _within(one, rel)]


def verdict(changed: Iterable[Change]) -> str:
    """The worst of the changes, as words that continue with "its baseline"."""
    dearer = {one.measure: one.is_dearer for one in changed}
    if "input" in dearer:
        return "has another input than"
    costs = [worse for measure, worse in dearer.items() if measure != "receptive_field"]
    if any(costs):
        return "is dearer than"
    if dearer.get("receptive_field"):
        return "sees less than"
    return "is cheaper than" if costs else "sees more than"


def _within(change: Change, rel: float) -> bool:
    old, new = change.old, change.new
    if isinstance(old, int) and isinstance(new, int):
        return abs(new - old) <= rel * old
    return old == new


def explained(old: Record, analysis: Analysis, measure: str) -> list[str]:
    """The blocks whose cost changed since the baseline, the largest first, with the lines that build them.

    Args:
        old: the record of the baseline.
        analysis: the model as it is now.
        measure: what the changes are sorted by; MACs where blocks have no such number.
    """
    key = measure if measure in _OF_BLOCK else "macs"
    show, unit = MEASURES[key].show, MEASURES[key].unit
    new = record_of(analysis, old.level).blocks
    units = "" if unit == "bytes" else f" {unit}"
    found: list[tuple[int, str]] = []
    for name in dict.fromkeys((*old.blocks, *new)):
        before, after = old.blocks.get(name), new.get(name)
        if before == after:
            continue
        change = _number(after, key) - _number(before, key)
        if not change:
            continue
        what = "added" if before is None else "removed" if after is None else "changed"
        kind = (after or before or {}).get("type")
        info = analysis.trace.modules.get(name.removesuffix("(own operations)").strip())
        built = f", built at {info.built_at}" if after and info and info.built_at else ""
        sign = "-" if change < 0 else "+"
        text = f"{visible(name) or 'the model'} ({kind}) {what}: {sign}{show(abs(change))}{units}{built}"
        found.append((abs(change), text))
    found.sort(key=lambda one: -one[0])
    rest = len(found) - MOST_EXPLAINED
    more = [f"and {rest} other{'s' * (rest > 1)}"] if rest > 0 else []
    return [text for _, text in found[:MOST_EXPLAINED]] + more


def _number(block: Block | None, key: str) -> int:
    value = (block or {}).get(key)
    return value if isinstance(value, int) else 0
