"""The roofline: this machine's measured peak and bandwidths, and the lower bound on a convolution's time.

A layer takes at least the time of its multiplications at the peak, and that of its bytes at the bandwidth of
the nearest cache that holds them, else of memory (Williams, Waterman and Patterson, "Roofline", 2009). Where
four times fewer multiplications save only 2.5 times the time, the bytes are why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Literal, NamedTuple

from archcost.errors import InputError
from archcost.kernels.loading import library
from archcost.latency.store.fingerprint import Fingerprint, fingerprint
from archcost.latency.store.kinds import ROOFLINE
from archcost.latency.store.measurement import Key, Measurement
from archcost.latency.store.store import Store
from archcost.latency.timing.clock import compare_calls
from archcost.latency.timing.deadline import Deadline, TooLittleTime
from archcost.latency.timing.engine import once
from archcost.latency.timing.settings import settings
from archcost.latency.timing.thresholds import LONG_S, ROUNDS, UNRELIABLE
from archcost.spec import ConvSpec
from archcost.trace.inputs import as_dtype

if TYPE_CHECKING:
    import torch

__all__ = [
    *("COPY", "MULTIPLY_ADD", "PRODUCT", "READ"),
    *("Cache", "Roofline", "bytes_moved", "measure_roofline"),
]

# The store keeps all as convolutions: a product of n x n matrices as a 1x1 convolution of n channels on n
# positions, a copy of n numbers, a sum of n products in registers and reading n numbers as one of a single
# channel. READ is followed by the level's name.
PRODUCT, COPY, MULTIPLY_ADD, READ = "product", "copy", "multiply-add", "read-"
_MEMORY = "memory"
_NO_TIME = "the time was up before the roofline was measured"

_SIDES = (512, 1024, 2048, 4096)
# Growth of the multiplications from one side to the next.
_GROWTH = 8
# Multiply-adds and bytes of a call of each thread: a millisecond or so, that the call itself does not count.
_ADDS, _READ_BYTES = 2**26, 2**26


@dataclass(frozen=True)
class Cache:
    """A level of the caches, and its measured bandwidth."""

    name: str
    """The level, as in ``L1d``."""
    bytes: int
    """What it holds; of levels that each core has, for all threads."""
    bytes_per_second: float
    """Bytes read, by all threads."""


@dataclass(frozen=True)
class Roofline:
    """Peak and bandwidths of a machine, for a number of threads and a dtype."""

    macs_per_second: float
    """Peak: multiply-accumulates in registers, or of PyTorch's large square matrix product if that is faster.

    The product alone without archcost's kernels, and for other dtypes than float32."""
    bytes_per_second: float
    """Bandwidth of memory: bytes read far beyond the caches, or read and written by a copy if more."""
    threads: int
    """Threads of PyTorch."""
    dtype: str
    device: str
    """Machine and software."""
    disturbed: bool = False
    """Whether peak or a bandwidth is unreliable, because its samples were interrupted."""
    caches: tuple[Cache, ...] = ()
    """The nearest first; none without archcost's kernels, or where the system does not tell of any."""

    @property
    def ridge(self) -> float:
        """Multiply-accumulates for each byte below which memory is the limit, and above which the peak is."""
        return self.macs_per_second / self.bytes_per_second

    def level(self, moved: float) -> tuple[str, float]:
        """Name and bandwidth of the nearest cache that holds so many bytes, else of memory."""
        for cache in self.caches:
            if moved <= cache.bytes:
                return cache.name, cache.bytes_per_second
        return _MEMORY, self.bytes_per_second

    def attainable(self, multiplications: float, moved: float) -> float:
        """The lower bound in seconds for a number of multiplications and of bytes moved."""
        return max(multiplications / self.macs_per_second, moved / self.level(moved)[1])

    def bound(self, multiplications: float, moved: float) -> str:
        """The limit: ``multiplications``, the name of the cache that holds what is moved, or ``memory``."""
        name, bandwidth = self.level(moved)
        return name if moved * self.macs_per_second > multiplications * bandwidth else "multiplications"

    def share(self, seconds: float, multiplications: float, moved: float) -> float:
        """The lower bound over a measured time: 1 is as fast as possible.

        Without `caches` more than 1 where the data are still in a cache, which is faster than memory.

        Raises:
            InputError: seconds is not above 0.
        """
        if not seconds > 0:
            raise InputError(f"share: seconds must be above 0, got {seconds!r}")
        return self.attainable(multiplications, moved) / seconds

    def __str__(self) -> str:
        speeds = f"{self.macs_per_second / 1e9:.1f} GMAC/s, {self.bytes_per_second / 1e9:.1f} GB/s"
        speeds += "".join(f", {one.name} {one.bytes_per_second / 1e9:.1f} GB/s" for one in self.caches)
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        return f"{speeds}, {threads}, {self.dtype}{f'; {UNRELIABLE}' * self.disturbed}; {self.device}"


