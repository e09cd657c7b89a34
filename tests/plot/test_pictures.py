"""The pictures show what is true: sizes of what is drawn, not only that something is."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import archcost
from archcost.analysis.growth import field_steps
from archcost.errors import ArchcostError, InputError, SpecError
from archcost.plot.drawing.canvas import spread
from archcost.plot.drawing.stack import covered
from archcost.plot.drawing.window import _outside


@pytest.fixture(scope="module")
def resnet():
    import torchvision

    model = torchvision.models.resnet18(weights=None).eval()
    return archcost.analyze(model, input_size=(1, 3, 224, 224)), model


@pytest.fixture(scope="module")
def gated():
    """A network whose second half is global by a gate."""

    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.pool = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 5), nn.MaxPool2d(2)

        def forward(self, x):
            x = self.one(x)
            return self.pool(self.two(x * x.mean((2, 3), keepdim=True)))

    return archcost.analyze(Gated(), input_size=(1, 1, 32, 32))


def patches(figure, name):
    """Rectangles whose id is ``name``, as (left, right, top, bottom) in the coordinates drawn in."""
    found = []
    for axes in figure.axes:
        for patch in axes.patches:
            if patch.get_gid() == name:
                x, y = patch.get_xy()
                found.append((x, x + patch.get_width(), y, y + patch.get_height()))
    return found


def texts(figure):
    from matplotlib.text import Text

    found = (text.get_text() for text in figure.findobj(Text))
    return [text.replace("\u2009", " ") for text in found if text]


def area(box):
    return (box[1] - box[0]) * (box[3] - box[2])


def no_text_over_another(figure):
    """No two texts of the figure overlap, as they are laid out, and none leaves the page."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    hidden = set()  # tick labels beyond the limits are there, and are not drawn
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = axis.get_major_ticks()
            hidden |= {
                label for t in ticks if not low <= t.get_loc() <= high for label in (t.label1, t.label2)
            }
    boxes = [
        (text.get_text(), Text.get_window_extent(text, renderer))  # without the arrow of an annotation
        for text in figure.findobj(Text)
        if text.get_text().strip() and text.get_visible() and text not in hidden
    ]
    assert boxes
    for i, (said, box) in enumerate(boxes):
        assert min(box.x0, box.y0) >= -1, said
        assert box.x1 <= figure.bbox.x1 + 1, said
        assert box.y1 <= figure.bbox.y1 + 1, said
        for other, another in boxes[:i]:
            wide = min(box.x1, another.x1) - max(box.x0, another.x0)
            high = min(box.y1, another.y1) - max(box.y0, another.y0)
            assert wide <= 1 or high <= 1, (said, other)


def test_texts_over_one_another_would_be_found():
    figure = archcost.plot.stack([3])
    figure.axes[0].text(1, 1, "one")
    figure.axes[0].text(1.1, 1.05, "two")
    with pytest.raises(AssertionError, match="two"):
        no_text_over_another(figure)


# The window


@pytest.mark.parametrize(("layer", "position"), [("layer2", (5, 20)), ("layer4", None), ("layer1", (0, 55))])
def test_the_window_has_the_size_of_the_field_and_is_hatched_outside(resnet, layer, position):
    analysis, _ = resnet
    field = archcost.receptive_field(analysis, layer=layer, position=position)
    figure = archcost.plot.window(analysis, layer=layer, position=position)
    (top, bottom), (left, right) = field.unclipped
    assert patches(figure, "window") == [(left - 0.5, right + 0.5, top - 0.5, bottom + 0.5)]
    inside = np.prod([hi - lo + 1 for lo, hi in field.window])
    outside = patches(figure, "outside")
    assert sum(map(area, outside)) == np.prod(field.size) - inside
    assert all(patch.get_hatch() for patch in figure.axes[0].patches if patch.get_gid() == "outside")
    said = " ".join(texts(figure))
    assert f"{layer}, position {', '.join(map(str, field.position))}" in said
    assert f"sees {field.size[0]} × {field.size[1]} pixels" in said
    no_text_over_another(figure)


def test_a_window_within_the_input_is_not_hatched(resnet):
    figure = archcost.plot.window(resnet[0], layer="conv1")
    assert patches(figure, "outside") == []
    assert "all in the input" in " ".join(texts(figure))
    assert "outside the input" not in texts(figure)


