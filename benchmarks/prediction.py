"""What a prediction is off by: the linear law alone, and the law with kriging, on times left out of both.

    for name in resnet18 mobilenet_v2 vgg11; do
        taskset -c 1 archcost measure torchvision:$name --threads 1 --seconds 60 --store times.sqlite
    done
    python benchmarks/prediction.py times.sqlite [--folds 10] [--undisturbed]

Of every path, layout and kind of convolution with at least eight times in the store, one fold at a time is
left out, the rest is fitted, and |log(predicted / measured)| is taken of what was left out (one by one where
there are fewer than 40). Printed by path and kind, and of all together: the median and the 90th percentile.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import numpy as np

from archcost.latency.prediction import fitting
from archcost.latency.prediction.work import features_of, kind_of, work_of
from archcost.latency.store.kinds import PATH
from archcost.latency.store.store import Store


def errors(found: list, folds: int) -> tuple[np.ndarray, np.ndarray]:
    """|log ratio| of the law alone, and with kriging, of each time left out."""
    path = found[0].key.path
    work = [work_of(one.key.spec, path) for one in found]
    samples = fitting._Samples(
        np.array([[*one, 1.0] for one in work]),
        np.array([features_of(one.key.spec, path, its) for one, its in zip(found, work, strict=True)]),
        np.array([one.median_s for one in found]),
    )
    count = len(found)
    fold = np.random.default_rng(0).permutation(np.arange(count) % (folds if count >= 40 else count))
    alone, both = np.zeros(count), np.zeros(count)
    for number in np.unique(fold):
        out = fold == number
        law, kriging = fitting._fitted(samples.of(~out))
        left = samples.of(out)
        by_law = np.log(fitting._by_law(left.counts, law) / left.times)
        alone[out], both[out] = np.abs(by_law), np.abs(by_law + kriging.at(left.points))
    return alone, both


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument(
        "--undisturbed", action="store_true", help="only times that were not disturbed or rough"
    )
    chosen = parser.parse_args()
    groups = defaultdict(list)
    with Store(chosen.store) as store:
        for one in store:
            if one.key.kind == PATH and not (chosen.undisturbed and (one.disturbed or one.samples < 5)):
                groups[one.key.path, one.key.layout, kind_of(one.key.spec)].append(one)
    every: list[tuple[np.ndarray, np.ndarray]] = []
    row = "{:22} {:14} {:10} {:>5}  {:>7} {:>7}  {:>7} {:>7}"
    print(row.format("path", "layout", "kind", "times", "law", "p90", "both", "p90"))
    for (path, layout, kind), found in sorted(groups.items()):
        if len(found) >= fitting.LEAST_MEASUREMENTS:
            every.append(errors(found, chosen.folds))
            said = [f"{np.quantile(one, q):.3f}" for one in every[-1] for q in (0.5, 0.9)]
            print(row.format(path, layout, kind, len(found), *said))
    together = [np.concatenate(side) for side in zip(*every, strict=True)]
    said = [f"{np.quantile(one, q):.3f}" for one in together for q in (0.5, 0.9)]
    print(row.format("all", "", "", len(together[0]), *said))


if __name__ == "__main__":
    main()
