"""All of timm below 150 M parameters: MACs, peak memory, and how long the fields take.

MACs are held against FlopCounterMode on `meta`, peaks against a pass without gradients on the CPU of the 200
cheapest. An hour on one core; it goes on where it was stopped:

    python tests/analysis/test_timm_all.py RESULTS.jsonl [--slice 3/40]

does every 40th model from the fourth on, and prints the table. `pytest -m exhaustive` with this file does the
same with ARCHCOST_TIMM_RESULTS and ARCHCOST_TIMM_SLICE in the environment.
"""

import argparse
import gc
import json
import os
import time
import warnings
import weakref
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import archcost
from archcost.fields.fields import Fields

MOST_PARAMS = 150_000_000
REAL_PASSES = 200
FIELDS_SECONDS = 1.0
PEAK_TOLERANCE = 0.1
# Until then CPython has specialised the code it runs, and frees temporaries as it will ever after.
WARMED_UP = 10
# Products without a formula in FlopCounterMode.
NO_FORMULA = {"aten.mv", "aten.dot", "aten.addmv"}


class Peak(TorchDispatchMode):
    """The most bytes alive at once, of the tensors that operators return: no weights, inputs or scratch."""

    def __init__(self, known):
        super().__init__()
        self.known = {tensor.untyped_storage()._cdata for tensor in known}
        self.live = self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.known:
                storage = tensor.untyped_storage()
                self.known.add(storage._cdata)
                self.live += storage.nbytes()
                weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        self.most = max(self.most, self.live)
        return result

    def _gone(self, key, nbytes):
        self.known.discard(key)
        self.live -= nbytes


def real_peak(model, x):
    """Of the steady state: the pass is repeated until the interpreter has seen all of it."""
    with torch.no_grad():
        for _ in range(WARMED_UP):
            with Peak([*model.parameters(), *model.buffers(), x]) as peak:
                model(x)
            gc.collect()
    return peak.most


