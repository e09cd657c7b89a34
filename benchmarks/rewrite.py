"""What trained networks still know, and how fast they are, once `archcost.rewrite` has made them cheaper.

    python benchmarks/rewrite.py [--nets cnn resnet reader layers] [--rules small_kernels asymmetric ...]
                                 [--ratio 0.5] [--images 512] [--words 512] [--batch 1 16] [--rounds 15]
                                 [--data FOLDER] [--cache FOLDER] [--each] [--outcomes]

*cnn*: three 5x5 convolutions, *resnet*: of ResNet's kind; both are trained here on Fashion-MNIST, once (3 to
5 minutes on one core each), and kept in --cache. *reader*: the text reader english_g2, on words drawn here
(`rewrite_reader.py`). Every convolution with a kernel above 1x1 is rewritten by one rule, but for the first,
which sees one channel and has under 5 % of the MACs; no label is used and nothing is trained.

A line of a network is one rule, first with the weights alone and then with --images unlabelled inputs:

- *MACs*: of the whole network, new over old; *layers*: of the layers rewritten.
- *right*: of the inputs scored, none of which the rule has seen; *kept*: that, relative to the original.
- *agree*: inputs of which both networks say the same.
- *CPU s*: of `archcost.rewrite`, analysis and planning included, on one thread.
- *speed*: old over new time, both called in turns (`archcost.latency.timing.clock`), the median over
  rounds and the interquartile range. Below 1, fewer MACs were slower.
- *asked*: what the project aims at in *kept* and *agree* at this ratio, and whether it is met.

`small_kernels` aims at no less than two thirds, for two 3x3 with as many channels between them as a 5x5 has
are 18/25. With --each every layer is also rewritten alone, and with --outcomes each new layer has a line: its
options, its MACs, and the relative error of its output before and after the refit. *layers* times single
layers at --ratio, weights random, and names those that are slower than before. A spread of nan: too few
rounds were left alone. All of it runs on one thread.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from rewrite_layers import layers_table
from rewrite_nets import Task, default_cache, fashion
from rewrite_reader import reader
from torch import Tensor, nn

import archcost
from archcost.latency.timing.clock import compare_calls, ratio
from archcost.latency.timing.settings import settings

RULES = ("small_kernels", "asymmetric", "separable", "bottleneck")
NETS = ("cnn", "resnet", "reader", "layers")
LEAST = {"small_kernels": 0.67}
"""By rule, the smallest share of the MACs to ask of it."""
ASKED = {
    **{("cnn", rule): (0.995, 0.98) for rule in ("small_kernels", "asymmetric", "separable")},
    ("cnn", "bottleneck"): (0.985, 0.0),
    **{("reader", rule): (0.96, 0.0) for rule in ("separable", "bottleneck")},
    ("reader", "asymmetric"): (0.99, 0.0),
}
"""By network and rule: accuracy relative to the original's, and agreement, at half the MACs, with data."""


def table(task: Task, chosen: argparse.Namespace) -> None:
    """All rules on one network."""
    said = task.decisions(task.model)
    right = agreement(said, task.answers)
    whole = archcost.analyze(task.model, task.example)
    mine = sum(whole[name].macs for name in task.layers)
    print(
        f"\n{task.name}: {right:.2%} right of {len(said):,}; {whole.total.macs / 1e6:.1f} million MACs an "
        f"input, {mine / whole.total.macs:.1%} of them in the {len(task.layers)} layers rewritten\n"
    )
    head = f"{'rule':15}{'from':9}{'MACs':>6}{'layers':>8}{'right':>9}{'kept':>9}{'agree':>9}{'CPU s':>7}"
    speeds = "".join(f"{f'speed, batch {batch}':>22}" for batch in chosen.batch)
    print(f"{head}{speeds}  asked", flush=True)
    for rule in chosen.rules:
        for batches in (None, task.batches):
            line(task, rule, task.layers, batches, said, chosen)
        for name in task.layers if chosen.each else ():
            line(task, rule, (name,), task.batches, said, chosen)


