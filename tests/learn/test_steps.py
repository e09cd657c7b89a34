"""Every algorithm ends with what torch computes, and shows the numbers on the way."""

import numpy as np
import pytest
import torch
from torch.nn.functional import conv1d, conv2d

import archcost
from archcost import InputError, SpecError, learn

ALL = [learn.im2col, learn.fft, learn.winograd, learn.strassen]
ONES = torch.ones(7, 7)
ONES[0, 0] = 0


def drawn(*shape, seed=0):
    return torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("algorithm", ALL)
@pytest.mark.parametrize(
    ("x", "w"),
    [
        ((5, 5), (3, 3)),
        ((3, 6, 5), (2, 3, 3, 3)),
        ((3, 6, 5), (3, 2, 3)),
        ((2, 2, 5, 6), (4, 2, 2, 3)),
        ((2, 1, 4, 4), (1, 1, 1, 1)),
    ],
)
def test_the_output_is_that_of_torch(algorithm, x, w):
    x, w = drawn(*x), drawn(*w, seed=1)
    filters = w.reshape((1,) * (4 - w.dim()) + w.shape)
    image = x.reshape((1,) * (4 - x.dim()) + x.shape)
    for padding in (0, 1):
        right = conv2d(image, filters, padding=padding)
        found = algorithm(x, w, padding=padding).output
        assert found.dim() == x.dim()
        torch.testing.assert_close(found, right.reshape(found.shape))


@pytest.mark.parametrize("algorithm", [learn.im2col, learn.fft, learn.strassen])
def test_stride_and_dilation_too(algorithm):
    x, w = drawn(1, 2, 9, 8), drawn(3, 2, 3, 2, seed=1)
    for stride, dilation in ((2, 1), (1, 2), (3, 2)):
        right = conv2d(x, w, stride=stride, padding=2, dilation=dilation)
        found = algorithm(x, w, stride=stride, padding=2, dilation=dilation).output
        torch.testing.assert_close(found, right)


@pytest.mark.parametrize("algorithm", ALL)
def test_a_sequence_is_an_image_of_one_row(algorithm):
    x, w = drawn(9), drawn(3, seed=1)
    torch.testing.assert_close(
        algorithm(x, w, padding=1).output, conv1d(x[None, None], w[None, None], padding=1)[0, 0]
    )


def test_im2col_shows_the_matrices_and_how_often_each_pixel_occurs():
    steps = learn.im2col(np.arange(1, 10).reshape(3, 3), [[1, 0], [0, 1]])
    columns = steps[1].arrays["columns"]
    assert columns.tolist() == [[1, 2, 4, 5], [2, 3, 5, 6], [4, 5, 7, 8], [5, 6, 8, 9]]
    repeats = steps[1].arrays["times each pixel occurs"]
    assert repeats.tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
    assert repeats.sum() == columns.size
    assert "; 9 pixels become 16 entries, 1.8 times the memory (64 bytes in float32 for 36)" in steps[1].text
    assert steps[2].arrays["rows"].tolist() == [[1, 0, 0, 1]]


def test_repeats_count_what_the_matrix_holds_under_stride_and_dilation():
    x = np.arange(1.0, 57).reshape(7, 8)
    steps = learn.im2col(x, np.ones((3, 2)), stride=2, dilation=2)
    columns, repeats = steps[1].arrays.values()
    assert all((columns == value).sum() == repeats[place] for place, value in np.ndenumerate(x))


def test_images_of_a_batch_stand_side_by_side_and_channels_below_one_another():
    x = torch.stack([torch.zeros(3, 3, 3), torch.ones(3, 3, 3)])
    columns = learn.im2col(x, torch.ones(1, 3, 2, 2))[1].arrays["columns"]
    assert columns.shape == (12, 8)
    assert columns[:, :4].max() == 0
    assert columns[:, 4:].min() == 1


def test_the_sinusoids_of_a_sequence_add_up_to_it():
    for n in (7, 8):
        x = drawn(n)
        (stage,) = [one for one in learn.fft(x, [1, 2, 1]) if "sinusoids" in one.title]
        assert len(stage.arrays["sinusoids"]) == n // 2 + 1
        assert np.allclose(stage.arrays["sinusoids"].sum(0), x)


