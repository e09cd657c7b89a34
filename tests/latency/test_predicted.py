"""measure, where time was short: predictions in columns of their own, never among what was measured."""

import json

import pytest
import torch
from torch import nn

import archcost
from archcost import ConvSpec, SpecError
from archcost.latency.prediction.roofline import Roofline
from archcost.latency.store.fingerprint import fingerprint
from archcost.latency.store.kinds import COLD
from archcost.latency.store.measurement import Key, Measurement
from archcost.latency.store.store import Store

OTHERS = [ConvSpec(8 * n, 8 * n, 3, padding=1, input_size=(s, s)) for n in (1, 2, 3, 4) for s in (8, 16, 32)]
WORDS = ("predicted_path", "predicted_layout", "predicted_ms", "prediction_error")
NATIVE, WINOGRAD = 3e-11, 1e-11


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(12, 20, 3, padding=1)
        self.deep = nn.Conv2d(20, 20, 3, padding=1)

    def forward(self, x):
        return self.deep(self.wide(x))


X = torch.rand(1, 12, 20, 20, generator=torch.Generator().manual_seed(0))


def stored(store, path="native", per_mac=NATIVE, specs=OTHERS, **key):
    """As if these had been measured here: so many seconds for each multiply-add."""
    here = fingerprint()
    key = {"threads": 1, **key}
    store.put_many(
        Measurement(
            Key(here.hash, one, "float32", path, **key),
            *(str(here), per_mac * one.macs, None, 9, 0, "cpu", here.torch),
        )
        for one in specs
    )


@pytest.fixture
def store(monkeypatch):
    line = Roofline(50e9, 8e9, threads=1, dtype="float32", device="as an example")
    monkeypatch.setattr(
        "archcost.latency.prediction.roofline.measure_roofline", lambda *args, **options: line
    )
    with Store(":memory:") as kept:
        yield kept


@pytest.fixture
def no_time(monkeypatch):
    """As if no path could be timed within the seconds."""
    monkeypatch.setattr("archcost.latency.paths.time_paths", lambda *asked: iter(()))


def measured(store, paths=("winograd-2",), **options):
    return archcost.measure(
        Net().eval(),
        X,
        **{"paths": paths, "threads": 1, "seconds": 20.0, "store": store, "in_context": False, **options},
    )


def test_what_time_did_not_reach_is_predicted_from_the_store(store, no_time):
    stored(store)
    stored(store, "winograd-2", WINOGRAD)
    found = measured(store)
    assert found.convolutions == ()
    for layer in found.layers:
        assert layer.best_path is layer.best_ms is layer.native_ms is layer.speedup is None
        prediction = found.predicted(layer)
        assert (prediction.path, prediction.layout) == ("winograd-2", "contiguous")
        assert prediction.seconds == pytest.approx(WINOGRAD * layer.macs, rel=1e-3)
        assert prediction.error < 1e-3


def test_every_format_keeps_predictions_apart_and_says_what_they_are(store, no_time):
    stored(store)
    found = measured(store)
    total = sum(NATIVE * layer.macs * 1e3 for layer in found.layers)
    table = found.to_pandas()
    assert list(table.columns[-4:]) == list(WORDS)
    assert table["predicted_ms"].sum() == pytest.approx(total, rel=1e-3)
    assert table[["best_ms", "native_ms", "speedup"]].isna().all(axis=None)
    rows = json.loads(found.to_json(), parse_constant=pytest.fail)["layers"]
    assert [row["predicted_path"] for row in rows] == ["native", "native"]
    assert [row["predicted_ms"] for row in rows] == pytest.approx(list(table["predicted_ms"]))
    assert {row["best_ms"] for row in rows} == {row["best_path"] for row in rows} == {None}
    assert found.to_csv().splitlines()[0].endswith(",".join(WORDS))
    for text in (found.to_text(), found.to_markdown(), found.to_html()):
        assert "Predicted ms" in text
        assert "Prediction error" in text
        assert "2 layers whose paths were not measured" in text
        assert "predicted times are in no sum" in text
        assert f"{total:.3f}" not in text


def test_beyond_what_was_measured_no_error_is_claimed(store, no_time):
    stored(store)
    large = torch.rand(1, 12, 64, 64)
    found = archcost.measure(Net().eval(), large, paths=["native"], threads=1, seconds=20.0, store=store)
    rows = json.loads(found.to_json())["layers"]
    assert all(row["predicted_ms"] > 0 for row in rows)
    assert {row["prediction_error"] for row in rows} == {None}
    assert "2 of them extrapolated, with an unknown error" in found.to_text()


def test_where_everything_was_measured_there_are_no_predictions(store):
    stored(store)
    found = measured(store, paths=["native"])
    assert all(layer.best_ms is not None for layer in found.layers)
    assert not found.predictions
    document = json.loads(found.to_json())
    assert not any(name in row for row in document["layers"] for name in WORDS)
    for text in (found.to_text(), found.to_markdown(), found.to_html(), found.to_csv()):
        assert "redict" not in text
    # Asked for by name, they are there and empty.
    assert found.to_pandas(columns=["name", "predicted_ms"])["predicted_ms"].isna().all()
    with pytest.raises(SpecError):
        found.to_pandas(by="paths", columns=["predicted_ms"])


@pytest.mark.parametrize(
    "what",
    [
        {"specs": OTHERS[:7]},
        {"threads": 2},
        {"kind": COLD},
        {"specs": [ConvSpec(8 * n, 8 * n, 3, groups=8 * n, input_size=(16, 16)) for n in range(1, 12)]},
    ],
    ids=["too few", "other threads", "cold", "another kind"],
)
def test_nothing_is_predicted_from_too_little_or_from_something_else(store, no_time, what):
    stored(store, **what)
    found = measured(store)
    assert not found.predictions
    assert "redict" not in found.to_text() + found.to_markdown()
    assert "no time was left to measure its paths" in found.to_text()


def test_times_of_two_threads_predict_those_of_two(store, no_time):
    stored(store)
    stored(store, per_mac=NATIVE / 2, threads=2)
    found = measured(store, threads=2)
    layer = found.layers[0]
    assert found.predicted(layer).seconds == pytest.approx(NATIVE / 2 * layer.macs, rel=1e-3)


def test_cold_times_predict_cold_ones(store, no_time):
    stored(store)
    stored(store, per_mac=5 * NATIVE, kind=COLD)
    found = measured(store, cold=True)
    prediction = found.predicted(found.layers[0])
    assert prediction.path == "native"
    assert prediction.seconds == pytest.approx(5 * NATIVE * found.layers[0].macs, rel=1e-3)


def test_a_path_that_is_not_exact_enough_by_its_own_word_is_not_predicted(store, no_time):
    stored(store)
    stored(store, "winograd-2", WINOGRAD)
    found = measured(store, tolerance=1e-12)
    assert {one.path for one in found.predictions.values()} == {"native"}


def test_only_the_paths_and_layouts_that_would_have_been_timed_are_predicted(store, no_time):
    stored(store)
    stored(store, "winograd-2", WINOGRAD)
    stored(store, "native", NATIVE / 2, layout="channels_last")
    found = measured(store, paths=["native"])
    assert {(one.path, one.layout) for one in found.predictions.values()} == {("native", "channels_last")}
