"""Every path that can execute a layer, timed against the others on one thread.

    python examples/time_paths.py                 # the 5x5 layer
    python examples/time_paths.py vgg depthwise   # others of LAYERS below

Milliseconds of CPU time, the median and the interquartile range of interleaved calls.
"""

import sys
from functools import partial
from math import prod

import torch

from archcost import ConvSpec
from archcost.latency.timing.clock import compare_calls
from archcost.paths import available, get, relative_error

LAYERS = {
    "5x5": ConvSpec(32, 96, 5, padding=2, bias=False, input_size=(28, 28)),
    "vgg": ConvSpec(256, 256, 3, padding=1, bias=False, input_size=(56, 56)),
    "depthwise": ConvSpec(128, 128, 31, padding=15, groups=128, bias=False, input_size=(56, 56)),
    "sequence": ConvSpec(128, 128, 31, padding=15, bias=False, input_size=(1000,)),
    "strided": ConvSpec(64, 64, 7, stride=2, padding=3, bias=False, input_size=(56, 56)),
}

torch.set_num_threads(1)
for chosen in sys.argv[1:] or ["5x5"]:
    spec = LAYERS[chosen]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, spec.in_channels, *spec.input_size, generator=generator)
    weight = torch.randn(
        spec.out_channels, spec.in_channels // spec.groups, *spec.kernel_size, generator=generator
    )

    # What takes more than half a GiB, or multiplies tap by tap where there are hundreds, is left out.
    names = [name for name in available() if get(name).supports(spec, x.dtype) is None]
    names = [name for name in names if (get(name).workspace_bytes(spec) or 0) < 2**29]
    if prod(spec.kernel_size) > 100:
        names = [name for name in names if name != "direct" and not name.startswith("im2col")]
    # The weights are prepared once, as in a model; only the run is timed.
    calls = {name: partial(get(name).run, x, get(name).prepare(weight, None, spec)) for name in names}
    with torch.inference_mode():
        timings = compare_calls(calls, rounds=15, seconds=20, cpu_clock="thread")

    print(f"{chosen}: {spec.macs / 1e6:.0f} M multiplications by the definition, one thread\n")
    for name in sorted(names, key=lambda name: timings[name].median):
        timing, error = timings[name], relative_error(name, x, weight, spec)
        count = (get(name).multiplications(spec) + get(name).transform_multiplications(spec)) / spec.macs
        print(
            f"  {name:22}{timing.median * 1e3:9.2f} ms, spread {timing.spread * 1e3:6.2f}, "
            f"{count:6.1%} of the multiplications, error {error:.0e}"
        )
    print(f"\n  fastest: {min(names, key=lambda name: timings[name].median)}\n")
