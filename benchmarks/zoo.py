"""Is the accelerated model ever slower? torchvision's classifiers and 40 CNNs of timm, batch 1, one thread.

    taskset -c 0 python benchmarks/zoo.py [--models PATTERN ...] [--seconds S] [--json FILE]

Each model, with random weights, is accelerated and timed against itself in turns, as `archcost.accelerate`
does. Printed are the ratio of times, its spread, what was left as it was and why, the outputs' error against
float64, the share of time in PyTorch's operators and the seconds until it was ready. Models of more
multiply-adds than ``--most`` are left out: a pass in float64 alone takes minutes.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import math
import time
import warnings
from collections.abc import Iterator

import torch
import torchvision
from tabulate import tabulate

import archcost

TIMM = (
    *("convmixer_768_32", "convnextv2_atto", "convnext_pico", "cspdarknet53", "cspresnet50", "darknet53"),
    *("dla34", "dla60_res2net", "edgenext_small", "efficientvit_b0", "ese_vovnet19b_dw", "fbnetv3_b"),
    *("gernet_s", "ghostnet_100", "ghostnetv2_100", "hardcorenas_a", "hgnetv2_b0", "hrnet_w18_small"),
    *("inception_next_atto", "lcnet_100", "legacy_seresnext26_32x4d", "mixnet_s", "mobilenetv4_conv_small"),
    *("mobileone_s1", "mobilevit_xs", "mobilevitv2_050", "poolformer_s12", "rdnet_tiny", "regnetz_005"),
    *("repghostnet_100", "repvgg_a0", "res2net50_26w_4s", "resnest14d", "resnet26t", "resnetblur18"),
    *("resnetv2_18", "rexnet_100", "selecsls42", "skresnet18", "starnet_s1"),
)
FIELDS = ("ratio", "spread", "ms", "was", "error", "off", "torch", "ready")


def specs(patterns: list[str]) -> Iterator[str]:
    """SPECs of all models whose names fit one of the patterns."""
    names = [f"torchvision:{name}" for name in torchvision.models.list_models(torchvision.models)]
    for spec in (*names, *(f"timm:{name}" for name in TIMM)):
        if any(fnmatch.fnmatch(spec, pattern) for pattern in patterns):
            yield spec


def measured(spec: str, seconds: float | None, most: float) -> dict[str, object]:
    """What was found for one model."""
    torch.manual_seed(0)
    loaded = archcost.load(spec)
    macs = archcost.analyze(spec, progress=False).total.macs
    if macs > most:
        return {"spec": spec, "left out": f"{macs / 1e9:.3g} G multiply-adds"}
    x = torch.randn(loaded.input_size or (1, 3, 224, 224))
    began = time.perf_counter()
    fast = archcost.accelerate(loaded.model, x, seconds=seconds, progress=False)
    found = fast.acceleration
    return {
        "spec": spec,
        "ratio": None if found.ratio is None else found.ratio.median,
        "spread": None if found.ratio is None else found.ratio.spread,
        "ms": found.accelerated_ms,
        "was": found.original_ms,
        "error": found.error,
        "off": found.reason,
        "torch": found.pytorch_share,
        "ready": time.perf_counter() - began,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["*"], metavar="PATTERN")
    parser.add_argument("--seconds", type=float, help="for timing each; by default what accelerate takes")
    parser.add_argument("--most", type=float, default=20e9, help="multiply-adds of the largest model")
    parser.add_argument("--json", help="also write it there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows: list[dict[str, object]] = []
    for spec in specs(options.models):
        try:
            rows.append(measured(spec, options.seconds, options.most))
        except (archcost.ArchcostError, RuntimeError) as error:
            rows.append({"spec": spec, "left out": str(error).splitlines()[0]})
        print(rows[-1], flush=True)
        if options.json:
            with open(options.json, "w", encoding="utf-8") as file:
                json.dump(rows, file, indent=1)
    done = [row for row in rows if "ratio" in row]
    print(tabulate([[row["spec"], *(row[name] for name in FIELDS)] for row in done], ["spec", *FIELDS]))
    ratios = [float(str(row["ratio"])) for row in done if row["ratio"] is not None and row["off"] is None]
    if ratios:
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        print(f"{len(ratios)} of {len(done)} accelerated: geometric mean {mean:.2f}, least {min(ratios):.2f}")


if __name__ == "__main__":
    main()
