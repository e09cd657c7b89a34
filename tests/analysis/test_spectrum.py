"""The bands of known filters, against numpy's transform, and of the layers of models."""

import numpy as np
import pytest
import torch
from torch import nn

import archcost
from archcost import InputError, ModelError, SpecError
from archcost.analysis.bands import energies
from archcost.cli import main

BLUR = np.ones((3, 3)) / 9
LAPLACE = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0.0]])
SOBEL = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1.0]])
DELTA = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0.0]])


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_transform(kernel, n):
    """The energy in each band, from numpy's transform of the kernel; borders fall between distances."""
    power = np.abs(np.fft.fftn(kernel, (n,) * kernel.ndim, tuple(range(kernel.ndim)))) ** 2 / n**kernel.ndim
    axes = np.meshgrid(*(np.fft.fftfreq(n),) * kernel.ndim, indexing="ij")
    order = np.argsort(np.sqrt(sum(axis**2 for axis in axes)).ravel(), kind="stable")
    return [part.sum() for part in np.array_split(power.ravel()[order], 3)]


@pytest.mark.parametrize("shape", [(3,), (3, 3), (5, 5), (7, 1), (3, 3, 3)])
def test_the_bands_are_those_of_numpys_transform(shape):
    kernels = drawn(4, *shape).double().numpy()
    found = energies(kernels)
    assert np.allclose(found[:, :3].sum(1), (kernels**2).reshape(4, -1).sum(1))
    n = {1: 256, 2: 32, 3: 12}[len(shape)]
    for kernel, bands in zip(kernels, found, strict=True):
        assert np.allclose(bands[:3], by_transform(kernel, n), rtol=0.12, atol=0.05 * (kernel**2).sum())


def test_a_blur_is_low_a_laplacian_high_and_a_single_tap_flat():
    blur, laplace, sobel, delta = (archcost.spectrum(one)[0] for one in (BLUR, LAPLACE, SOBEL, DELTA))
    assert blur.low > 0.85
    assert blur.high < 0.1
    assert laplace.low < 0.1
    assert laplace.high > 0.6
    assert sobel.band == "low" or sobel.middle > delta.middle
    assert [delta.low, delta.middle, delta.high] == pytest.approx([1 / 3] * 3)
    assert delta.half == pytest.approx(1 / 4, abs=0.02)
    assert blur.half > 0.8
    assert (blur.low_kernels, blur.high_kernels, laplace.high_kernels) == (1, 0, 1)


def test_random_kernels_have_a_third_in_each_band():
    (row,) = archcost.spectrum(nn.Conv2d(64, 64, 5))
    assert [row.low, row.middle, row.high] == pytest.approx([1 / 3] * 3, abs=0.01)


def test_the_power_is_the_mean_over_the_kernels_with_0_in_the_middle():
    power = archcost.spectrum(np.stack([BLUR, DELTA]))[0].power
    assert power.shape == (32, 32)
    assert power[16, 16] == pytest.approx(1)  # both sum to 1
    right = np.fft.fftshift(np.abs(np.fft.fft2(BLUR, (32, 32))) ** 2 + 1) / 2
    assert np.allclose(power, right)


def test_a_model_has_a_row_for_each_kernel_of_several_taps(tmp_path):
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.ConvTranspose2d(8, 4, (1, 3)), nn.Conv2d(4, 4, 5, groups=4)
    )
    found = archcost.spectrum(model)
    assert [(row.name, row.kernel_size, row.kernels) for row in found] == [
        ("0", (3, 3), 24),
        ("2", (1, 3), 32),
        ("3", (5, 5), 4),
    ]
    assert found["2"] is found[1]
    with pytest.raises(SpecError, match="no layer '1'"):
        found["1"]
    assert archcost.spectrum(archcost.analyze(model, input_size=(1, 3, 16, 16)))[0].low == found[0].low
    found.save(tmp_path / "spectrum.json")
    assert str(archcost.load_result(tmp_path / "spectrum.json")) == str(found)
    found.to_html(tmp_path / "page.html")
    assert "Which frequencies do the kernels pass?" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_sequences_and_volumes_too():
    model = nn.Sequential(nn.Conv1d(2, 3, 5), nn.Conv3d(2, 2, 3))
    assert [row.kernel_size for row in archcost.spectrum(model)] == [(5,), (3, 3, 3)]
    assert archcost.spectrum([1, 1, 1])[0].low > archcost.spectrum([1, -1, 1])[0].low


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (nn.Linear(2, 2), ModelError, "no convolution has a kernel of more than one tap"),
        (nn.Conv2d(2, 2, 3, device="meta"), ModelError, "on `meta`"),
        (np.full((3, 3), np.nan), InputError, "give finite numbers"),
        (np.ones((2,) * 6), InputError, r"kernels of shape \(2, 2, 2, 2, 2, 2\)"),
    ],
)
def test_what_has_no_spectrum_is_refused(given, error, said):
    with pytest.raises(error, match=said):
        archcost.spectrum(given)


def test_the_command_prints_and_draws(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "bands.png"
    assert main(["spectrum", "torchvision:squeezenet1_1", "--plot", str(picture), "--top", "3"]) == 0
    out = capsys.readouterr().out
    assert "Mostly low" in out
    assert "the weights are random" in out
    assert picture.stat().st_size > 10_000


def test_the_picture_shows_every_layer_and_the_responses_asked_for():
    pytest.importorskip("matplotlib")
    model = nn.Sequential(*(nn.Conv2d(4, 4, 3) for _ in range(9)))
    found = archcost.spectrum(model)
    bars, *responses = archcost.plot.spectrum(found).axes
    assert len(bars.patches) == 27
    assert [axes.get_title() for axes in responses] == ["0", "2", "3", "5", "6", "8"]
    assert len(archcost.plot.spectrum(found, layers=["7"]).axes) == 2
    with pytest.raises(SpecError, match="7 layers; 1 to 6"):
        archcost.plot.spectrum(found, layers=list("0123456"))


def test_the_page_of_a_model_with_its_own_weights_has_it(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    analysis = archcost.analyze(model, input_size=(1, 3, 16, 16))
    analysis.to_html(tmp_path / "a.html")
    assert "Which frequencies do the kernels pass?" in (tmp_path / "a.html").read_text(encoding="utf-8")
    archcost.analyze("torchvision:squeezenet1_1").to_html(tmp_path / "b.html")  # random weights say nothing
    assert "Which frequencies do the kernels pass?" not in (tmp_path / "b.html").read_text(encoding="utf-8")