def counted(model, x):
    """MACs by FlopCounterMode on `meta`."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    return counter.get_total_flops() / 2


def on_paper(name):
    """One row: what archcost says of a model, and FlopCounterMode."""
    model = archcost.load(f"timm:{name}", without_values=True).model
    row = {"name": name, "params": sum(p.numel() for p in model.parameters())}
    if row["params"] > MOST_PARAMS:
        return {**row, "left_out": "too large"}
    archcost.analyze(model, progress=False)
    start = time.process_time()
    analysis = archcost.analyze(model, progress=False)
    row["analyze_seconds"] = time.process_time() - start
    (given,), _ = analysis.trace.inputs
    row |= {"macs": analysis.total.macs, "peak": analysis.total.peak_memory_bytes, "size": given.shape}
    row["without_formula"] = sum(op.macs or 0 for op in analysis.operations if op.op.base in NO_FORMULA)
    row["unknown"] = sorted({u.op for u in analysis.uncounted})
    row["device"] = analysis.trace.device
    start = time.process_time()
    fields = Fields(analysis.trace)
    row["findings"] = len(fields.findings)
    row["field"] = None if fields.network is None else fields.network.size_text()
    row["maps"] = sum(fields.get(module.name) is not None for module in analysis.modules)
    for module in analysis.modules:
        fields.padding_share(module.name)
    row["fields_seconds"] = time.process_time() - start
    try:
        row["counter"] = counted(model.to("meta"), torch.empty(given.shape, device="meta"))
    except Exception as error:
        row["counter_error"] = f"{type(error).__name__}: {error}"[:200]
    return row


def survey(path, part, parts):
    """The rows of a slice, read from the file or made now and added to it."""
    import timm

    rows = (
        {row["name"]: row for row in map(json.loads, path.read_text().splitlines())} if path.exists() else {}
    )

    def add(row):
        rows[row["name"]] = row
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        gc.collect()

    names = timm.list_models()[part::parts]
    for name in names:
        if name not in rows:
            try:
                add(on_paper(name))
            except Exception as error:
                add({"name": name, "error": f"{type(error).__name__}: {error}"[:300]})
    mine = [rows[name] for name in names]
    cheapest = sorted((row for row in mine if "macs" in row), key=lambda row: row["macs"])
    for row in cheapest[: -(-REAL_PASSES // parts)]:
        if "real_peak" not in row:
            model = timm.create_model(row["name"], pretrained=False).eval()
            add({**row, "real_peak": real_peak(model, torch.rand(row["size"]))})
    return [rows[name] for name in names]


def wrong_macs(row):
    return "counter" in row and row["macs"] - row["without_formula"] != row["counter"]


def wrong_peak(row):
    return "real_peak" in row and abs(row["peak"] / row["real_peak"] - 1) > PEAK_TOLERANCE


def slow_fields(row):
    return row.get("fields_seconds", 0) > FIELDS_SECONDS


def table(rows):
    """The figures in all, then every model with which something is not right."""
    done = [row for row in rows if "macs" in row]
    held = [row for row in done if "real_peak" in row]
    seconds = sorted(row["fields_seconds"] for row in done) or [0.0]
    lines = [
        f"{len(rows)} models, {sum('left_out' in row for row in rows)} above 150 M parameters, "
        f"{sum('error' in row for row in rows)} not analysed",
        f"MACs: {sum('counter' in row for row in done)} counted by FlopCounterMode, "
        f"{sum(map(wrong_macs, done))} differ; {sum(bool(row['unknown']) for row in done)} with an unknown",
        f"peak: {len(held)} held against a real pass, {sum(row['peak'] == row['real_peak'] for row in held)} "
        f"exact, {sum(map(wrong_peak, held))} off by more than {PEAK_TOLERANCE:.0%}",
        f"fields: median {seconds[len(seconds) // 2]:.2f} s, most {seconds[-1]:.2f} s of CPU, "
        f"{sum(map(slow_fields, done))} above {FIELDS_SECONDS:.0f} s",
        f"run for real: {', '.join(row['name'] for row in done if row['device'] != 'meta') or 'none'}",
    ]
    for row in rows:
        if "error" in row:
            lines.append(f"{row['name']:44} {row['error']}")
        elif "macs" in row and (wrong_macs(row) or wrong_peak(row) or slow_fields(row) or row["unknown"]):
            ratio = f"{row['peak'] / row['real_peak']:.3f}" if "real_peak" in row else "-"
            theirs = f"{row.get('counter', 0):,.0f}" if wrong_macs(row) else "same"
            lines.append(
                f"{row['name']:44} {row['macs']:>16,} MACs (counter: {theirs}), peak {ratio} of real, "
                f"fields {row['fields_seconds']:.2f} s {' '.join(row['unknown'])}"
            )
    return "\n".join(lines)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = os.environ.get("ARCHCOST_TIMM_RESULTS") or tmp_path_factory.mktemp("timm") / "results.jsonl"
    part, _, parts = os.environ.get("ARCHCOST_TIMM_SLICE", "0/1").partition("/")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = survey(Path(path), int(part), int(parts))
    print(f"\n{table(found)}")
    return found


@pytest.mark.exhaustive
def test_every_model_is_analysed_on_meta_and_nothing_is_unknown(rows):
    assert [row for row in rows if "error" in row or row.get("unknown")] == []
    assert [row["name"] for row in rows if row.get("device", "meta") != "meta"] == []


@pytest.mark.exhaustive
def test_macs_are_those_of_flop_counter_mode(rows):
    assert [row["name"] for row in rows if wrong_macs(row)] == []


@pytest.mark.exhaustive
def test_the_peak_is_that_of_a_real_pass(rows):
    assert any("real_peak" in row for row in rows)
    assert [(row["name"], row["peak"], row["real_peak"]) for row in rows if wrong_peak(row)] == []


@pytest.mark.exhaustive
def test_fields_take_less_than_a_second(rows):
    assert [(row["name"], row["fields_seconds"]) for row in rows if slow_fields(row)] == []


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path, help="a file of JSON lines; what is in it is not done again")
    parser.add_argument("--slice", default="0/1", metavar="I/N", help="every N-th model, from the I-th on")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    part, parts = map(int, args.slice.split("/"))
    print(table(survey(args.results, part, parts)))


if __name__ == "__main__":
    main()
