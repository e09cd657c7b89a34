"""The candidates for a convolution: paths and layouts to be timed, and each as a function to call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Literal

from archcost.errors import ArchcostError
from archcost.latency.convolutions import ConvTask, ConvTensors
from archcost.latency.store.fingerprint import fingerprint
from archcost.latency.store.kinds import COLD, PATH
from archcost.latency.store.store import Store
from archcost.latency.timing.clock import Timing, compare_calls
from archcost.latency.timing.deadline import Deadline, now
from archcost.latency.timing.engine import once
from archcost.latency.timing.thresholds import FAR, FAR_S

if TYPE_CHECKING:
    import torch

    from archcost.paths.path import ExecutionPath, Prepared

__all__ = ["BLOCKED", "NO_TIME", "Candidate", "TimingOptions", "calls_of", "candidates_of", "is_far"]

NO_TIME = "no time was left to run it"
BLOCKED = "blocked"
"""The layout of the engine's layers, for paths that read it, and of their outputs."""

Compare = Callable[..., dict[str, Timing]]
Candidate = tuple[str, str]
"""The name of a path, and the layout of its input."""


@dataclass(frozen=True)
class TimingOptions:
    """How all convolutions are to be timed."""

    threads: int = 1
    paths: Sequence[str] | Literal["all"] | None = None
    """Names of paths. None: those of PyTorch, and those that compiled kernels run, in full or in part."""
    tolerance: float = 1e-4
    """The largest error of a path, max |y - exact| / max |exact|."""
    store: Store | None = None
    again: bool = False
    """Measure anew, whatever the store has."""
    cold: bool = False
    """Each call gets another copy of the input, more of them than the caches hold."""
    compare: Compare = compare_calls

    @property
    def kind(self) -> str:
        """The kind under which the store keeps these times."""
        return COLD if self.cold else PATH


def candidates_of(
    task: ConvTask, tensors: ConvTensors, options: TimingOptions
) -> tuple[list[Candidate], dict[str, str]]:
    """The candidates, those with the least to prepare first; and the paths ruled out, with the reasons.

    Returns:
        (path, layout) pairs, ``native`` first; and the reason against each other path by its name.
    """
    from archcost.paths.likely import likely
    from archcost.paths.registry import available, get

    every = options.paths is None or options.paths == "all"
    names = available() if every else ("native", *(options.paths or ()))
    dtype = tensors.x.dtype
    refused: dict[str, str] = {}
    for name in dict.fromkeys(names):
        reason = get(name).supports(task.spec, dtype)
        if reason is not None:
            refused[name] = reason
    paths = [get(name) for name in dict.fromkeys(names) if name not in refused]
    if options.paths is None:
        paths, unlikely = likely(task.spec, paths, dtype)
        refused |= {name: f"{why}; paths='all' times it anyway" for name, why in unlikely.items()}
    # PyTorch's own path first, as all are compared with it; then by the size of their prepared weights.
    paths.sort(key=lambda path: (path.name != "native", _to_prepare(path.name, task)))
    layouts = ["contiguous"]
    if tensors.x.dim() in (4, 5) and not in_layout(tensors.x, "channels_last").is_contiguous():
        layouts.append("channels_last")
    found = []
    for path in paths:
        blocked = path.reads_blocks(task.spec, dtype)
        # A path whose kernel reads blocked tensors alone has slow tensor operations for others.
        if not blocked or options.paths is not None or path.implementation(task.spec, dtype) == "compiled":
            found += [(path.name, layout) for layout in layouts]
        found += [(path.name, BLOCKED)] * blocked
    return found, refused


def calls_of(
    task: ConvTask,
    tensors: ConvTensors,
    candidates: Sequence[Candidate],
    options: TimingOptions,
    refused: dict[str, str],
    deadline: Deadline,
) -> tuple[dict[Candidate, Callable[[], torch.Tensor]], dict[Candidate, float]]:
    """Each candidate as a function, its weights prepared, and the seconds of its first call.

    ``refused`` gets, with the reason, each path that fails, that the deadline does not reach, or whose
    weights would not be prepared by then, judged by the others. A path far behind in one layout is not
    tried in the other.
    """
    import torch

    from archcost.paths.registry import get

    inputs: dict[str, list[torch.Tensor]] = {}
    prepared: dict[str, Prepared] = {}
    calls: dict[Candidate, Callable[[], torch.Tensor]] = {}
    first: dict[Candidate, float] = {}
    took, held = 0.0, 0
    for candidate in candidates:
        path, layout = get(candidate[0]), candidate[1]
        size = 0 if candidate[0] in prepared else _to_prepare(candidate[0], task)
        if not deadline.allows(size * took / held if held else 0.0):
            if not any(name == candidate[0] for name, _ in calls):
                refused.setdefault(candidate[0], NO_TIME)
            continue
        if any(other[0] == candidate[0] and is_far(other, first) for other in first):
            continue
        try:
            with torch.no_grad():
                if candidate[0] not in prepared:
                    start = now()
                    prepared[candidate[0]] = path.prepare(tensors.weight, tensors.bias, task.spec)
                    took, held = took + (now() - start if size else 0.0), held + size
                run, reads = _run(path, prepared[candidate[0]], layout)
                if reads not in inputs:
                    x = in_layout(tensors.x, reads)
                    inputs[reads] = [x, *(x.clone() for _ in range(_copies(x) - 1))] if options.cold else [x]
                turns = cycle(inputs[reads])

                def call(
                    run: Callable[[torch.Tensor], torch.Tensor] = run, turns: Iterator[torch.Tensor] = turns
                ) -> torch.Tensor:
                    return run(next(turns))

                first[candidate] = once(call, options.threads)
        except (ArchcostError, RuntimeError, MemoryError) as error:
            if not any(name == candidate[0] for name, _ in calls):
                refused[candidate[0]] = f"it failed on a {layout} input: {error}"
            continue
        refused.pop(candidate[0], None)
        calls[candidate] = call
    return calls, first


def _run(
    path: ExecutionPath, prepared: Prepared, layout: str
) -> tuple[Callable[[torch.Tensor], torch.Tensor], str]:
    """The path as a function, and the layout that it reads."""
    if layout != BLOCKED:
        return partial(path.run, prepared=prepared), layout
    run = path.on_blocks(prepared)
    assert run is not None
    return run, "contiguous" if run.plain_input else BLOCKED


def _to_prepare(path: str, task: ConvTask) -> int:
    """Workspace in bytes, mostly prepared weights: the time to prepare them grows with it."""
    from archcost.paths.registry import get

    return get(path).workspace_bytes(task.spec) or 0


def is_far(candidate: Candidate, first: Mapping[Candidate, float]) -> bool:
    """Whether the first call took so long that the candidate cannot be the fastest."""
    return first[candidate] > max(FAR_S, FAR * min(first.values()))


def _copies(x: torch.Tensor) -> int:
    """How many copies of the input fill the largest cache twice, 2 at least."""
    return max(2, -(-fingerprint().beyond_caches_bytes // max(1, x.numel() * x.element_size())))


def in_layout(x: torch.Tensor, layout: str) -> torch.Tensor:
    import torch

    from archcost.kernels.blocked import to_blocks

    if layout == BLOCKED:
        return to_blocks(x.contiguous())
    if layout == "contiguous":
        return x.contiguous()
    return x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)
