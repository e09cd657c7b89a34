"""The predictor: it finds the law that made the times, says how wrong it is, and refuses on too little."""

import numpy as np
import pytest

from archcost import ConvSpec
from archcost.errors import ArchcostError
from archcost.latency.prediction.fitting import nonnegative_least_squares
from archcost.latency.prediction.kriging import Kriging
from archcost.latency.prediction.predictor import (
    Prediction,
    PredictionError,
    Predictor,
    Work,
    kind_of,
    work_of,
)
from archcost.latency.prediction.roofline import bytes_moved
from archcost.latency.store.measurement import Key, Measurement
from archcost.latency.store.store import Store
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


@pytest.mark.parametrize("name", ["fp32", "float", "torch.float32"])
def test_a_dtype_goes_by_all_its_names(name):
    times = [measured(one, law(one)) for one in SPECS]
    assert fitted(times, dtype=name).fits == fitted(times).fits != ()
    assert fitted(times, dtype="half").fits == ()


def test_the_error_is_that_of_measurements_not_seen():
    rng = np.random.default_rng(0)
    noisy = [measured(one, law(one) * rng.uniform(0.8, 1.25)) for one in SPECS]
    error = fitted(noisy).fits[0].error
    assert 0.03 < error < 0.25
    # As many numbers as measurements fit anything; left out, they do not.
    chance = [measured(one, float(rng.uniform(1e-6, 1e-3))) for one in SPECS[:8]]
    assert fitted(chance).fits[0].error > 0.3


def odd(one):
    """What the law cannot know: a kernel that is slow at some number of channels, and on small maps."""
    bump = 0.8 * np.exp(-((np.log2(one.in_channels) - 5) ** 2))
    return law(one) * (1 + bump) * (1 + 3.5 / one.input_size[0])


MANY = [spec(8 * n, side) for n in range(1, 13) for side in (7, 10, 14, 20, 28)]


def test_what_the_law_leaves_unexplained_is_carried_to_those_alike():
    seen, unseen = MANY[::2], MANY[1::2]
    predictor = fitted([measured(one, odd(one)) for one in seen])
    (fit,) = predictor.fits
    by_law = [abs(fit.seconds(work_of(one, "native")) / odd(one) - 1) for one in unseen]
    by_both = [abs(predictor.predict(one, "native").seconds / odd(one) - 1) for one in unseen]
    assert np.median(by_law) > 0.1
    # And no less than it says of itself.
    assert np.median(by_both) < fit.error < 0.03


def test_far_from_all_that_was_measured_the_law_stands():
    predictor = fitted([measured(one, odd(one)) for one in MANY])
    far = spec(2048, 512)
    prediction, by_law = predictor.predict(far, "native"), predictor.fits[0].seconds(work_of(far, "native"))
    assert prediction.extrapolated
    assert prediction.seconds == pytest.approx(by_law, rel=0.25)


def test_times_that_were_disturbed_move_few_others():
    rng, disturbed = np.random.default_rng(0), [MANY[n] for n in (7, 22, 38, 51)]
    times = {one: odd(one) * np.exp(rng.normal(0, 0.03)) * (8 if one in disturbed else 1) for one in MANY}
    predictor = fitted([measured(one, took) for one, took in times.items()])
    errors = [abs(predictor.predict(one, "native").seconds / odd(one) - 1) for one in MANY]
    # Theirs among them.
    assert np.median(errors) < 0.1
    assert max(errors) < 0.4


def test_the_error_is_found_without_the_measurements_that_it_is_found_on():
    rng = np.random.default_rng(1)
    noisy = [measured(one, law(one) * np.exp(rng.normal(0, 0.2))) for one in MANY]
    predictor = fitted(noisy)
    fresh = [law(one) * np.exp(rng.normal(0, 0.2)) for one in MANY]
    found = [
        abs(predictor.predict(one, "native").seconds / took - 1)
        for one, took in zip(MANY, fresh, strict=True)
    ]
    assert predictor.fits[0].error == pytest.approx(np.median(found), rel=0.5)


def test_kriging_passes_near_what_it_was_given_and_is_the_mean_far_away():
    x = np.linspace(0, 8, 33)[:, None]
    values = np.sin(x[:, 0])
    kriging = Kriging(np.hstack([x, np.zeros_like(x)]), values)
    assert kriging.scales[0] > 0
    assert kriging.scales[1] == 0
    between = kriging.at([[2.125, 0.0], [5.4, 0.0]])
    assert between == pytest.approx(np.sin([2.125, 5.4]), abs=0.02)
    assert kriging.at([[1e6, 0.0]])[0] == pytest.approx(np.median(values))
    nothing = Kriging(np.hstack([x, x]), np.full(33, 0.5))
    assert nothing.at([[3.0, 1.0]])[0] == 0.5


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