def bytes_moved(spec: ConvSpec, itemsize: int = 4) -> int:
    """The bytes that a convolution must move: input, weights with bias, and output, each once.

    >>> bytes_moved(ConvSpec(64, 64, 3, padding=1, input_size=(56, 56), bias=False))
    1753088
    """
    read = spec.batch * spec.in_channels * prod(spec.input_size)
    return itemsize * (read + spec.params + spec.neurons)


def measure_roofline(
    store: Store | None = None,
    *,
    threads: int = 1,
    dtype: torch.dtype | str | None = None,
    seconds: float = 4.0,
    deadline: Deadline | None = None,
    again: bool = False,
) -> Roofline:
    """The roofline of this machine: from the store if it is there, else measured now and kept there.

    Args:
        store: the store; None measures, and keeps nothing.
        threads: threads of PyTorch.
        dtype: the dtype of the numbers, by default float32.
        seconds: the time for measuring, roughly.
        deadline: begin nothing that is not likely to end by then.
        again: measure anew, whatever the store has.

    Raises:
        TooLittleTime: the deadline left no time to measure.
    """
    import torch

    dtype = as_dtype(dtype or torch.float32)
    device = fingerprint()
    name = str(dtype).removeprefix("torch.")
    if store is not None and not again:
        found = _stored(store, device, name, threads)
        if found is not None:
            return found
    with settings(threads=threads), torch.inference_mode():
        measured = _measured(device, dtype, name, threads, seconds, deadline)
    if store is not None:
        store.put_many(list(measured.values()))
    return _roofline(measured, device, dtype.itemsize)


def _stored(store: Store, device: Fingerprint, dtype: str, threads: int) -> Roofline | None:
    import torch

    found: dict[str, Measurement] = {}
    for one in sorted(store.all(device.hash), key=lambda one: one.measured_at):
        # A disturbed limit would make layers look faster than the machine.
        if (one.key.dtype, one.key.threads, one.key.kind) == (dtype, threads, ROOFLINE) and not one.disturbed:
            found[one.key.path] = one
    wanted = {PRODUCT, COPY}
    if library() is not None:
        wanted |= {MULTIPLY_ADD} if dtype == "float32" else set()
        wanted |= {READ + level for level in [*_levels(device, threads), _MEMORY]}
    return _roofline(found, device, getattr(torch, dtype).itemsize) if wanted <= found.keys() else None


def _roofline(found: Mapping[str, Measurement], device: Fingerprint, itemsize: int) -> Roofline:
    """The roofline of these measurements, by path."""
    key = found[PRODUCT].key
    speeds = {path: one.key.spec.macs / one.median_s for path, one in found.items()}
    threads = key.threads
    caches = tuple(
        Cache(name, held, itemsize * speeds[READ + name])
        for name, held in _levels(device, threads).items()
        if READ + name in found
    )
    return Roofline(
        macs_per_second=max(speeds[path] for path in (PRODUCT, MULTIPLY_ADD) if path in found),
        bytes_per_second=itemsize * max(2 * speeds[COPY], speeds.get(READ + _MEMORY, 0.0)),
        threads=threads,
        dtype=key.dtype,
        device=found[PRODUCT].device,
        disturbed=any(one.disturbed for one in found.values()),
        caches=caches,
    )


