"""What `optimize.py --planning`, `--models`, `--times` and `--latency` do: torchvision's classifiers with
random weights.

Planning: CPU seconds and peak memory of `archcost.optimize` with ``Budget(macs=0.5)`` (or the least
reachable) from the weights alone, for every classifier below 100 M parameters, each in a process of its own.

Models: half the MACs, or the least that can be reached; and whether the new model has outputs of the same
shapes, runs in eval mode, pickles, trains a step, exports (`torch.export`), and computes the same in ONNX
Runtime.

Times: of the old and the new model with half the MACs, by PyTorch and by `archcost.accelerate`, in turns.
Latency: of models for ``Budget(latency=0.6)``, what was promised and what is measured in turns.
"""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
import re
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

import archcost

__all__ = ["latency", "models", "planning", "times"]

MODELS = (
    *("vgg16", "resnet50", "googlenet", "inception_v3", "densenet121", "regnet_y_400mf"),
    *("mobilenet_v3_large", "convnext_tiny", "squeezenet1_0", "efficientnet_b0"),
)
MOST = 100e6
SHARE = 0.5


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    further = {"aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    further |= {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    return settled(torchvision.models.get_model(name, weights=None, **further))


@torch.no_grad()
def settled(model: nn.Module) -> nn.Module:
    """With norms that have seen inputs, and branches that count: else outputs hardly depend on layers."""
    for key, value in model.named_parameters():
        if key.endswith("layer_scale"):
            value.fill_(0.1)
    norms = [one for one in model.modules() if isinstance(one, nn.BatchNorm2d)]
    momenta = [one.momentum for one in norms]
    for norm in norms:
        norm.momentum = None
    if norms:
        model.train()(torch.randn(4, 3, 224, 224))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


def size_of(name: str) -> int:
    wanted = torchvision.models.get_model_weights(name).DEFAULT.transforms
    found: Any = getattr(wanted, "keywords", {}).get("crop_size", 224)
    return int(found if isinstance(found, int) else found[0])


def within(
    model: nn.Module, x: torch.Tensor, resource: str = "macs", share: float = SHARE, **options: Any
) -> tuple[Any, float]:
    """The result for a share or, where that cannot be, a little more than the least; and the share."""
    for _ in range(2):
        try:
            return archcost.optimize(model, x, budget={resource: share}, progress=False, **options), share
        except archcost.ArchcostError as error:
            least = re.search(r"least reachable is ([\d.]+)", str(error))
            if least is None or float(least[1]) >= 0.99:
                raise
            share = float(least[1]) + (0.01 if resource == "macs" else 0.05)
    raise archcost.ArchcostError("not even the least that it said can be reached")


def isolated(work: Callable[[str], str], name: str) -> str:
    """What a call in a new process returns, or how it failed."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(work, name).result(timeout=900)
        except Exception as error:
            return f"{name:24} FAILED: {type(error).__name__}: {error}"


def planning(names: list[str]) -> None:
    wanted = names or [
        one
        for one in torchvision.models.list_models(module=torchvision.models)
        if torchvision.models.get_model_weights(one).DEFAULT.meta["num_params"] < MOST
    ]
    print(f"{'model':24}{'CPU s':>8}{'peak MB':>9}{'before':>8}{'reached':>9}", flush=True)
    for name in wanted:
        print(isolated(planned, name), flush=True)


def planned(name: str) -> str:
    prepare()
    model, side = built(name), size_of(name)
    x = torch.randn(1, 3, side, side)
    before = peak()
    begun = time.process_time()
    found, share = within(model, x, **PLAN_ONLY)
    seconds = time.process_time() - begun
    asked = "" if share == SHARE else f"  (asked for {share:.2f})"
    return f"{name:24}{seconds:8.1f}{peak():9}{before:8}{found.reached['macs']:9.3f}{asked}  {stages(found)}"


def stages(found: Any) -> str:
    return ", ".join(f"{key} {value:.1f}" for key, value in (found.seconds or {}).items() if value >= 0.05)


PLAN_ONLY: dict[str, Any] = {"random_weights": True}


def models(names: list[str]) -> None:
    for name in names or MODELS:
        print(isolated(tried, name), flush=True)


def tried(name: str) -> str:
    prepare()
    model = built(name)
    torch.manual_seed(1)
    x = torch.randn(2, 3, *[299 if name == "inception_v3" else 224] * 2)
    found, share = within(model, x, random_weights=True)
    new = found.model
    said = [f"{name}: asked {share:.2f}, reached {found.reached['macs']:.3f}"]
    for check in (runs, pickles, trains, exports, in_onnx):
        try:
            said.append(f"{check.__name__} {check(model, new, x)}".strip())
        except Exception as error:
            said.append(
                f"{check.__name__} FAILED ({type(error).__name__}: {str(error).splitlines()[0][:120]})"
            )
    return "; ".join(said)


@torch.no_grad()
def runs(old: nn.Module, new: nn.Module, x: torch.Tensor) -> str:
    a, b = old(x), new(x)
    assert a.shape == b.shape, f"{tuple(a.shape)} and {tuple(b.shape)}"
    assert bool(b.isfinite().all()), "outputs are not finite"
    return f"{tuple(b.shape)}"


@torch.no_grad()
def pickles(old: nn.Module, new: nn.Module, x: torch.Tensor) -> str:
    again = pickle.loads(pickle.dumps(new))
    file = io.BytesIO()
    torch.save(new, file)
    file.seek(0)
    assert torch.equal(again(x), new(x))
    assert torch.equal(torch.load(file, weights_only=False)(x), new(x))
    return ""


def trains(old: nn.Module, new: nn.Module, x: torch.Tensor) -> str:
    work = copy.deepcopy(new).train()
    step = torch.optim.SGD(work.parameters(), 1e-3)
    was = [one.detach().clone() for one in work.parameters()]
    work(x).square().mean().backward()
    missing = [name for name, one in work.named_parameters() if one.grad is None]
    step.step()
    moved = sum(not torch.equal(a, b) for a, b in zip(was, work.parameters(), strict=True))
    assert not missing, f"no gradient for {missing[:3]}"
    return f"({moved} of {len(was)} parameters moved)"


@torch.no_grad()
def exports(old: nn.Module, new: nn.Module, x: torch.Tensor) -> str:
    program = torch.export.export(new, (x,))
    off = float((program.module()(x) - new(x)).abs().max() / new(x).abs().max())
    assert off < 1e-4, f"off by {off:.1e}"
    return f"(off {off:.0e})"


@torch.no_grad()
def in_onnx(old: nn.Module, new: nn.Module, x: torch.Tensor) -> str:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "new.onnx"
        torch.onnx.export(new, (x,), str(file), dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        made = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    off = float((made - new(x)).abs().max() / new(x).abs().max())
    assert off < 1e-3, f"off by {off:.1e}"
    return f"(off {off:.0e})"


TIMED = MODELS[:7]
SLOWER = {"vgg16": 96, "resnet18": 224, "googlenet": 224, "mobilenet_v2": 160}
"""Models, and the side of their input, for budgets of time."""


def times(names: list[str]) -> None:
    print(f"{'model':20}{'MACs x':>8}{'time x':>8}{'accelerated x':>15}  ms: old, new, accelerated both")
    for name in names or TIMED:
        print(isolated(timed, name), flush=True)


def timed(name: str) -> str:
    """Old and new model, by PyTorch and accelerated, in turns."""
    from archcost.latency.timing.clock import compare_calls, ratio

    prepare()
    model = built(name)
    torch.manual_seed(1)
    x = torch.randn(1, 3, *[299 if name == "inception_v3" else 224] * 2)
    found, _ = within(model, x, random_weights=True)
    nets = {"old": model, "new": found.model}
    nets |= {f"{key}, accelerated": archcost.accelerate(net, x, store=False) for key, net in nets.items()}
    with torch.inference_mode():
        calls = {key: lambda net=net: net(x) for key, net in nets.items()}
        made = compare_calls(calls, rounds=15, seconds=40, cpu_clock="thread")
    old, new, old_fast, new_fast = made.values()
    ms = ", ".join(f"{1e3 * one.median:.1f}" for one in made.values())
    plain, fast = ratio(new, old).median, ratio(new_fast, old_fast).median
    doubt = " (disturbed)" * any(one.disturbed for one in made.values())
    return f"{name:20}{found.reached['macs']:8.3f}{plain:8.3f}{fast:15.3f}  {ms}{doubt}"


def latency(names: list[str]) -> None:
    print(f"{'model':20}{'asked':>6}{'promised':>9}{'measured':>9}{'MACs x':>8}{'CPU s':>7}")
    for name in names or SLOWER:
        print(isolated(in_time, name), flush=True)


def in_time(name: str) -> str:
    prepare()
    torch.manual_seed(0)
    model, side = built(name), SLOWER.get(name, 224)
    x = torch.randn(1, 3, side, side)
    begun = time.process_time()
    found, share = within(model, x, "latency", 0.6, random_weights=True)
    seconds = time.process_time() - begun
    note = next((one for one in found.notes if one.startswith("time: ")), "")
    promised = float(re.findall(r"[\d.]+", note)[0]) if note else float("nan")
    reached = found.reached
    line = f"{name:20}{share:6.2f}{promised:9.3f}{reached['latency']:9.3f}{reached['macs']:8.3f}"
    why = [one for one in found.notes if one.startswith("the time")]
    return "; ".join([f"{line}{seconds:7.1f}  {note}", *why, stages(found)])


def prepare() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)


def peak() -> int:
    """Peak resident memory so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
