"""Percentiles are told only from enough passes, and none is left out."""

import pytest
import torch
from scipy import stats
from torch import nn

import archcost
from archcost.latency.requests import Requests, needed_for, requests_of, time_requests
from archcost.trace.call import Call


def test_the_fewest_passes_are_those_whose_largest_lies_above_the_percentile():
    for share in (0.5, 0.95, 0.99):
        # As many that the chance of all lying below the percentile is at most 5 %.
        n = needed_for(share)
        assert stats.binom.pmf(n, n, share) <= 0.05 < stats.binom.pmf(n - 1, n - 1, share)
    assert (needed_for(0.95), needed_for(0.99)) == (59, 299)


def test_percentiles_and_throughput_are_those_of_all_passes():
    times = tuple(1e-3 * n for n in range(1, 301))
    found = Requests(times, batch=4, threads=1)
    assert found.median_ms == pytest.approx(150.5)
    assert found.p95_ms == pytest.approx(285)
    assert found.p99_ms == pytest.approx(297)
    assert found.throughput == pytest.approx(4 * 300 / sum(times))


def test_too_few_passes_say_so():
    found = Requests((1e-3,) * 100, batch=1, threads=1)
    assert found.p95_ms == pytest.approx(1)
    assert found.p99_ms is None
    assert "p99 not known: it takes 299 passes" in str(found)
    assert "1000 inputs a second at batch 1 and 1 thread (100 passes, none left out)" in str(found).replace(
        ",", ""
    ).replace("1 thread (100 passes none", "1 thread (100 passes, none")


def test_a_function_is_run_until_there_are_enough_or_the_time_is_up():
    assert len(requests_of(lambda: None, 1, 10.0).seconds) == 299
    assert requests_of(lambda: torch.rand(200, 200) @ torch.rand(200, 200), 1, 1e-9) is None


def test_measure_tells_the_tail_and_leaves_the_model_alone():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert time_requests(model, Call.of(torch.rand(2, 3, 8, 8)), 2, seconds=1.0).batch == 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    found = archcost.measure(
        model.eval(), torch.rand(1, 3, 8, 8), batch=2, threads=1, seconds=3, paths=["im2col"], store=False,
        progress=False,
    )  # fmt: skip
    assert (found.requests.batch, found.requests.threads) == (2, 1)
    assert found.requests.median_ms <= (found.requests.p95_ms or 1e9) <= (found.requests.p99_ms or 1e9)
    assert "As requests, one after the other: median" in str(found)
    assert found.to_dict()["requests"]["passes"] == len(found.requests.seconds)