def _levels(device: Fingerprint, threads: int) -> dict[str, int]:
    """Bytes by level of the caches for data, the nearest first: a core has its own, but shares the last."""
    levels = {name: size for name, size in device.caches if not name.endswith("i")}
    last = max(levels, default="")
    return {name: size if name == last else threads * size for name, size in sorted(levels.items())}


class _Limit(NamedTuple):
    """A call to be timed, and a convolution of as many multiplications as it does products or numbers."""

    spec: ConvSpec
    call: Callable[[], object]


def _measured(
    device: Fingerprint,
    dtype: torch.dtype,
    name: str,
    threads: int,
    seconds: float,
    deadline: Deadline | None,
) -> dict[str, Measurement]:
    """Every limit of the machine by its path, timed in turns."""
    limits = _limits(device, dtype, threads, deadline)
    which: Literal["thread", "process"] = "thread" if threads == 1 else "process"
    calls = {path: limit.call for path, limit in limits.items()}
    timings = compare_calls(calls, rounds=ROUNDS, seconds=seconds, deadline=deadline, cpu_clock=which)
    if len(timings) < len(calls):
        raise TooLittleTime(_NO_TIME)
    keys = {
        path: Key(device.hash, limit.spec, name, path, threads=threads, kind=ROOFLINE)
        for path, limit in limits.items()
    }
    return {path: Measurement.of(keys[path], timings[path], device) for path in limits}


def _limits(
    device: Fingerprint, dtype: torch.dtype, threads: int, deadline: Deadline | None
) -> dict[str, _Limit]:
    import torch

    side, product = _product(dtype, deadline)
    beyond = device.beyond_caches_bytes
    # Written, since pages that never were are all the same page of zeros, in the nearest cache.
    source, target = (torch.ones(beyond // dtype.itemsize, dtype=dtype) for _ in range(2))
    found = {
        PRODUCT: _Limit(ConvSpec(side, side, 1, input_size=(side,), bias=False), product),
        COPY: _Limit(_line(source.numel()), lambda: target.copy_(source)),
    }
    kernels = library()
    if kernels is None:
        return found
    if dtype == torch.float32:
        add = partial(kernels.archcost_multiply_add, _ADDS, threads)
        found[MULTIPLY_ADD] = _Limit(_line(add()), add)
    # Half of a level: all of it would have to be free of anything else.
    sizes = {level: min(size // 2, beyond) for level, size in _levels(device, threads).items()}
    for level, size in {**sizes, _MEMORY: beyond}.items():
        times = max(1, _READ_BYTES // size)
        read = partial(kernels.archcost_read, source.data_ptr(), size // 4, times, threads)
        found[READ + level] = _Limit(_line(read() // dtype.itemsize), read)
    return found  # the copy holds the source, whose address the others have


def _line(numbers: int) -> ConvSpec:
    return ConvSpec(1, 1, 1, input_size=(numbers,), bias=False)


def _product(dtype: torch.dtype, deadline: Deadline | None) -> tuple[int, Callable[[], torch.Tensor]]:
    """The smallest square product that takes long enough, and a function that computes it."""
    import torch

    took = 0.0
    for side in _SIDES:
        if deadline is not None and not deadline.allows(2 * _GROWTH * took):
            raise TooLittleTime(_NO_TIME)
        generator = torch.Generator().manual_seed(0)
        a, b = (torch.rand(side, side, generator=generator).to(dtype) for _ in range(2))
        into = torch.empty(side, side, dtype=dtype)

        def call(a: torch.Tensor = a, b: torch.Tensor = b, into: torch.Tensor = into) -> torch.Tensor:
            return torch.mm(a, b, out=into)

        call()
        took = once(call)
        if took >= LONG_S:
            break
    return side, call
