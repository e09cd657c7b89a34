"""The roofline: this machine's measured peak and bandwidth, and the lower bound on a convolution's time.

A layer takes at least the time of its multiplications at the peak, and that of its bytes at the bandwidth of
memory (Williams, Waterman and Patterson, "Roofline", 2009). Where four times fewer multiplications save only
2.5 times the time, the bytes are why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Literal

from archcost.errors import InputError
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

__all__ = ["COPY", "PRODUCT", "Roofline", "bytes_moved", "measure_roofline"]

# The store keeps both as convolutions: a product of n x n matrices as a 1x1 convolution of n channels on n
# positions, and a copy of n numbers as one of a single channel.
PRODUCT, COPY = "product", "copy"

_SIDES = (512, 1024, 2048, 4096)
# Growth of the multiplications from one side to the next.
_GROWTH = 8


@dataclass(frozen=True)
class Roofline:
    """Peak and bandwidth of a machine, for a number of threads and a dtype."""

    macs_per_second: float
    """Peak: multiply-accumulates of a large square matrix product, by PyTorch."""
    bytes_per_second: float
    """Bandwidth: bytes read and written by a copy far beyond the caches."""
    threads: int
    """Threads of PyTorch."""
    dtype: str
    device: str
    """Machine and software."""
    disturbed: bool = False
    """Whether peak or bandwidth is unreliable, because its samples were interrupted."""

    @property
    def ridge(self) -> float:
        """Multiply-accumulates for each byte below which memory is the limit, and above which the peak is."""
        return self.macs_per_second / self.bytes_per_second

    def attainable(self, multiplications: float, moved: float) -> float:
        """The lower bound in seconds for a number of multiplications and of bytes moved."""
        return max(multiplications / self.macs_per_second, moved / self.bytes_per_second)

    def bound(self, multiplications: float, moved: float) -> Literal["multiplications", "memory"]:
        """Which of the two is the limit: multiplications or memory."""
        by_memory = moved * self.macs_per_second > multiplications * self.bytes_per_second
        return "memory" if by_memory else "multiplications"

    def share(self, seconds: float, multiplications: float, moved: float) -> float:
        """The lower bound over a measured time: 1 is as fast as possible.

        More than 1 where the data are still in a cache, which is faster than memory.

        Raises:
            InputError: seconds is not above 0.
        """
        if not seconds > 0:
            raise InputError(f"share: seconds must be above 0, got {seconds!r}")
        return self.attainable(multiplications, moved) / seconds

    def __str__(self) -> str:
        speeds = f"{self.macs_per_second / 1e9:.1f} GMAC/s, {self.bytes_per_second / 1e9:.1f} GB/s"
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
        product, copy = _measured(device, dtype, name, threads, seconds, deadline)
    if store is not None:
        store.put_many([product, copy])
    return _roofline(product, copy, dtype.itemsize)


def _stored(store: Store, device: Fingerprint, dtype: str, threads: int) -> Roofline | None:
    import torch

    found: dict[str, Measurement] = {}
    for one in sorted(store.all(device.hash), key=lambda one: one.measured_at):
        if (one.key.dtype, one.key.threads, one.key.kind) == (dtype, threads, ROOFLINE):
            found[one.key.path] = one
    if not {PRODUCT, COPY} <= found.keys():
        return None
    return _roofline(found[PRODUCT], found[COPY], getattr(torch, dtype).itemsize)


def _roofline(product: Measurement, copy: Measurement, itemsize: int) -> Roofline:
    key, moved = product.key, 2 * itemsize * copy.key.spec.neurons
    peak, bandwidth = key.spec.macs / product.median_s, moved / copy.median_s
    disturbed = product.disturbed or copy.disturbed
    return Roofline(peak, bandwidth, key.threads, key.dtype, product.device, disturbed)


def _measured(
    device: Fingerprint,
    dtype: torch.dtype,
    name: str,
    threads: int,
    seconds: float,
    deadline: Deadline | None,
) -> tuple[Measurement, Measurement]:
    import torch

    def timed(path: str, spec: ConvSpec, call: Callable[[], torch.Tensor]) -> Measurement:
        which: Literal["thread", "process"] = "thread" if threads == 1 else "process"
        found = compare_calls(
            {path: call}, rounds=ROUNDS, seconds=seconds / 2, deadline=deadline, cpu_clock=which
        )
        if not found:
            raise TooLittleTime("the time was up before the roofline was measured")
        key = Key(device.hash, spec, name, path, threads=threads, kind=ROOFLINE)
        return Measurement.of(key, found[path], device)

    side, call = _product(dtype, deadline)
    product = timed(PRODUCT, ConvSpec(side, side, 1, input_size=(side,), bias=False), call)
    numbers = device.beyond_caches_bytes // dtype.itemsize
    source, target = torch.zeros(numbers, dtype=dtype), torch.ones(numbers, dtype=dtype)
    copy = ConvSpec(1, 1, 1, input_size=(numbers,), bias=False)
    return product, timed(COPY, copy, lambda: target.copy_(source))


def _product(dtype: torch.dtype, deadline: Deadline | None) -> tuple[int, Callable[[], torch.Tensor]]:
    """The smallest square product that takes long enough, and a function that computes it."""
    import torch

    took = 0.0
    for side in _SIDES:
        if deadline is not None and not deadline.allows(2 * _GROWTH * took):
            raise TooLittleTime("the time was up before the roofline was measured")
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
