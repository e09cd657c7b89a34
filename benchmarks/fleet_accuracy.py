"""How far estimates are off for whole models that the table lacks: every fifth held out, in five turns.

archcost fleet measure 'torchvision:*' --batch 1 --paths native --programs --seconds 3 -o fleet.sqlite
python benchmarks/fleet_accuracy.py fleet.sqlite

With ``--layers`` the layers that held-out models alone have are left out as well, and are predicted. With
``--others`` the models of another store are estimated, none of which the law has seen: from the table as it
is, or with ``--their-layers`` with these measured, but no whole model.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from statistics import median
from typing import Any

from archcost.fleet.errors import FleetError
from archcost.fleet.table import LatencyTable, latency_table
from archcost.latency.store.measurement import spec_from_json

FOLDS = 5
Name = tuple[str, int]
Row = tuple[float, str, float, float]
"""Error, model, seconds, and the share of layers that was predicted."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store")
    parser.add_argument("--device")
    parser.add_argument("--how", choices=("eager", "program"), default="eager")
    parser.add_argument("--layers", action="store_true", help="leave their layers out as well")
    parser.add_argument("--seed", type=int, help="another split: a random fifth in each turn")
    parser.add_argument("--others", metavar="STORE", help="estimate the models of this store instead")
    parser.add_argument("--their-layers", action="store_true", help="with the layers of that store")
    args = parser.parse_args()
    table = latency_table(args.store, args.device)
    if args.others:
        rows = list(estimated(*of_others(table, args), args.how))
    else:
        rows = [row for held, part in turns(table, args) for row in estimated(part, held, args.how)]
    for off, model, took, predicted in sorted(rows):
        print(f"{off:+7.1%}  {took * 1e3:10.1f} ms  {predicted:4.0%} predicted  {model}")
    errors = [abs(off) for off, *_ in rows]
    within = {most: sum(error <= most for error in errors) / len(errors) for most in (0.10, 0.15)}
    print(
        f"{len(rows)} models, {args.how}: {within[0.15]:.0%} within 15 %, {within[0.10]:.0%} within 10 %, "
        f"median {median(errors):.1%}, worst {max(errors):.0%}; layers in the table: "
        f"{1 - sum(row[-1] for row in rows) / len(rows):.0%}"
    )


def estimated(table: LatencyTable, held: dict[Name, tuple[Any, float]], how: Any) -> Iterator[Row]:
    """Estimates of models on paper beside the times that were measured."""
    for (model, batch), (paper, took) in held.items():
        try:
            found = table.of_paper(paper, how=how)
        except FleetError as error:
            print(f"{model}: {error}")
            continue
        yield found.seconds / took - 1, f"{model} x{batch}", took, found.share_predicted


def of_others(table: LatencyTable, args: argparse.Namespace) -> tuple[LatencyTable, dict[Name, Any]]:
    other = latency_table(args.others, args.device)
    if args.their_layers:
        table = replace(
            table,
            measurements=[*other.measurements, *table.measurements],
            products={**other.products, **table.products},
            steps={**other.steps, **table.steps},
        )
    return table, times_of(other, args.how)


def times_of(table: LatencyTable, how: str) -> dict[Name, tuple[Any, float]]:
    """The whole models of a table, on paper and with their times."""
    return {
        (task.model, task.batch): (table.papers[task.model, task.batch], took)
        for task, took in sorted(table.models.items(), key=lambda one: one[0].model)
        if task.how == how
    }


def turns(
    table: LatencyTable, args: argparse.Namespace
) -> Iterator[tuple[dict[Name, tuple[Any, float]], LatencyTable]]:
    """Every fifth model, and the table without it."""
    times = times_of(table, args.how)
    names = sorted({model for model, _ in times})
    if args.seed is not None:
        random.Random(args.seed).shuffle(names)
    for fold in range(FOLDS):
        held = {key: one for key, one in times.items() if key[0] in names[fold::FOLDS]}
        part = replace(table, without={model for model, _ in held})
        if args.layers:
            others = [paper for key, (paper, _) in times.items() if key not in held]
            part = only(part, others)
        yield held, part


def only(table: LatencyTable, papers: list[Any]) -> LatencyTable:
    """The table with the layers of these models alone."""
    specs = {spec_from_json(json.dumps(one["spec"])) for paper in papers for one in paper["convolutions"]}
    products = {tuple(sizes) for paper in papers for *sizes, _ in paper["products"]}
    steps = {layer for paper in papers for layer, _ in paper.get("program", {}).get("layers", ())}
    return replace(
        table,
        measurements=[one for one in table.measurements if one.key.spec in specs],
        products={one: took for one, took in table.products.items() if one.sizes in products},
        steps={one: took for one, took in table.steps.items() if one.layer in steps},
    )


if __name__ == "__main__":
    main()
