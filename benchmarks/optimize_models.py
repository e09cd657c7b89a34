"""What `optimize.py --planning` and `--models` do: torchvision's classifiers with random weights.

Planning: CPU seconds and peak memory of `archcost.optimize` with ``Budget(macs=0.5)`` (or the least
reachable) from the weights alone, for every classifier below 100 M parameters, each in a process of its own.

Models: half the MACs, or the least that can be reached; and whether the new model has outputs of the same
shapes, runs in eval mode, pickles, trains a step, exports (`torch.export`), and computes the same in ONNX
Runtime.
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

__all__ = ["models", "planning"]

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
    return torchvision.models.get_model(name, weights=None, **further).eval()


def size_of(name: str) -> int:
    wanted = torchvision.models.get_model_weights(name).DEFAULT.transforms
    found: Any = getattr(wanted, "keywords", {}).get("crop_size", 224)
    return int(found if isinstance(found, int) else found[0])


def within(model: nn.Module, x: torch.Tensor, **options: Any) -> tuple[Any, float]:
    """The result for half the MACs or, where that cannot be, a little more than the least; and the share."""
    for _ in range(2):
        share = options.pop("share", SHARE)
        try:
            return archcost.optimize(
                model, x, budget=archcost.Budget(macs=share), progress=False, **options
            ), share
        except archcost.ArchcostError as error:
            least = re.search(r"least reachable is ([\d.]+)", str(error))
            if least is None or float(least[1]) >= 0.99:
                raise
            options["share"] = float(least[1]) + 0.01
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
    x = torch.zeros(1, 3, side, side)
    before = peak()
    begun = time.process_time()
    found, share = within(model, x, **PLAN_ONLY)
    seconds = time.process_time() - begun
    stages = ", ".join(f"{key} {value:.1f}" for key, value in (found.seconds or {}).items() if value >= 0.05)
    asked = "" if share == SHARE else f"  (asked for {share:.2f})"
    return f"{name:24}{seconds:8.1f}{peak():9}{before:8}{found.reached['macs']:9.3f}{asked}  {stages}"


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


def prepare() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)


def peak() -> int:
    """Peak resident memory so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
