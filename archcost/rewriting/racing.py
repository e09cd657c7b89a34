"""Old and new layers, or models, timed in turns in one run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from math import isnan

import torch
from torch import nn

from archcost.errors import ArchcostError
from archcost.latency.store.fingerprint import fingerprint
from archcost.latency.store.kinds import CHAIN, OLD_LAYERS
from archcost.latency.store.measurement import Key, Measurement
from archcost.latency.store.store import Store
from archcost.latency.timing.clock import Timing, compare_calls, ratio
from archcost.latency.timing.deadline import Deadline, TooLittleTime
from archcost.latency.timing.engine import TimeStats, Work, clock_for, once
from archcost.latency.timing.thresholds import AROUND, FEWEST, LEAST_PAIR_S, PAIR_ROUNDS
from archcost.progress import Progress
from archcost.rewriting.plan.building import built
from archcost.rewriting.proposal import Proposal, Raced
from archcost.rewriting.replacement import named_by
from archcost.surgery.checking import evaluating, record_inputs
from archcost.surgery.exchange import fit
from archcost.surgery.outputs import fresh
from archcost.trace.call import Call, Inputs
from archcost.trace.modules import walk
from archcost.trace.state import Untouched

__all__ = ["race_proposals", "raced", "stored_race"]


def race_proposals(
    model: nn.Module,
    proposals: Iterable[Proposal],
    inputs: Inputs,
    *,
    seconds: float = 60.0,
    store: Store | None = None,
    progress: bool | None = None,
) -> tuple[Proposal, ...]:
    """The proposals with old and new layers timed in turns, on the inputs of a real forward pass.

    Layers that do the same work are timed once. New layers have random weights, which do not change the time.

    Args:
        inputs: inputs of the model, as `Call.of` takes them.
        seconds: wall-clock limit, without the forward pass; proposals that it does not reach, or with fewer
            than five pairs, stay untimed.
        store: where the times are kept; None: nowhere.
    """
    given = tuple(proposals)
    recorded = record_inputs(model, inputs, dict.fromkeys(one.name for one in given))
    tasks: dict[str, list[Proposal]] = {}
    for one in given:
        if one.name in recorded and one.new:
            tasks.setdefault(digest(one), []).append(one)
    done: dict[str, Raced] = {}
    deadline = Deadline(seconds)
    with Progress(len(tasks) or 1, "old and new layers in turns", progress) as bar:
        for number, (key, alike) in enumerate(tasks.items()):
            if deadline.passed:
                break
            one = alike[0]
            share = max(LEAST_PAIR_S, deadline.left / (len(tasks) - number))
            found = _raced_layers(model, one, recorded[one.name], share, deadline, store)
            if found is not None:
                done[key] = found
            bar.step()
    return tuple(replace(one, race=done.get(digest(one), one.race)) for one in given)


def raced(old: nn.Module, new: nn.Module, inputs: Inputs, *, seconds: float = 20.0) -> Raced:
    """Time two models in turns on the same inputs, in eval mode without gradients; both end unchanged.

    Raises:
        TooLittleTime: fewer than five pairs were timed in that time.
    """
    deadline = Deadline(seconds)
    args, kwargs = fresh(inputs)
    with Untouched(walk(old)), Untouched(walk(new)), evaluating(old), evaluating(new):
        calls = {"old": lambda: old(*args, **kwargs), "new": lambda: new(*args, **kwargs)}
        return _now(_timed(calls, seconds, deadline))


def stored_race(store: Store, one: Proposal) -> Raced | None:
    """The stored times of a proposal on this machine, at PyTorch's present number of threads."""
    if not one.old:
        return None
    old, new = (store.get(_key(one, kind)) for kind in (OLD_LAYERS, CHAIN))
    if old is None or new is None:
        return None
    return _pair(old, new, old.median_s / new.median_s, new.device, new.key.threads)


def digest(one: Proposal) -> str:
    """A key that proposals share whose old and new layers do the same work."""
    steps = [[asdict(step) for step in chain] for chain in one.replacement.chains.values()]
    # The name of a kept module does not change the work.
    chains = [[{key: step[key] for key in step if key != "name"} for step in chain] for chain in steps]
    text = json.dumps([[asdict(spec) for spec in one.old], chains, one.types], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _raced_layers(
    model: nn.Module,
    one: Proposal,
    given: Call,
    seconds: float,
    deadline: Deadline,
    store: Store | None,
) -> Raced | None:
    there = {name: model.get_submodule(name) for name in named_by(one.replacement)}
    old = [there[name] for name in one.replacement.chains]
    new = [built(chain, there[name], None, there) for name, chain in one.replacement.chains.items()]
    tree = walk(model)
    for made, layer in zip(new, old, strict=True):
        fit(made, layer, tree)
    args, kwargs = given.cloned()

    def run(layers: list[nn.Module]) -> Callable[[], torch.Tensor]:
        first, *rest = layers

        def call() -> torch.Tensor:
            y: torch.Tensor = first(*args, **kwargs)
            for layer in rest:
                y = layer(y)
            return y

        return call

    try:
        with ExitStack() as stack:
            for layer in (*old, *new):
                stack.enter_context(evaluating(layer))
            timings = _timed({"old": run(old), "new": run(new)}, seconds, deadline)
    except ArchcostError:
        return None  # layers that cannot run alone, one after another, are timed in the whole model
    if store is not None:
        device = fingerprint()
        pairs = ((OLD_LAYERS, timings["old"]), (CHAIN, timings["new"]))
        store.put_many([Measurement.of(_key(one, kind), timing, device) for kind, timing in pairs])
    return _now(timings)


def _timed(calls: Mapping[str, Work], seconds: float, deadline: Deadline) -> dict[str, Timing]:
    """Time the calls for about ``seconds``, longer if five pairs need it, within the deadline."""
    with torch.no_grad():
        least = AROUND * FEWEST * sum(map(once, calls.values()))
        timings = compare_calls(
            calls,
            rounds=PAIR_ROUNDS,
            deadline=deadline.within(max(seconds, least)),
            warmup=0,
            cpu_clock="thread" if torch.get_num_threads() == 1 else "process",
        )
    if len(timings) < len(calls) or ratio(timings["old"], timings["new"]).pairs < FEWEST:
        raise TooLittleTime(
            f"fewer than {FEWEST} pairs of old and new were timed: the machine was too busy, or a call takes "
            f"too long: give more seconds"
        )
    return timings


def _now(timings: Mapping[str, Timing]) -> Raced:
    """The result of timings, with the speedup as the median over rounds."""
    threads = torch.get_num_threads()
    old, new = (timings[name].by(clock_for(threads)) for name in ("old", "new"))
    speedup = ratio(timings["old"], timings["new"], wall=threads > 1).median
    return _pair(old, new, speedup, str(fingerprint()), threads)


def _pair(
    old: TimeStats | Measurement, new: TimeStats | Measurement, speedup: float, device: str, threads: int
) -> Raced:
    spread = None if new.spread_s is None or isnan(new.spread_s) else 1e3 * new.spread_s
    disturbed = old.disturbed or new.disturbed
    return Raced(1e3 * old.median_s, 1e3 * new.median_s, spread, speedup, device, threads, disturbed)


def _key(one: Proposal, kind: str) -> Key:
    threads = torch.get_num_threads()
    return Key(fingerprint().hash, one.old[0], one.dtype, digest(one), threads=threads, kind=kind)