def line(
    task: Task,
    rule: str,
    names: Sequence[str],
    batches: Sequence[Tensor] | None,
    said: list,
    chosen: argparse.Namespace,
) -> None:
    """One rewrite: done, scored and timed."""
    share = max(chosen.ratio, LEAST.get(rule, 0))
    begun = time.process_time()
    try:
        wanted = dict.fromkeys(names, rule)
        made = archcost.rewrite(
            task.model, task.example, wanted, ratio=share, batches=batches, progress=False
        )
    except archcost.ArchcostError as error:
        print(f"{rule:15}not done: {error}", flush=True)
        return
    seconds = time.process_time() - begun
    now = task.decisions(made.model)
    right, before = agreement(now, task.answers), agreement(said, task.answers)
    kept, same = right / before, agreement(now, said)
    macs, layers = shares(task, names, made.model)
    alone = len(names) < len(task.layers)
    source = names[0].rpartition(".")[2] if alone else "weights" if batches is None else "data"
    print(
        f"{rule:15}{source:9}{macs:6.2f}{layers:8.2f}{right:9.2%}{kept:9.2%}{same:9.2%}{seconds:7.1f}", end=""
    )
    if not alone:
        print(
            "".join(f"{speed(task, made.model, batch, chosen.rounds):>22}" for batch in chosen.batch), end=""
        )
    if batches is not None and not alone and chosen.ratio == 0.5 and (task.name, rule) in ASKED:
        least, together = ASKED[task.name, rule]
        met = kept >= least and same >= together
        print(
            f"  {least:.1%}{f', {together:.0%}' if together else ''}: {'met' if met else 'NOT met'}", end=""
        )
    print(flush=True)
    for one in made.outcomes if chosen.outcomes else ():
        options = ", ".join(f"{key}={value}" for key, value in one.proposal.options.items())
        errors = (
            "" if one.refitted is None else f", error {one.refitted[0]:.3f}, refitted {one.refitted[1]:.3f}"
        )
        print(f"{'':15}{one.proposal.name}: {options}, {one.proposal.macs_ratio:.2f} of its MACs{errors}")


def agreement(some: Sequence, others: Sequence) -> float:
    """Share of the places where both have the same."""
    return sum(a == b for a, b in zip(some, others, strict=True)) / len(others)


def shares(task: Task, names: Sequence[str], model: nn.Module) -> tuple[float, float]:
    """MACs, new over old: of the whole network, and of the layers rewritten."""
    old = archcost.analyze(task.model, task.example)
    saved = old.total.macs - archcost.analyze(model, task.example).total.macs
    return 1 - saved / old.total.macs, 1 - saved / sum(old[name].macs for name in names)


def speed(task: Task, model: nn.Module, batch: int, rounds: int) -> str:
    x = task.example.expand(batch, *task.example.shape[1:]).contiguous()
    with settings(threads=1, keep_blocks=True), torch.no_grad():
        calls = {"old": lambda: task.model(x), "new": lambda: model(x)}
        timings = compare_calls(calls, rounds=rounds, warmup=2, block=0.01, cpu_clock="thread")
    found = ratio(timings["old"], timings["new"])
    return f"{found.median:.2f}x (spread {found.spread:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=NETS)
    parser.add_argument("--rules", nargs="+", default=list(RULES))
    parser.add_argument("--ratio", type=float, default=0.5, help="MACs wanted of each layer, new over old")
    parser.add_argument("--images", type=int, default=512, help="inputs without labels that a rule may see")
    parser.add_argument("--words", type=int, default=512, help="that the reader is scored on")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16], help="sizes to time")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--each", action="store_true", help="every layer rewritten alone too")
    parser.add_argument("--outcomes", action="store_true", help="every new layer and its errors")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("/usr/share/datasets/fashion-mnist"),
        help="folder of Fashion-MNIST's four .gz files; on Debian `apt-get install dataset-fashion-mnist`",
    )
    parser.add_argument("--cache", type=Path, default=default_cache(), help="folder for what is trained here")
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    print(f"PyTorch {torch.__version__}, archcost {archcost.__version__}, 1 thread")
    for name in chosen.nets:
        if name == "layers":
            layers_table(chosen.rules, chosen.ratio, chosen.rounds)
        elif name == "reader":
            table(reader(chosen.images, chosen.words), chosen)
        else:
            table(fashion(name, chosen.data, chosen.cache, chosen.images), chosen)


if __name__ == "__main__":
    main()