def test_the_parts_outside_cover_what_they_should_and_never_each_other():
    image = (0, 20, 0, 30)
    for window in [
        (-5, 25, -5, 35),
        (-5, 5, 10, 20),
        (15, 25, 25, 35),
        (3, 7, 3, 7),
        (25, 30, 2, 4),
        (-9, 9, 31, 33),
    ]:
        drawn = np.zeros((60, 60), dtype=int)
        for left, right, top, bottom in _outside(window, image):
            drawn[top + 10 : bottom + 10, left + 10 : right + 10] += 1
        expected = np.zeros((60, 60), dtype=int)
        expected[window[2] + 10 : window[3] + 10, window[0] + 10 : window[1] + 10] = 1
        expected[image[2] + 10 : image[3] + 10, image[0] + 10 : image[1] + 10] = 0
        assert np.array_equal(drawn, expected), window


def test_the_effective_field_is_drawn_as_a_map_and_its_square(resnet):
    analysis, _ = resnet
    effective = archcost.effective_field(analysis, layer="layer1", samples=1)
    figure = archcost.plot.window(analysis, effective=effective, image=np.zeros((224, 224, 3)))
    ((left, right, top, bottom),) = patches(figure, "effective")
    assert (right - left, bottom - top) == (effective.side, effective.side)
    assert (top + 0.5, bottom - 0.5) == effective.window[0]
    picture, heat = (image.get_array() for image in figure.axes[0].images)
    assert picture.shape == (224, 224)
    assert np.array_equal(heat[..., 3] > 0, effective.map > 0)
    assert figure.axes[0].images[1].get_extent() == [-0.5, 223.5, 223.5, -0.5]
    assert f"side {effective.side}: 95% of the gradient" in texts(figure)
    no_text_over_another(figure)
    with pytest.raises(
        SpecError, match=r"the effective field is that of layer1 at \(28, 28\), not of layer2"
    ):
        archcost.plot.window(analysis, layer="layer2", effective=effective)


def test_a_global_field_says_so_and_shows_what_is_left_without(gated):
    figure = archcost.plot.window(gated, layer="two")
    ((left, right, top, bottom),) = patches(figure, "window")
    assert (right - left, bottom - top) == gated.fields["two"].local.size == (7, 7)
    said = " ".join(texts(figure))
    assert "sees the whole input, 32 × 32 pixels; its own window, as drawn: 7 × 7" in said
    assert "global because of the model's own forward (mean)" in said


def test_sequences_are_strips_and_volumes_have_two_views():
    line = archcost.analyze(nn.Conv1d(1, 1, 9, padding=4), input_size=(1, 1, 40))
    figure = archcost.plot.window(line, position=0)
    ((left, right, _, _),) = patches(figure, "window")
    assert (left, right) == (-4.5, 4.5)
    assert [(box[0], box[1]) for box in patches(figure, "outside")] == [(-4.5, -0.5)]
    volume = archcost.analyze(nn.Conv3d(1, 1, (3, 5, 7), padding=1), input_size=(1, 1, 8, 20, 24))
    figure = archcost.plot.window(volume)
    sizes = [(box[3] - box[2], box[1] - box[0]) for box in patches(figure, "window")]
    assert sizes == [(5, 7), (3, 7)]
    no_text_over_another(figure)


def test_images_of_many_forms_and_of_the_wrong_size(resnet):
    analysis, _ = resnet
    gradient = torch.linspace(-2, 2, 3 * 224 * 224).reshape(1, 3, 224, 224)
    forms = [gradient, gradient[0].numpy(), gradient[0].permute(1, 2, 0), gradient[0, 0], gradient[:, :1]]
    forms.append((255 * torch.rand(224, 224, 3)).byte())
    for image in forms:
        drawn = archcost.plot.window(analysis, layer="conv1", image=image).axes[0].images[0].get_array()
        assert drawn.shape[:2] == (224, 224)
        assert drawn.min() >= 0
        assert drawn.max() <= 1
    with pytest.raises(InputError, match=r"the image has shape \(3, 32, 32\), and the input 224x224 pixels"):
        archcost.plot.window(analysis, image=torch.rand(3, 32, 32))


# The growth


def test_growth_draws_every_layer_at_its_size(resnet):
    analysis, _ = resnet
    walk = field_steps(analysis)
    assert [step.size for step in walk[:4]] == [7, 11, 19, 27]
    assert {step.module for step in walk} == {
        row.name for row in analysis.layers if row.type_name in ("Conv2d", "MaxPool2d")
    }
    for step in walk:
        assert step.size == max(analysis.fields[step.module].size), step.module
    figure = archcost.plot.growth(analysis)
    axes = figure.axes[0]
    (dots,) = (marks for marks in axes.collections if marks.get_gid() == "local")
    assert dots.get_offsets().tolist() == [[i + 1, step.size] for i, step in enumerate(walk)]
    line = axes.lines[0]
    assert list(line.get_ydata()) == [1, *np.maximum.accumulate([step.size for step in walk])]
    assert any(list(line.get_ydata()) == [224, 224] for line in axes.lines)
    assert {"ResNet: 435 px", "input: 224 px"} <= set(texts(figure))
    no_text_over_another(figure)


