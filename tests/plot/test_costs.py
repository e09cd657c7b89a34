"""Pictures of cost, memory and roofline show the numbers that they are drawn from."""

from dataclasses import replace

import pytest
from golden import made_up
from torch import nn

import archcost
from archcost import SpecError, plot
from archcost.latency.prediction.roofline import Cache, Roofline
from archcost.report.units import bytes_text

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def resnet():
    return archcost.analyze("torchvision:resnet18")


def texts(figure):
    """Every text of a figure."""
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def test_memory_marks_the_peak_and_lists_what_is_alive(resnet, tmp_path):
    figure = plot.memory(resnet, path=tmp_path / "memory.png")
    assert (tmp_path / "memory.png").stat().st_size > 10_000
    said = texts(figure)
    assert f"peak {bytes_text(resnet.total.peak_memory_bytes)}" in said
    assert "conv1 (convolution)" in said
    (line,) = [one for one in figure.axes[0].lines if len(one.get_xdata()) == len(resnet.operations)]
    assert list(line.get_ydata()) == [cost.live_bytes for cost in resnet.operations]


def test_cost_draws_a_bar_for_each_layer_and_names_the_largest(resnet):
    figure = plot.cost(resnet)
    macs, params, activations = (axes.patches for axes in figure.axes)
    assert len(macs) == len(params) == len(activations) == 21
    assert sum(bar.get_height() for bar in macs) == resnet.total.macs
    assert any(text.startswith("conv1\n118 M, 6.5 %") for text in texts(figure))
    assert {"convolution", "matmul"} <= set(texts(figure))


def test_a_comparison_shows_both_totals_and_where_the_macs_lie(resnet):
    other = archcost.analyze("torchvision:mobilenet_v2")
    figure = plot.comparison(resnet, other)
    assert {"0.30x   11,689,512 → 3,504,872", "1.62x   6.42 MB → 10.4 MB"} <= set(texts(figure))
    totals, depth = figure.axes
    assert [bar.get_width() for bar in totals.patches][:2] == pytest.approx(
        [other.total.params / resnet.total.params, other.total.macs / resnet.total.macs]
    )
    ends = [line.get_ydata()[-1] for line in depth.lines]
    assert ends == [resnet.total.macs] * 2 + [other.total.macs] * 2
    with pytest.raises(SpecError, match="no layer with weights"):
        plot.comparison(resnet, archcost.analyze(nn.Identity(), input_size=(1, 4)))


def test_roofline_draws_every_timed_convolution_under_the_roof():
    roof = Roofline(60e9, 12e9, 1, "float32", "here", caches=(Cache("L2", 2**20, 100e9),))
    measured = replace(made_up.measured(), roofline=roof)
    figure = plot.roofline(measured)
    dots = [dot for group in figure.axes[0].collections for dot in group.get_offsets()]
    timed = [layer for layer in measured.layers if layer.best_ms]
    assert len(dots) == len(timed) > 0
    assert sorted(y for _, y in dots) == pytest.approx(
        sorted(layer.macs / layer.best_ms / 1e6 for layer in timed)
    )
    assert {"60 GMAC/s", "12 GB/s", "L2\n100 GB/s"} <= set(texts(figure))


def test_what_cannot_be_drawn_is_refused_before_a_file_is_written(tmp_path):
    nothing = archcost.analyze(nn.Identity(), input_size=(1, 4))
    with pytest.raises(SpecError, match="makes no tensors"):
        plot.memory(nothing, path=tmp_path / "a.png")
    with pytest.raises(SpecError, match="no layer with weights"):
        plot.cost(nothing, path=tmp_path / "a.png")
    with pytest.raises(SpecError, match="roofline was not measured"):
        plot.roofline(replace(made_up.measured(), roofline=None), path=tmp_path / "a.png")
    with pytest.raises(SpecError, match="no picture format"):
        plot.cost("torchvision:resnet18", path="a.doc")
    assert not list(tmp_path.iterdir())
