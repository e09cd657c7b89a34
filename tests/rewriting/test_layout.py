"""layout: a path or layout is proposed where it was measured to be faster, and nowhere else."""

import pytest
import torch
from torch import nn

from archcost.errors import RewriteError
from archcost.latency.store.fingerprint import fingerprint
from archcost.latency.store.measurement import Key, Measurement
from archcost.latency.store.store import Store
from archcost.nn.path_conv import PathConv
from archcost.rewriting.rules.layout import NOT_MEASURED, Layout
from archcost.rewriting.rules.merge import Merge
from archcost.rewriting.rules.pool_first import PoolFirst
from helpers.graph_rules import applied, chain, conv, error, subjects


def measured(subject, path, layout, milliseconds, error=1e-7, spread=1e-6, samples=25):
    """As `archcost.measure` puts it into the store."""
    key = Key(fingerprint().hash, subject.spec, "float32", path, layout, torch.get_num_threads())
    return Measurement(
        key, "here", milliseconds / 1e3, spread, samples, 0, "cpu", torch.__version__, False, error, 0, 1e9
    )


@pytest.fixture
def layer():
    model = nn.Sequential(conv(8, 8, 3, padding=1)).eval()
    store = Store(":memory:")
    return model, subjects(model, 9, 9, channels=8, store=store)["0"], store


def test_without_measurements_nothing_is_proposed(layer, tmp_path, monkeypatch):
    model, subject, _ = layer
    assert Layout().refusal(subject).reason == NOT_MEASURED
    assert list(Layout().options(subject, 0.5)) == []
    monkeypatch.setenv("ARCHCOST_STORE", str(tmp_path / "none.sqlite"))
    assert Layout().refusal(subjects(model, 9, 9, channels=8)["0"]).reason == NOT_MEASURED
    assert not list(tmp_path.iterdir())  # looking makes no file


def test_what_was_measured_to_be_faster_is_proposed(layer):
    model, subject, store = layer
    times = [
        ("native", "contiguous", 2.0),
        ("native", "channels_last", 1.5),
        ("winograd-2", "contiguous", 1.0),
    ]
    store.put_many(measured(subject, *one) for one in times)
    store.put(measured(subject, "fft-8", "contiguous", 0.5, error=1e-3))  # not exact enough
    store.put(measured(subject, "im2col", "channels_last", 0.7))  # on an input that it would not get
    assert list(Layout().options(subject, 0.5)) == [
        {"path": "winograd-2", "layout": "contiguous"},
        {"path": "native", "layout": "channels_last"},
    ]
    made = [Layout().replacement(subject, **one) for one in Layout().options(subject, 0.5)]
    assert "2 ms before, 1 ms after" in made[0].note
    assert "relative error 1e-07" in made[0].note
    paths = [(one.convs[0].path, one.convs[0].channels_last) for one in made]
    assert paths == [("winograd-2", False), (None, True)]
    x = torch.randn(2, 8, 9, 9)
    by_path, last = (applied(model, Layout(), [one]) for one in made)
    assert isinstance(by_path[0], PathConv)
    assert last[0].weight.is_contiguous(memory_format=torch.channels_last)
    for new in (by_path, last):
        assert torch.equal(new[0].weight, model[0].weight)
        assert error(model, new, x) < 1e-5


@pytest.mark.parametrize(
    "rival",
    [
        {"milliseconds": 3.0},
        {"milliseconds": 1.99},
        {"milliseconds": 1.0, "samples": 1},
        {"milliseconds": 1.6, "spread": 2e-3},
    ],
)
def test_what_is_slower_or_within_the_noise_is_not_proposed(layer, rival):
    _, subject, store = layer
    store.put(measured(subject, "native", "contiguous", 2.0))
    store.put(measured(subject, "winograd-2", "contiguous", **rival))
    words = "no path was measured to be faster than PyTorch's on this machine, beyond the noise"
    assert Layout().refusal(subject).reason == words


def test_paths_and_layouts_that_cannot_be_are_refused(layer):
    _, subject, _ = layer
    with pytest.raises(RewriteError, match="layout='contiguous' or 'channels_last', not 'nhwc'"):
        Layout().replacement(subject, layout="nhwc")
    pointwise = subjects(nn.Sequential(conv(8, 8, 1)).eval(), 9, 9, channels=8)["0"]
    with pytest.raises(RewriteError, match="0: path 'winograd-2' cannot execute it"):
        Layout().replacement(pointwise, path="winograd-2")
    flat = subjects(nn.Sequential(conv(8, 8, 3, 1)).eval(), 9, channels=8)["0"]
    with pytest.raises(RewriteError, match="channels_last needs two or three spatial axes"):
        Layout().replacement(flat, layout="channels_last")


# all three


def test_options_that_mean_nothing_say_what_does():
    found = subjects(chain(conv(3, 8, 1), nn.BatchNorm2d(8), nn.AvgPool2d(2)), 8, 8)
    with pytest.raises(RewriteError, match=r"0: last='nowhere' is not valid: .*; last can be 1"):
        Merge().replacement(found["0"], last="nowhere")
    with pytest.raises(RewriteError, match=r"0: merge takes last='\.\.\.', a layer behind it, first="):
        Merge().replacement(found["0"])
    with pytest.raises(RewriteError, match=r"0: pool_first takes how='pool' here, not \{'how': 'stride'\}"):
        PoolFirst().replacement(found["0"], how="stride")