def test_growth_marks_what_is_global(gated, resnet):
    axes = archcost.plot.growth(gated).axes[0]
    marks = {dots.get_gid(): dots.get_offsets().tolist() for dots in axes.collections}
    assert marks == {"local": [[1, 3]], "global": [[2, 7], [3, 8]]}
    assert any("sees the whole input" in text for text in texts(axes.figure))
    assert not any("sees the whole input" in text for text in texts(archcost.plot.growth(resnet[0])))


def test_growth_of_several_models_names_each_without_overlap():
    names = ("resnet18", "resnet50", "vgg16", "alexnet", "mobilenet_v2", "inception_v3")
    figure = archcost.plot.growth(*(f"torchvision:{name}" for name in names))
    said = texts(figure)
    assert all(any(text.startswith(f"{name}: ") for text in said) for name in names)
    assert {"input: 224 px", "input: 299 px", "Receptive field over depth: 6 models"} <= set(said)
    no_text_over_another(figure)


def test_growth_without_maps_or_models():
    with pytest.raises(SpecError, match="no model given"):
        archcost.plot.growth()
    with pytest.raises(SpecError, match="Linear has no layer whose output is a spatial map"):
        archcost.plot.growth(nn.Linear(4, 4), input_size=(1, 4))


@pytest.mark.parametrize("wanted", [[1, 2, 3], [5, 5, 5], [9, 0, 9.5, 0.2], [3], [0, 10, 10.1, 20, 10.2]])
def test_labels_are_spread_apart_in_order_and_around_where_they_belong(wanted):
    placed = spread([float(w) for w in wanted], 1.0)
    order = np.argsort(wanted, kind="stable")
    assert (np.diff(np.array(placed)[order]) >= 1 - 1e-9).all()
    assert np.mean(placed) == pytest.approx(np.mean(wanted))


# The stack


def by_gradient(layers):
    """The cells that one output depends on, asked of torch itself."""
    convs = [nn.Conv2d(1, 1, k, stride=s, dilation=d, bias=False).double() for k, s, d in layers]
    sizes = [1, 1]
    for k, s, d in reversed([[np.broadcast_to(v, 2) for v in layer] for layer in layers]):
        sizes = [(n - 1) * s[a] + d[a] * (k[a] - 1) + 1 for a, n in enumerate(sizes)]
    x = torch.zeros(1, 1, *map(int, sizes), dtype=torch.double, requires_grad=True)
    y = x
    for conv in convs:
        nn.init.ones_(conv.weight)
        y = conv(y)
    assert y.shape[2:] == (1, 1)
    y.sum().backward()
    return x.grad[0, 0].numpy() > 0


STACKS = [
    [(3, 1, 1), (3, 1, 1)],
    [(3, 1, 1)] * 3,
    [(3, 2, 1), (3, 1, 2), (3, 1, 1)],
    [((1, 7), 1, 1), ((7, 1), 1, 1)],
    [(3, 1, 2), (3, 1, 2)],
    [(2, 3, 1), (2, 1, 1)],
    [((2, 3), (1, 2), (3, 1)), (3, 2, 1)],
]


@pytest.mark.parametrize("layers", STACKS)
def test_the_stack_draws_the_cells_that_the_output_depends_on(layers):
    expected = by_gradient(layers)
    rows, columns = covered(layers)[0]
    found = np.zeros_like(expected)
    found[np.ix_(rows, columns)] = True
    assert np.array_equal(found, expected)

    figure = archcost.plot.stack(layers)
    read, skipped = patches(figure, "read 0"), patches(figure, "skipped 0")
    assert (len(read), len(skipped)) == (expected.sum(), (~expected).sum())
    left, top = min(box[0] for box in read), max(box[3] for box in read)
    side = read[0][1] - read[0][0]
    drawn = np.zeros_like(expected)
    for box in read:
        drawn[round((top - box[3]) / side), round((box[0] - left) / side)] = True
    assert np.array_equal(drawn, expected)
    for layer, (kernel, _, dilation) in enumerate(layers):
        ((west, east, south, north),) = patches(figure, f"window {layer}")
        extent = np.broadcast_to(dilation, 2) * (np.broadcast_to(kernel, 2) - 1) + 1
        assert np.allclose([(north - south) / side, (east - west) / side], extent)
    no_text_over_another(figure)


def test_the_textbook_two_cover_5_and_three_cover_7():
    for layers, side, weights in (([3, 3], 5, 18), ([3, 3, 3], 7, 27)):
        figure = archcost.plot.stack(layers)
        said = texts(figure)
        assert f"{len(layers)} layers of 3 × 3 see {side} × {side} cells of the input" in said
        assert (
            f"{weights} weights for each pair of channels; one layer of {side} × {side} has {side**2}" in said
        )
        numbers = [int(text) for text in said if re.fullmatch(r"\d+", text)]
        assert max(numbers) == side**2
        assert len(patches(figure, "side read 0")) == side


