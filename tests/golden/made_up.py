"""Results with times in them that no machine measured."""

from dataclasses import replace
from functools import cache

from golden.models import branches

import archcost
from archcost import ConvSpec
from archcost.engine.acceleration import REST, Acceleration, StepTime
from archcost.latency.convolutions import convolutions_of
from archcost.latency.measured import Measured
from archcost.latency.paths import PathTimes
from archcost.latency.prediction.predictor import Prediction
from archcost.latency.prediction.roofline import Roofline
from archcost.latency.store.fingerprint import Fingerprint
from archcost.latency.store.measurement import Key, Measurement
from archcost.latency.store.store import Store
from archcost.latency.timing.clock import Ratio
from archcost.latency.timing.parts import CallTime, InContext, TimeStats
from archcost.rewriting.proposal import Raced

SIZE = (1, 3, 32, 32)
DEVICE = Fingerprint(
    *("A processor (model 1)", ("avx2", "fma"), 2, (("L1d", 32768), ("L2", 2**20)), "Linux x86_64"),
    *("2.9", "3.7", "0.1", "avx2"),
)
RACE = Raced(1.33, 0.968, 0.02, 1.37, device=str(DEVICE), threads=1)
ROOFLINE = Roofline(50e9, 8e9, threads=1, dtype="float32", device=str(DEVICE))


def measurement(spec, path, median, layout="contiguous", samples=25, **more):
    key = Key("f" * 16, spec, "float32", path, layout=layout)
    more = {"error": 1e-6, "workspace_bytes": None if path == "native" else 4096, **more}
    return Measurement(
        key, str(DEVICE), median, median / 20, samples, 1, "cpu", "2.9", measured_at=1e9, **more
    )


@cache
def measured():
    """The first convolutions in both layouts and on two other paths, the next predicted, the last neither."""
    analysis = archcost.analyze(branches(), input_size=SIZE, progress=False)
    calls = tuple(convolutions_of(analysis.trace))
    tasks = list(dict.fromkeys(call.task for call in calls))
    found = []
    for at, task in enumerate(tasks[:3]):
        times = (
            measurement(task.spec, "native", 1e-4 * (at + 2)),
            measurement(task.spec, "native", 0.9e-4 * (at + 2), "channels_last"),
            measurement(task.spec, "strassen-1", 0.5e-4 * (at + 1) ** 2),
            measurement(task.spec, "im2col", 2e-3, samples=1),
        )
        errors = {"native": 3e-6, "strassen-1": 2e-5, "im2col": 3e-6}
        found.append(PathTimes(task, times, errors, {"fft": "its error of 2e-03 is too large"}, at == 1))
    spans = [CallTime(2e-4 * (at + 1), 1e-5, 30, 2, False, call.name, call.type, call.call, True)
             for at, call in enumerate(calls)]  # fmt: skip
    whole = TimeStats(7e-3, 2e-4, 30, 2, False)
    context = InContext(
        *(tuple(spans), whole, replace(whole, median_s=7.2e-3), 1e-4, 1e-5, 30, 0, "cpu", str(DEVICE), 1),
        *("float32", analysis.input_text, False, "2.9"),
    )
    return Measured(
        *(analysis.name, analysis.total.type_name, analysis.input_text, 1, calls, tuple(found), context),
        *(ROOFLINE, str(DEVICE), 1, "2.9", 1e-4, False, 30.0, 12.5, False, ("a note of the measuring",)),
        {tasks[3]: Prediction(3e-4, 0.07, "native", "channels_last", True)},
        analysis=analysis,
    )


def acceleration(changed=True):
    fused = ("blocks.0.conv", "blocks.0.norm", "blocks.0.act")
    steps = (
        StepTime(fused, "convolution 3x3 + ReLU", "direct", (1, 16, 16, 16), 2.0, 1.2, 60.0),
        StepTime(("mask",), "cumsum", "PyTorch", (1, 16, 16, 16), 0.7, 0.2, 10.0),
        StepTime((), REST, "-", (), 0.3, 0.6, 30.0),
    )
    reason = None if changed else "the program gains no more than the noise (1.01x)"
    return Acceleration(
        *("Branches", changed, reason, steps, Ratio(1.5, 0.05, 20), 3.0, 2.0, 20, 1, 2e-5, 3e-6),
        *("original in float64", 1e-4, 65536, 9472, 4.2, str(DEVICE), 1, 1, "2.9", ("a note",)),
    )


def fill_store(path):
    """Two machines, usual and unusual convolutions."""
    usual = ConvSpec(64, 64, 3, padding=1, input_size=(56, 56))
    odd = ConvSpec(8, 16, (3, 5), stride=2, padding=[(0, 1), (2, 2)], groups=4, bias=False, input_size=(9, 9))
    other = measurement(odd, "winograd-4", 2e-3, disturbed=True)
    with Store(path) as store:
        store.put_many([measurement(usual, "native", 1e-3), measurement(usual, "fft", 3e-3, "channels_last")])
        store.put(replace(other, key=replace(other.key, fingerprint="0" * 16), device="another machine"))
