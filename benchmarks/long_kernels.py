"""Sequences under kernels of many taps: our paths beside PyTorch's convolution and scipy's.

    python benchmarks/long_kernels.py            # needs scipy for scipy.signal.oaconvolve, and goes without

All sides of a layer take turns in one run (`archcost.latency.timing.clock`), one thread, its CPU time,
float32, batch 1. Kernels are transformed before the clock runs, except by scipy, which does not keep them.
Errors are max |y - exact| / max |exact| against float64. What takes more than 40 times as long as the
fastest in its first call is not called again.
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F

from archcost import ConvSpec
from archcost.latency.store.fingerprint import fingerprint
from archcost.latency.timing.clock import compare_calls
from archcost.latency.timing.settings import settings
from archcost.paths import get
from archcost.paths.accuracy import error_against

LAYERS = {
    "8000 taps, 1 to 1, 48000 long": ConvSpec(1, 1, 8000, bias=False, input_size=(48000,)),
    "2000 taps, 1 to 1, 48000 long": ConvSpec(1, 1, 2000, bias=False, input_size=(48000,)),
    "512 taps, 1 to 1, 16000 long": ConvSpec(1, 1, 512, bias=False, input_size=(16000,)),
    "1024 taps, depthwise 64, 4096 long": ConvSpec(64, 64, 1024, groups=64, bias=False, input_size=(4096,)),
    "256 taps, 16 to 16, 8000 long": ConvSpec(16, 16, 256, bias=False, input_size=(8000,)),
}
OURS = ("fft-parts", "fft", "fft-512")
FAR = 40.0


def calls_of(spec: ConvSpec, x: torch.Tensor, weight: torch.Tensor):
    """By name, what computes the layer."""
    native = {"native": lambda: F.conv1d(x, weight, groups=spec.groups)}
    ways = [get(name) for name in OURS if get(name).supports(spec, torch.float32) is None]
    ours = {path.name: (path, path.prepare(weight, None, spec)) for path in ways}
    calls = {**native, **{name: (lambda p=p, r=r: p.run(x, r)) for name, (p, r) in ours.items()}}
    try:
        from scipy.signal import oaconvolve
    except ImportError:
        return calls
    if spec.in_channels == spec.groups:
        signal, taps = x[0].numpy(), weight[:, 0].flip(-1).numpy()
        calls["scipy oaconvolve"] = lambda: torch.from_numpy(oaconvolve(signal, taps, "valid", axes=-1))[None]
    return calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="for each layer, about")
    seconds = parser.parse_args().seconds
    print(f"{fingerprint()}; torch {torch.__version__}, one thread")
    with settings(threads=1), torch.inference_mode():
        for said, spec in LAYERS.items():
            torch.manual_seed(0)
            x = torch.randn(1, spec.in_channels, *spec.input_size)
            weight = torch.randn(spec.out_channels, spec.in_channels // spec.groups, *spec.kernel_size)
            exact = F.conv1d(x.double(), weight.double(), groups=spec.groups)
            calls, first, errors = calls_of(spec, x, weight), {}, {}
            for name, call in calls.items():
                errors[name] = error_against(call(), exact)
                start = time.thread_time()
                call()
                first[name] = time.thread_time() - start
            near = {name: calls[name] for name in calls if first[name] <= FAR * min(first.values())}
            timings = compare_calls(near, rounds=31, seconds=seconds, cpu_clock="thread")
            print(f"\n{said}")
            for name in calls:
                one = timings.get(name)
                took = f"{1e3 * first[name]:9.3f} ms, once" if one is None else f"{1e3 * one.median:9.3f} ms"
                spread = "" if one is None else f" +- {1e3 * one.spread:.3f} ({one.kept} kept)"
                print(f"  {name:18} {took}{spread}, error {errors[name]:.1e}")


if __name__ == "__main__":
    main()