def test_the_side_view_has_a_line_from_each_cell_to_each_that_it_reads():
    figure = archcost.plot.stack([archcost.ConvSpec(1, 1, 3, stride=2, input_size=(9,)), ((2,), (1,), (2,))])
    planes = [row.tolist() for (row,) in covered([((3,), (2,)), ((2,), (1,), (2,))])]
    assert planes == [[0, 1, 2, 4, 5, 6], [0, 2], [0]]
    assert len(figure.axes[0].lines) == 2 * 3 + 1 * 2
    assert patches(figure, "read 0") == []  # one axis: no planes
    assert (len(patches(figure, "side read 0")), len(patches(figure, "side skipped 0"))) == (6, 1)
    for line in figure.axes[0].lines:
        floor = min(line.get_ydata())
        feet = {round(float(x), 6) for x, y in zip(*line.get_data(), strict=True) if y == floor}
        plane = 0 if any(np.isclose(box[3], floor) for box in patches(figure, "side read 0")) else 1
        middles = {round((box[0] + box[1]) / 2, 6) for box in patches(figure, f"side read {plane}")}
        assert feet <= middles
    said = texts(figure)
    assert "6 of the 7 cells are read; the empty ones are skipped" in said


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "give a list of layers"),
        (3, "give a list of layers"),
        ([3, "3"], "'3' is no layer; give a kernel size"),
        ([(3, 0)], r"\(3, 0\) is no layer: sizes are whole numbers, at least 1"),
        ([(3, 3, 3, 3)], "is no layer"),
        ([((3,),), ((3, 3),)], "all layers need the same axes"),
        ([(3, 3, 1)] * 6, r"and a picture shows up to 48 a side; take fewer layers"),
        ([archcost.ConvSpec(1, 1, 3, transposed=True)], "transposed convolutions are not drawn"),
    ],
)
def test_what_is_no_stack(layers, message):
    with pytest.raises(SpecError, match=message):
        archcost.plot.stack(layers)


# Files, and matplotlib itself


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_suffix_says_the_format_and_the_file_is_the_same_each_time(tmp_path, suffix):
    first = tmp_path / f"stack.{suffix}"
    archcost.plot.stack([3, 3], path=first)
    begins = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    assert first.read_bytes().startswith(begins[suffix])
    written = first.read_bytes()
    archcost.plot.stack([3, 3], path=str(first))
    assert first.read_bytes() == written


def test_a_file_that_cannot_be_written(tmp_path, resnet):
    for draw in (
        lambda path: archcost.plot.stack([3], path=path),
        lambda path: archcost.plot.growth(resnet[0], path=path),
        lambda path: archcost.plot.window(resnet[0], path=path),
    ):
        with pytest.raises(SpecError, match=r"no picture format 'docx'; end the name in .png, .svg or .pdf"):
            draw(tmp_path / "a.docx")
    with pytest.raises(ArchcostError, match="cannot be written: No such file or directory"):
        archcost.plot.stack([3], path=tmp_path / "nowhere" / "a.png")


DRAW_ALL = """
import sys, archcost
before = set(sys.modules)
import matplotlib
settings = matplotlib.rcParams.copy()
from torch import nn
analysis = archcost.analyze(nn.Sequential(nn.Conv2d(3, 8, 5), nn.Conv2d(8, 8, 3)), input_size=(1, 3, 32, 32))
archcost.plot.growth(analysis, path=sys.argv[1] + "/a.svg")
archcost.plot.window(analysis, path=sys.argv[1] + "/b.png")
archcost.plot.stack([3, 3], path=sys.argv[1] + "/c.pdf")
assert dict.__eq__(matplotlib.rcParams, settings)
print("matplotlib.pyplot" in sys.modules)
"""


def test_no_pyplot_and_no_setting_is_touched(tmp_path, warm):
    assert warm.run(DRAW_ALL, str(tmp_path)).stdout == "False\n"
    # The proof that it can fail.
    probe = "import matplotlib.pyplot, sys; print('matplotlib.pyplot' in sys.modules)"
    assert warm.run(probe).stdout == "True\n"


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(
        ArchcostError, match=re.escape("pictures need matplotlib: pip install 'archcost[plots]'")
    ):
        archcost.plot.stack([3, 3])


def test_importing_the_pictures_does_not_load_matplotlib():
    code = (
        "import sys, archcost; archcost.plot.stack, archcost.plot.window; print('matplotlib' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
