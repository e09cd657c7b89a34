"""How far estimates are off for whole models that the table lacks: every fifth held out, in five turns.

archcost fleet measure 'torchvision:*' --batch 1 --paths native --seconds 8 -o fleet.sqlite
python benchmarks/fleet_accuracy.py fleet.sqlite

With ``--layers`` the layers that held-out models alone have are left out as well, and are predicted.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import replace
from statistics import median

from archcost.fleet.kept import FleetStore
from archcost.fleet.table import latency_table
from archcost.latency.store.measurement import spec_from_json

FOLDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store")
    parser.add_argument("--device")
    parser.add_argument("--how", choices=("eager", "program"), default="eager")
    parser.add_argument("--layers", action="store_true", help="leave their layers out as well")
    parser.add_argument("--seed", type=int, help="another split: a random fifth in each turn")
    args = parser.parse_args()
    whole = latency_table(args.store, args.device)
    with FleetStore(args.store) as store:
        papers = store.papers()
    times = {(task.model, task.batch): took for task, took in whole.models.items() if task.how == args.how}
    names = sorted({model for model, _ in times})
    if args.seed is not None:
        random.Random(args.seed).shuffle(names)
    specs = {
        name: {spec_from_json(json.dumps(one["spec"])) for one in papers[name, batch]["convolutions"]}
        for name, batch in times
    }
    rows = []
    for fold in range(FOLDS):
        held = names[fold::FOLDS]
        table = latency_table(args.store, args.device, without=held)
        if args.layers:
            others = set().union(*(specs[name] for name in names if name not in held))
            known = [one for one in table.measurements if one.key.spec in others]
            table = replace(table, measurements=known)
        for (name, batch), took in times.items():
            if name in held:
                found = table.of_paper(papers[name, batch], how=args.how)
                rows.append((found.seconds / took - 1, name, batch, took, found.share_predicted))
    for off, name, batch, took, predicted in sorted(rows):
        print(f"{off:+7.1%}  {took * 1e3:10.1f} ms  {predicted:4.0%} predicted  {name} x{batch}")
    errors = [abs(off) for off, *_ in rows]
    within = {most: sum(error <= most for error in errors) / len(errors) for most in (0.10, 0.15)}
    print(
        f"{len(rows)} models, {args.how}: {within[0.15]:.0%} within 15 %, {within[0.10]:.0%} within 10 %, "
        f"median {median(errors):.1%}, worst {max(errors):.0%}; convolutions in the table: "
        f"{1 - sum(row[-1] for row in rows) / len(rows):.0%}"
    )


if __name__ == "__main__":
    main()
