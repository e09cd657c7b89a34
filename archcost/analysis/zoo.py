"""The zoo: every torchvision model counted, beside its published figures."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass

from archcost.errors import SpecError
from archcost.models.building import near
from archcost.models.vision import Published, build_torchvision, names, published, task_of


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
    matching = fnmatch.filter(names(), pattern)
    if not matching:
        raise SpecError(f"no torchvision model matches {pattern!r}{near(pattern, names())}")
    rows = []
    for name in matching:
        if tasks is None or task_of(name) in tasks:
            rows += published(name) if every_weight else published(name)[:1]
    return rows


def count_entry(row: Published) -> ZooRow:
    """Build, count and compare one model of the zoo."""
    from archcost.analysis.analysis import analyze

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
