"""How far the clock can be believed: layers in context against end to end, and predictions against times.

    python benchmarks/measure.py context [--models resnet18 vgg16 mobilenet_v2] [--threads 1 2] [--seconds 20]
    python benchmarks/measure.py predictor [--models ...] [--threads 1] [--seconds 0.5] [--passes 3]
    python benchmarks/measure.py roofline [--threads 1 2]

`context` times every layer of a model inside real forward passes, which take turns with passes without hooks,
and says how far the sum of the layers is from those (paired: round by round). `predictor` measures every
distinct convolution of the models on several paths, taken in turns, fits every second one in order of size,
and predicts the others: the median error by path and kind of convolution, and how much slower the path it
would choose is than the best one measured (geometric mean). The speed of a shared machine changes by a third
from minute to minute: so a product of matrices takes turns with the paths, times are brought to the speed
that it usually has, and the median of several passes over all convolutions counts; how far two passes are
from each other, with that and without, is said first. With one thread the time is the thread's CPU time, with
more it is wall time. DISTURBED stands where every sample was interrupted: try a quieter machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from itertools import product as product_of
from math import nan
from statistics import geometric_mean, median
from typing import Any, Literal

import torch
import torchvision
from torch import nn

from archcost import ConvSpec
from archcost.latency.prediction.predictor import Predictor, kind_of
from archcost.latency.prediction.roofline import measure_roofline
from archcost.latency.store.fingerprint import fingerprint
from archcost.latency.store.kinds import PATH
from archcost.latency.store.measurement import Key, Measurement
from archcost.latency.store.store import Store
from archcost.latency.timing.clock import compare_calls
from archcost.latency.timing.context import time_in_context
from archcost.latency.timing.settings import settings
from archcost.paths import get

IN_CONTEXT = ["resnet18", "vgg16", "mobilenet_v2"]
TO_PREDICT = [
    *("vgg16", "resnet18", "resnet50", "googlenet", "alexnet", "inception_v3", "mobilenet_v2"),
    *("mobilenet_v3_large", "efficientnet_b0"),
]
PATHS = [
    "native",
    "native-prepacked",
    "im2col-tiled",
    "winograd-2",
    "winograd-4",
    "winograd-6",
    "fft-16",
    "fft",
    "direct",
]
MOST_BYTES = 2**29
# The kinds of the store of this benchmark; the reference is a product of matrices.
PASS, REFERENCE = "pass ", "reference"
SIZES = {"inception_v3": 299}


def build(name: str) -> tuple[nn.Module, torch.Tensor]:
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = getattr(torchvision.models, name)(weights=None, **options).eval()
    side = SIZES.get(name, 224)
    return model, torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))


def context(models: Iterable[str], threads: Iterable[int], seconds: float) -> None:
    columns = (
        "ms",
        "threads",
        "end to end",
        "spread",
        "layers",
        "difference",
        "paired",
        "hooks cost",
        "kept",
    )
    print("{:14} {:>7} {:>10} {:>8} {:>9} {:>10} {:>7} {:>10}  {}".format(*columns))
    for name in models:
        model, x = build(name)
        for count in threads:
            found = time_in_context(model, x, seconds=seconds, threads=count, keep_blocks=True)
            end = found.end_to_end
            times = (end.median_s, end.spread_s, found.total)
            print(
                "{:14} {:7} {:10.3f} {:8.3f} {:9.3f}".format(name, count, *(time * 1e3 for time in times)),
                f"{found.difference:+10.1%} {found.paired_difference:+7.1%} {found.hooks_cost * 1e3:10.3f} ",
                f"{end.samples}/{end.samples + end.dropped}{' DISTURBED' * found.disturbed}",
                flush=True,
            )


def convolutions(models: Iterable[str]) -> list[ConvSpec]:
    """The distinct ones, smallest first; found by a pass that computes nothing."""
    found: set[ConvSpec] = set()

    def seen(module: nn.Module, args: Any, output: Any) -> None:
        assert isinstance(module, nn.Conv2d)
        numbers: dict[str, Any] = {
            name: getattr(module, name)
            for name in (
                "in_channels",
                "out_channels",
                "kernel_size",
                "stride",
                "padding",
                "dilation",
                "groups",
            )
        }
        found.add(ConvSpec(**numbers, bias=False, input_size=tuple(args[0].shape[2:])))

    for name in models:
        model, x = build(name)
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(seen)
        model.to("meta")(x.to("meta"))
    return sorted(found, key=lambda spec: (spec.macs, str(spec)))


def calls_of(spec: ConvSpec, paths: Iterable[str]) -> dict[str, Callable[[], Any]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(spec.batch, spec.in_channels, *spec.input_size, generator=generator)
    shape = (spec.out_channels, spec.in_channels // spec.groups, *spec.kernel_size)  # type: ignore[misc]
    weight = torch.randn(shape, generator=generator)
    calls: dict[str, Callable[[], Any]] = {}
    for name in paths:
        path = get(name)
        if path.supports(spec, torch.float32) is None and sensible(spec, name):
            calls[name] = partial(path.run, x, path.prepare(weight, None, spec))
    return calls


def sensible(spec: ConvSpec, path: str) -> bool:
    """Neither Fourier's transforms of what fills the memory, nor the definition where no kernel runs it."""
    if (get(path).workspace_bytes(spec) or 0) > MOST_BYTES:
        return False
    return path != "direct" or get(path).implementation(spec) == "compiled"


