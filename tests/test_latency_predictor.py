"""The predictor: it finds the law that made the times, says how wrong it is, and refuses on too little."""

import numpy as np
import pytest

from archcost import ConvSpec
from archcost.errors import ArchcostError
from archcost.latency.measurement import Key, Measurement
from archcost.latency.nonnegative import nonnegative_least_squares
from archcost.latency.predictor import Prediction, PredictionError, Predictor, Work, kind_of
from archcost.latency.roofline import bytes_moved
from archcost.latency.store import Store
from archcost.paths import get

MARK = "f" * 16


def spec(channels, side=14, **more):
    return ConvSpec(channels, channels, 3, padding=1, input_size=(side, side), **more)


SPECS = [spec(8 * n, side) for n in (1, 2, 3, 5, 8) for side in (7, 14, 28)]


def law(one, a=2e-11, b=1e-10, c=3e-6):
    """Weights cost four times as much a byte as what flows."""
    return a * one.macs + b * (bytes_moved(one) + 3 * 4 * one.params) + c


def measured(one, seconds, path="native", **key):
    clock, mark = key.pop("clock", "cpu"), key.pop("mark", MARK)
    key = Key(mark, one, "float32", path, **key)
    return Measurement(key, "a machine", seconds, None, 1, 0, clock, "2.9")


def fitted(measurements, **options):
    return Predictor.fit(measurements, fingerprint=MARK, **options)


def test_the_law_that_made_the_times_is_found_and_used():
    predictor = fitted([measured(one, law(one)) for one in SPECS])
    (fit,) = predictor.fits
    assert (fit.path, fit.kind, fit.measurements) == ("native", "dense", len(SPECS))
    assert (fit.per_multiplication, fit.per_byte, fit.per_call) == pytest.approx(
        (2e-11, 1e-10, 3e-6), rel=1e-6
    )
    assert fit.error < 1e-6
    unseen = spec(48, 21)
    assert predictor.predict(unseen, "native").seconds == pytest.approx(law(unseen), rel=1e-6)


def test_the_error_is_that_of_measurements_not_seen():
    rng = np.random.default_rng(0)
    noisy = [measured(one, law(one) * rng.uniform(0.8, 1.25)) for one in SPECS]
    error = fitted(noisy).fits[0].error
    assert 0.03 < error < 0.25
    # As many numbers as measurements fit anything; left out, they do not.
    chance = [measured(one, float(rng.uniform(1e-6, 1e-3))) for one in SPECS[:8]]
    assert fitted(chance).fits[0].error > 0.3


def test_a_prediction_is_labelled_as_one():
    predictor = fitted([measured(one, law(one)) for one in SPECS])
    prediction = predictor.predict(spec(16, 10), "native")
    assert isinstance(prediction, Prediction)
    assert not prediction.extrapolated
    assert "predicted for native (error 0%)" in str(prediction)
    beyond = predictor.predict(spec(256, 56), "native")
    assert beyond.extrapolated
    assert "beyond what was measured" in str(beyond)


def test_no_coefficient_is_negative_whatever_the_times_say():
    shrinking = [measured(one, 1e-3 - law(one) / 10) for one in SPECS]
    fit = fitted(shrinking).fits[0]
    assert min(fit.per_multiplication, fit.per_byte, fit.per_weight_byte, fit.per_call) >= 0
    assert fit.seconds(Work(0, 0, 0)) > 0


def test_workspace_is_moved_as_well_where_it_is_known():
    path = get("im2col")
    specs = [one for one in SPECS if path.supports(one) is None]
    times = [1e-10 * (4 * one.params + path.workspace_bytes(one)) for one in specs]
    predictor = fitted([measured(one, t, "im2col") for one, t in zip(specs, times, strict=True)])
    assert predictor.fits[0].per_weight_byte == pytest.approx(1e-10, rel=1e-6)
    assert predictor.fits[0].error < 1e-6


def test_too_little_is_refused_with_the_reason():
    predictor = fitted([measured(one, law(one)) for one in SPECS[:7]])
    with pytest.raises(
        PredictionError, match=r"7 measurements of dense convolutions, 8 needed; measure more"
    ):
        predictor.predict(SPECS[0], "native")
    with pytest.raises(ArchcostError, match="0 measurements of depthwise convolutions"):
        predictor.predict(spec(8, groups=8), "native")
    with pytest.raises(PredictionError, match="path 'winograd-4' cannot execute this convolution"):
        predictor.predict(ConvSpec(8, 8, 1, input_size=(7, 7)), "winograd-4")
    with pytest.raises(PredictionError, match="nothing was measured"):
        fitted([]).best(SPECS[0])


def test_the_best_of_those_known_is_chosen():
    both = [measured(one, law(one)) for one in SPECS]
    both += [measured(one, law(one) / 2, "direct") for one in SPECS]
    predictor = fitted(both)
    assert predictor.best(spec(16)).path == "direct"
    assert predictor.best(spec(16), paths=["native", "winograd-4"]).path == "native"
    with pytest.raises(PredictionError, match="winograd-4"):
        predictor.best(spec(16), paths=["winograd-4"])


def test_only_this_machine_in_this_state_counts():
    others = [
        *(measured(one, 1.0, mark="0" * 16) for one in SPECS),
        *(measured(one, 1.0, threads=2) for one in SPECS),
        *(measured(one, 1.0, layout="channels_last") for one in SPECS),
        *(measured(one, 1.0, "gone-since") for one in SPECS),
    ]
    with Store(":memory:") as store:
        store.put_many([*others, *(measured(one, law(one)) for one in SPECS)])
        assert [fit.measurements for fit in fitted(store).fits] == [len(SPECS)]
        assert fitted(store).fits[0].error < 1e-6
        assert fitted(store, threads=2).predict(SPECS[3], "native").seconds == pytest.approx(1.0)


def test_two_clocks_are_not_mixed():
    mixed = [measured(one, law(one), clock="wall" if n % 2 else "cpu") for n, one in enumerate(SPECS)]
    with pytest.raises(PredictionError, match="some were measured in CPU time and some in wall time"):
        fitted(mixed).predict(SPECS[0], "native")


def test_kinds_run_other_code_and_are_fitted_apart():
    specs = [spec(8), spec(8, groups=8), spec(8, groups=2), spec(8, transposed=True)]
    assert [kind_of(one) for one in specs] == ["dense", "depthwise", "grouped", "transposed dense"]


@pytest.mark.parametrize("seed", range(60))
def test_least_squares_without_negatives_meets_the_conditions_of_the_optimum(seed):
    rng = np.random.default_rng(seed)
    rows, columns = int(rng.integers(1, 12)), int(rng.integers(1, 5))
    a = rng.normal(size=(rows, columns)) * 10.0 ** rng.integers(-9, 9, size=columns)
    if seed % 3 == 0 and columns > 1:
        a[:, 0] = a[:, 1]
    b = rng.normal(size=rows)
    x = nonnegative_least_squares(a, b)
    assert (x >= 0).all()
    # No coefficient could grow to any good, and those above 0 could not shrink (Karush, Kuhn and Tucker).
    pull = (a / np.linalg.norm(a, axis=0)).T @ (b - a @ x)
    assert (pull <= 1e-9).all()
    assert np.abs(pull[x > 0]).max(initial=0) < 1e-9