def test_fft_says_what_stride_throws_away():
    steps = learn.fft(ONES, torch.ones(3, 3), stride=2)
    assert "stride 2 keeps 3x3 and throws 64% of the work away" in steps[-1].text
    assert steps.output.round().tolist() == [[8, 9, 9], [9, 9, 9], [9, 9, 9]]


def test_winograd_needs_a_product_a_pixel():
    steps = learn.winograd(drawn(6, 6), drawn(3, 3))
    assert steps.products.startswith(
        "64 multiplications of pixels by weights, 144 by the definition (2.25 times"
    )
    assert steps[1].arrays["G"].tolist() == [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]
    assert "16 products for the 4 outputs of a tile, which need 36" in steps[5].text
    assert learn.winograd(drawn(6, 6), drawn(3, 3), m=4).products.startswith("36 multiplications")


def test_strassen_multiplies_seven_times():
    steps = learn.strassen(drawn(2, 2, 1), drawn(2, 2, 1, 1, seed=1))
    assert steps.products == "7 multiplications, fewer; 8 by the definition"
    assert [name.split(" = ")[0] for name in steps[4].arrays] == [f"M{i}" for i in range(1, 8)]
    assert "M1 = (A11 + A22) (B11 + B22)" in steps[4].arrays
    assert "C22 = M1 + M3 + M6 - M2" in steps[5].arrays
    odd = learn.strassen(drawn(5, 5), drawn(3, 3))
    assert "zeros make all sides even" in odd[1].text
    assert "no fewer" in odd.products


def test_it_prints_every_number():
    text = str(learn.im2col(ONES, torch.ones(3, 3)))
    assert "2. Windows become columns: a column for each position, its 9 pixels" in text
    assert "8  9  9  9  9" in text
    assert "i" in str(learn.fft(drawn(5), [1, 2, 1])).split("Transformed:")[1].splitlines()[3]
    assert "<table" in learn.winograd(drawn(4, 4), drawn(3, 3)).to_html()


def test_it_is_data_and_can_be_kept(tmp_path):
    steps = learn.fft(drawn(4), [1.0, 2.0])
    frame = steps.to_pandas()
    assert frame["imaginary"].notna().any()
    assert set(frame["stage"]) == {one.title for one in steps}
    assert steps.to_dict()["stages"][0]["arrays"]["w"] == [[1.0, 2.0]]
    steps.save(tmp_path / "steps.json")
    assert str(archcost.load_result(tmp_path / "steps.json")) == str(steps)


@pytest.mark.parametrize("algorithm", ALL)
def test_it_draws_every_number(algorithm, tmp_path):
    pytest.importorskip("matplotlib")
    steps = algorithm(drawn(1, 2, 4, 4), drawn(2, 2, 3, 3))
    figure = steps.draw(tmp_path / "steps.png")
    assert (tmp_path / "steps.png").stat().st_size > 10_000
    cells = sum(panel.values.size for stage in steps for panel in stage.panels)
    assert len(figure.axes[0].patches) == cells
    one = steps.draw(stages=[-1])
    assert len(one.axes[0].patches) == 8
    assert f"{len(steps)}. {steps[-1].title}" in [text.get_text() for text in one.axes[0].texts]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: learn.im2col(drawn(3, 3), drawn(3)), r"give w as \(rows, columns\) for an x of 2 axes"),
        (lambda: learn.fft(drawn(2, 3, 3), drawn(1, 3, 2, 2)), "x has 2 channels and w 3"),
        (lambda: learn.im2col(drawn(3, 3), drawn(4, 4)), "w reaches over more than the 3x3 of x"),
        (lambda: learn.im2col(drawn(99, 99), drawn(4, 4)), "too many to read, 4096 are the most"),
        (lambda: learn.im2col(drawn(3, 3), drawn(2, 2), stride=0), "stride is 0; give a whole number"),
        (lambda: learn.im2col(drawn(3, 3), [["a"]]), "w is no array of real numbers"),
        (lambda: learn.im2col([[float("nan")]], [[1]]), "x is empty, or not all of it is finite"),
        (lambda: learn.winograd(drawn(9, 9), drawn(3, 3), m=7), "m is 7"),
    ],
)
def test_what_cannot_be_shown_is_refused(call, said):
    with pytest.raises(InputError, match=said):
        call()


def test_a_stage_that_is_not_there_is_refused():
    with pytest.raises(SpecError, match="there is no stage 9; im2col has 5, from 0"):
        learn.im2col(ONES, torch.ones(3, 3)).draw(stages=[9])