def measure(
    specs: list[ConvSpec], paths: list[str], threads: int, seconds: float, passes: int, store: Store
) -> None:
    """Into the store what it has not: so a run that was cut short goes on."""
    device = fingerprint()
    cpu: Literal["thread", "process"] = "thread" if threads == 1 else "process"
    clock: Literal["cpu", "wall"] = "cpu" if threads == 1 else "wall"
    a, b = torch.rand(2, 256, 256, generator=torch.Generator().manual_seed(0)).unbind()
    product = torch.empty(256, 256)
    for number, spec in product_of(range(passes), specs):
        calls = {**calls_of(spec, paths), REFERENCE: partial(torch.mm, a, b, out=product)}
        key = Key(device.hash, spec, "float32", "", threads=threads)
        keys = {name: replace(key, path=name, kind=f"{PASS}{number}") for name in calls}
        if all(store.get(key) is not None for key in keys.values()):
            continue
        each = seconds * len(calls) / passes
        timings = compare_calls(calls, rounds=15, seconds=each, cpu_clock=cpu, block=0.001)
        store.put_many(
            Measurement.of(keys[path], timing, device, clock=clock) for path, timing in timings.items()
        )


def at_one_speed(found: Iterable[Measurement]) -> tuple[list[Measurement], float, float]:
    """Each convolution's passes as one measurement, at the machine's usual speed.

    The reference took turns with the paths: where it took longer than usual, the machine was slower. Also how
    far two passes over the same are from each other, as the clock had them and at one speed (medians).
    """
    passes: dict[Key, list[Measurement]] = {}
    speeds: dict[Key, float] = {}
    for one in found:
        if one.key.path == REFERENCE:
            speeds[replace(one.key, path="")] = one.median_s
        else:
            own = replace(one, key=replace(one.key, path=""))
            passes.setdefault(replace(one.key, kind=PATH), []).append(own)
    usual = median(speeds.values())
    made, raw, level = [], [], []
    for key, several in passes.items():
        clock = [one.median_s for one in several]
        times = [one.median_s * usual / speeds[one.key] for one in several]
        made.append(replace(several[0], key=key, median_s=median(times)))
        raw += [abs(t / u - 1) for t, u in pairwise(clock)]
        level += [abs(t / u - 1) for t, u in pairwise(times)]
    return made, median(raw or [nan]), median(level or [nan])


def predict(
    models: Iterable[str], paths: list[str], threads: int, seconds: float, passes: int, store: Store
) -> None:
    specs = convolutions(models)
    with settings(threads=threads, keep_blocks=True), torch.inference_mode():
        measure(specs, paths, threads, seconds, passes, store)
    wanted = {spec: number for number, spec in enumerate(specs)}
    every = [
        it
        for it in store.all(fingerprint().hash)
        if it.key.threads == threads and it.key.spec in wanted and it.key.kind.startswith(PASS)
    ]
    found, raw, level = at_one_speed(every)
    disturbed = sum(it.disturbed for it in every)
    print(f"{len(found)} times of {len(specs)} convolutions in {passes} passes, {disturbed} DISTURBED")
    print(f"two passes over the same differ by {raw:.1%} (median), {level:.1%} at one speed of the machine")
    fitted = Predictor.fit([it for it in found if wanted[it.key.spec] % 2 == 0], threads=threads)
    errors: dict[tuple[str, str], list[float]] = {}
    slower: list[float] = []
    for spec in specs[1::2]:
        times = {it.key.path: it.median_s for it in found if it.key.spec == spec and it.key.path in paths}
        known = [path for path in times if fitted.why_not(spec, path) is None]
        for path in known:
            error = abs(fitted.predict(spec, path).seconds / times[path] - 1)
            errors.setdefault((path, kind_of(spec)), []).append(error)
        if known:
            chosen = fitted.best(spec, known).path
            slower.append(times[chosen] / min(times[path] for path in known))
    for fit in fitted.fits:
        held = errors.get((fit.path, fit.kind), [])
        said = f"{median(held):6.1%} on {len(held)} others" if held else "no others"
        law = f"{fit.path:18} {fit.kind:10} {fit.measurements:4} fitted"
        print(f"{law}, error said {fit.error:6.1%}, found {said}")
    if slower:
        loss = geometric_mean(slower) - 1
        print(f"the path chosen is {loss:.1%} slower than the best, of {len(slower)} layers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("context", "predictor", "roofline"))
    parser.add_argument("--models", nargs="+", help="of torchvision")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--paths", nargs="+", default=PATHS)
    parser.add_argument("--seconds", type=float, help="for each model, or each layer and path")
    parser.add_argument("--passes", type=int, default=3, help="over all layers, which share the seconds")
    parser.add_argument("--store", default=":memory:", help="a file that keeps what `predictor` measures")
    chosen = parser.parse_args()
    print(f"{fingerprint()}\n")
    if chosen.what == "context":
        context(chosen.models or IN_CONTEXT, chosen.threads, chosen.seconds or 20.0)
    for threads in chosen.threads if chosen.what != "context" else []:
        if chosen.what == "predictor":
            with Store(chosen.store) as store:
                seconds = chosen.seconds or 0.5
                models = chosen.models or TO_PREDICT
                predict(models, chosen.paths, threads, seconds, chosen.passes, store)
        else:
            print(measure_roofline(threads=threads, again=True))


if __name__ == "__main__":
    main()
