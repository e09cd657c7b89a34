"""The pictures of the execution paths show what the paths compute."""

import json
import re
from dataclasses import replace
from fractions import Fraction
from math import prod

import numpy as np
import pytest
import torch
from plot.test_pictures import no_text_over_another, patches, texts

import archcost
from archcost import ConvSpec
from archcost.errors import ArchcostError, InputError, SpecError
from archcost.paths import get
from archcost.paths.algorithms.im2col import im2col
from archcost.paths.algorithms.toom_cook import toom_cook
from archcost.paths.geometry import padded
from archcost.plot.drawing.im2col import numbered
from archcost.plot.drawing.strassen import combinations, crossover, operands
from archcost.plot.drawing.tiling import KEPT, OUTSIDE, STRIDE, WRAPS, tiling
from archcost.plot.drawing.winograd import combination


def grid(figure, gid):
    """The numbers written into the boxes of that id, by their places; an empty box is 0."""
    boxes = patches(figure, gid)
    words = [t for axes in figure.axes for t in axes.texts]
    left, top = min(box[0] for box in boxes), max(box[3] for box in boxes)
    side = boxes[0][1] - boxes[0][0]
    shape = (
        round((top - min(box[2] for box in boxes)) / side),
        round((max(b[1] for b in boxes) - left) / side),
    )
    assert len(boxes) == prod(shape)
    found = np.zeros(shape, dtype=object)
    for word in words:
        x, y = word.get_position()
        c, r = (x - left) / side - 0.5, (top - y) / side - 0.5
        inside = -0.25 < c < shape[1] - 0.75 and -0.25 < r < shape[0] - 0.75
        if inside and abs(c - round(c)) < 1e-6 and abs(r - round(r)) < 1e-6:
            found[round(r), round(c)] = word.get_text()
    return found


# im2col

SMALL = [
    ConvSpec(1, 3, 3, input_size=(6, 6)),
    ConvSpec(2, 3, (2, 3), stride=2, padding=1, input_size=(5, 6)),
    ConvSpec(1, 1, 3, dilation=2, padding=(1, 0), input_size=(6, 7), batch=4),
    ConvSpec(1, 1, 3, input_size=(12,)),
    ConvSpec(4, 4, 3, groups=2, padding=1, padding_mode="circular", input_size=(7,)),
    ConvSpec(3, 8, 1, input_size=(3, 3)),
    ConvSpec(1, 1, 3, padding=2, input_size=(1,)),
]


@pytest.mark.parametrize("spec", SMALL, ids=str)
def test_the_matrix_drawn_is_the_one_that_the_path_multiplies(spec):
    image = torch.arange(1.0, spec.in_channels * prod(spec.input_size) + 1)
    image = image.reshape(1, spec.in_channels, *spec.input_size)
    expected = im2col(padded(image, spec), spec)[0].int().numpy()
    figure = archcost.plot.im2col(spec)
    assert np.array_equal(grid(figure, "matrix").astype(int), expected)
    for channel, plane in enumerate(numbered(spec)[0]):
        assert np.array_equal(grid(figure, f"pixel {channel}").astype(int), plane)
    said = " ".join(texts(figure))
    assert f"{image.numel()} numbers become {expected.size}, " in said
    no_text_over_another(figure)


def test_repeated_pixels_have_one_colour_and_the_marked_one_stands_as_often_as_said():
    figure = archcost.plot.im2col(SMALL[0])
    assert len(patches(figure, "repeated")) == 9
    assert len(patches(figure, "repeated pixel")) == 1
    assert "pixel 16 stands in the matrix 9 times" in texts(figure)
    boxes = [patch for patch in figure.axes[0].patches if patch.get_gid() in ("matrix", "pixel 0")]
    numbers = [*numbered(SMALL[0])[0].ravel(), *numbered(SMALL[0])[1].ravel()]
    colours = {}
    for box, number in zip(boxes, numbers, strict=True):
        colours.setdefault(number, set()).add(box.get_facecolor())
    assert all(len(found) == 1 for found in colours.values())
    assert len(set.union(*colours.values())) == 36
    ((left, right, top, bottom),) = patches(figure, "window 0")
    cell = 0.36
    assert np.allclose([right - left, bottom - top], 3 * cell)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ConvSpec(1, 1, 3), "the matrix is 9x49284, and a picture shows up to 64 a side"),
        (ConvSpec(1, 1, 3, input_size=(4, 4, 4)), "one or two axes can be drawn, not one of 3"),
        (ConvSpec(1, 1, 3, transposed=True, input_size=(4,)), "transposed convolutions are not drawn"),
        (
            ConvSpec(1, 1, 3, padding=4, padding_mode="reflect", input_size=(4,)),
            "padding 4 by 'reflect' needs",
        ),
        (ConvSpec(1, 1, 3, stride=40, input_size=(200, 200)), "this can be drawn: dataclasses.replace"),
        (ConvSpec(3, 3, 11), "the matrix is 363x45796, .*; take a smaller kernel"),
    ],
)
def test_what_im2col_does_not_draw(spec, message):
    with pytest.raises(SpecError, match=message):
        archcost.plot.im2col(spec)


@pytest.mark.parametrize(
    "spec",
    [
        ConvSpec(3, 64, 7, stride=2, padding=3),
        ConvSpec(64, 64, 3, padding=1, groups=64),
        ConvSpec(8, 8, 5, input_size=(4000,)),
        ConvSpec(1, 1, 3, stride=40, dilation=7, padding=7, input_size=(200, 200)),
    ],
)
def test_the_change_that_the_message_advises_is_drawn(spec):
    with pytest.raises(SpecError) as raised:
        archcost.plot.im2col(spec)
    advised = str(raised.value).partition("this can be drawn: dataclasses.")[2]
    assert archcost.plot.im2col(eval(advised, {"replace": replace, "spec": spec})).axes


def test_what_a_stride_is_drawn_as():
    from archcost.paths.algorithms.space_to_depth import spread

    spec = ConvSpec(3, 64, 7, stride=2, padding=3)
    with pytest.raises(SpecError, match=r"give archcost\.paths\.algorithms\.space_to_depth\.spread\(spec\)$"):
        archcost.plot.tiles(spec, "fft-16")
    assert archcost.plot.tiles(spread(spec), "fft-16").axes


# Tiles

TILED = [
    (ConvSpec(3, 64, 5, stride=2, padding=2, input_size=(32, 32)), "fft-16"),
    (ConvSpec(8, 8, 3, padding=1, input_size=(30, 34)), "fft-16"),
    (ConvSpec(8, 8, 3, padding=1, input_size=(14, 14)), "winograd-4"),
    (ConvSpec(8, 8, 3, padding=1, input_size=(12, 12)), "winograd-2"),
    (ConvSpec(16, 16, (1, 9), padding=(0, 4), input_size=(12, 40)), "fft-16"),
    (ConvSpec(16, 16, (3, 1), padding=(1, 0), input_size=(9, 10)), "winograd-4"),
    (ConvSpec(8, 8, 5, padding=2, input_size=(40,)), "fft-16"),
    (ConvSpec(8, 8, 5, padding=2, input_size=(40,)), "fft"),
    (ConvSpec(8, 8, 3, padding=3, stride=2, dilation=3, input_size=(25,)), "winograd-4"),
    (ConvSpec(8, 8, 3, padding=2, dilation=2, input_size=(30,)), "winograd-6"),
    (ConvSpec(8, 8, 5, input_size=(56, 56)), "fft"),
]


@pytest.mark.parametrize(("spec", "name"), TILED, ids=str)
def test_the_tiles_drawn_multiply_what_the_path_counts(spec, name):
    """Tiles x points of a tile x pairs of channels, where one plain convolution is all of it."""
    cut = tiling(spec, name)
    lengths = [t for t in cut.size if t > 1]
    points = prod(lengths)
    if cut.wraps:
        points = prod(lengths[:-1]) * (lengths[-1] // 2 + 1)
    pairs = spec.in_channels * spec.out_channels
    # Real products at each frequency: three, but at its two ends one.
    least, most = (2, 3) if cut.wraps else (1, 1)
    count = get(name).multiplications(spec)
    if cut.parts == 1:
        assert least <= count / (prod(cut.tiles) * points * pairs) <= most
        assert cut.kept == prod(spec.output_size)
    else:
        assert count > least * prod(cut.tiles) * points * pairs


@pytest.mark.parametrize(("spec", "name"), TILED, ids=str)
def test_the_shares_drawn_are_those_of_the_formula(spec, name):
    cut, figure = tiling(spec, name), archcost.plot.tiles(spec, name)
    drawn = {image.get_gid(): np.asarray(image.get_array()) for image in figure.axes[0].images}
    outputs = drawn["outputs"] if "outputs" in drawn else drawn["output"]
    assert (outputs == KEPT).sum() == cut.kept
    assert outputs.size == prod(n * m for n, m in zip(cut.tiles, cut.step, strict=True))
    assert (outputs == OUTSIDE).sum() == outputs.size - prod(cut.output)
    assert (outputs == STRIDE).sum() == prod(cut.output) - cut.kept
    tile = drawn["tile"] if "tile" in drawn else drawn["tile 1"]
    if cut.wraps:
        assert tile.size == prod(cut.size)
        assert (tile == WRAPS).sum() == prod(cut.size) - prod(cut.step)
    if len(cut.taps) == 1:
        tiles = [drawn[f"tile {i + 1}"] for i in range(cut.tiles[0])]
        assert sum((tile == KEPT).sum() for tile in tiles) == cut.kept
    said = f"{cut.kept} of the {cut.computed} numbers computed are outputs, {cut.kept / cut.computed:.0%}"
    assert said in texts(figure)
    assert all(m + r - 1 == size for m, r, size in zip(cut.step, cut.taps, cut.size, strict=True))
    assert cut.readers().sum() == prod(cut.tiles) * prod(cut.size)
    no_text_over_another(figure)


def test_what_wraps_around_is_what_a_circular_correlation_spoils():
    cut = tiling(ConvSpec(1, 1, 5, padding=2, input_size=(40,)), "fft-16")
    pixels, taps = torch.randn(16, dtype=torch.double), torch.randn(5, dtype=torch.double)
    circular = torch.fft.irfft(torch.fft.rfft(pixels) * torch.fft.rfft(taps, 16).conj(), 16)
    plain = torch.stack([(torch.cat([pixels, torch.zeros(5)])[i : i + 5] * taps).sum() for i in range(16)])
    assert np.array_equal(np.isclose(circular, plain), cut.tile() == KEPT)


@pytest.mark.parametrize(
    ("spec", "name", "message"),
    [
        (ConvSpec(1, 1, 3, input_size=(9, 9)), "direct", "path 'direct' has no tiles; take winograd-4"),
        (ConvSpec(1, 1, 3, transposed=True, input_size=(9,)), "fft", "transposed convolutions are not drawn"),
        (
            ConvSpec(1, 1, 1, input_size=(9, 9)),
            "winograd-2",
            "cannot execute this convolution: a kernel of one",
        ),
        (ConvSpec(1, 1, 3, input_size=(9, 9, 9)), "fft", "maps and sequences are drawn, not volumes"),
        (ConvSpec(8, 8, 3, stride=2, input_size=(25,)), "winograd-4", "this stride by space to depth"),
        (ConvSpec(1, 1, 3), "fft-16", "pixels a side, and a picture shows up to 160"),
        (
            ConvSpec(1, 1, 3, input_size=(120,)),
            "winograd-4",
            "30 tiles, and a picture shows up to 12 of a sequence",
        ),
        (ConvSpec(1, 1, 3, input_size=(9, 9)), "nothing", "nothing"),
    ],
)
def test_what_has_no_picture_of_tiles(spec, name, message):
    with pytest.raises(SpecError, match=message):
        archcost.plot.tiles(spec, name)


# Winograd


@pytest.mark.parametrize(("m", "r"), [(2, 3), (4, 3), (6, 3), (3, 2), (1, 3), (2, 1), (6, 5), (6, 7), (1, 1)])
def test_the_fractions_drawn_are_those_of_the_path(m, r):
    figure = archcost.plot.winograd(m, r)
    words = {t.get_gid(): t.get_text() for t in figure.axes[0].texts if t.get_gid()}
    matrices = toom_cook(m, r)
    expected = {
        f"{name} {i} {j}": value
        for name in ("input", "kernel", "output")
        for i, row in enumerate(getattr(matrices, name))
        for j, value in enumerate(row)
    }
    assert {gid: Fraction(said.replace("\u2212", "-")) for gid, said in words.items()} == expected
    lines = {line.get_gid(): line.get_color() for line in figure.axes[0].lines}
    # A line for each entry that is not 0, in one colour for plus and another for minus.
    for kind, name in (("in", "input"), ("out", "output")):
        entries = {f"{kind} {g[len(name) + 1 :]}": v for g, v in expected.items() if g.startswith(f"{name} ")}
        assert {gid for gid in lines if gid.startswith(f"{kind} ")} == {g for g, v in entries.items() if v}
        plus = {lines[gid] for gid, value in entries.items() if value > 0}
        minus = {lines[gid] for gid, value in entries.items() if value < 0}
        assert len(plus) == 1
        assert not plus & minus
    n = m + r - 1
    assert len(patches(figure, "pixel")) == len(patches(figure, "product")) == n
    assert len(patches(figure, "output")) == m
    assert f"Winograd's F({m}, {r}): {n} multiplications in place of {m * r}" in texts(figure)
    assert f"{n * n} products, in place of {(m * r) ** 2}" in texts(figure)
    no_text_over_another(figure)


@pytest.mark.parametrize(("m", "r"), [(2, 3), (4, 3), (2, 4), (3, 5)])
def test_the_taps_are_written_as_their_row_says(m, r):
    for row in toom_cook(m, r).kernel:
        said = combination(row, "g").replace("\u2212", "-")
        for tap in range(r):
            values = {f"g{i}": int(i == tap) for i in range(r)}
            python = re.sub(r"(\d) (?=[(g])", r"\1 * ", said)
            assert eval(python, values) == pytest.approx(float(row[tap])), said  # our own text


def test_rows_with_signs_and_factors():
    half = Fraction(1, 2)
    assert combination((half, -half, half), "g") == "(g0 \u2212 g1 + g2) / 2"
    assert combination((-half, -half), "g") == "\u2212(g0 + g1) / 2"
    assert combination((Fraction(0), Fraction(-1)), "g") == "\u2212g1"
    assert combination((Fraction(2, 3), Fraction(4, 3)), "g") == "2 (g0 + 2 g1) / 3"


@pytest.mark.parametrize(
    ("m", "r", "message"), [(0, 3, "at least one output"), (8, 8, "needs 14 different points")]
)
def test_tiles_that_do_not_exist(m, r, message):
    with pytest.raises(InputError, match=message):
        archcost.plot.winograd(m, r)


# Strassen


def test_the_seven_products_multiplied_out_are_the_product():
    left, right = operands()
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(-9, 10, (2, 2), generator=generator).numpy() for _ in range(2))
    products = (left @ a.ravel()) * (right @ b.ravel())
    assert np.array_equal((combinations() @ products).reshape(2, 2), a @ b)


def test_the_patterns_drawn_add_up_to_two_products_of_quarters_each():
    figure = archcost.plot.strassen()
    left, right = operands()
    sign = np.vectorize({"+": 1, "\u2212": -1, 0: 0}.get)
    products = [sign(grid(figure, f"product {i}")) for i in range(7)]
    for product, row, column in zip(products, left, right, strict=True):
        assert np.array_equal(product, np.outer(row, column))
    for quarter, (i, j) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        expected = np.zeros((4, 4), dtype=int)
        for k in range(2):
            expected[2 * i + k, 2 * k + j] = 1
        added = sum(n * product for n, product in zip(combinations()[quarter], products, strict=True))
        assert np.array_equal(added, expected)
        assert np.array_equal(sign(grid(figure, f"result {quarter}")), expected)
    said = texts(figure)
    assert "C21 = P1 + P6 + P7 \u2212 P4" in said
    assert "A12 B21" in " ".join(said)
    no_text_over_another(figure)


def test_the_curves_are_the_powers():
    lines = {line.get_gid(): line for line in archcost.plot.strassen().axes[1].lines}
    sizes = lines["cube"].get_xdata()
    assert np.allclose(lines["cube"].get_ydata(), sizes**3)
    levels = np.log2(sizes)
    assert np.allclose(lines["strassen"].get_ydata(), 7.0**levels)


ROWS = [
    {"size": size, "levels": level, "seconds": seconds}
    for size, times in {512: (1.0, 2.0, 3.0), 1024: (8.0, 7.5, 9.0), 2048: (60.0, 54.0, 61.0)}.items()
    for level, seconds in enumerate(times)
]


def test_measured_times_are_drawn_with_their_crossover(tmp_path):
    assert (crossover(ROWS, 1), crossover(ROWS, 2)) == (1024, None)
    late = [*ROWS, {"size": 4096, "levels": 0, "seconds": 1}, {"size": 4096, "levels": 1, "seconds": 2}]
    assert crossover(late, 1) is None  # faster once and slower again is no cross-over
    file = tmp_path / "strassen.json"
    file.write_text(json.dumps({"where": "here", "rows": ROWS}))
    for measured in ({"where": "here", "rows": ROWS}, file, str(file)):
        figure = archcost.plot.strassen(measured)
        lines = {line.get_gid(): line for line in figure.axes[2].lines}
        assert list(lines["levels 1"].get_ydata()) == [2.0, 7.5 / 8, 0.9]
        assert list(lines["crossover 1"].get_xdata()) == [1024]
        assert "crossover 2" not in lines
        assert {"1 level: faster from 1,024 on", "2 levels: nowhere faster", "measured: here"} <= set(
            texts(figure)
        )
        no_text_over_another(figure)


@pytest.mark.parametrize(
    "measured",
    [
        {},
        {"rows": []},
        {"rows": [1]},
        {"rows": ROWS[:1]},
        {"rows": ROWS[1:]},
        {"rows": [{**ROWS[0], "seconds": 0.0}, ROWS[1]]},
        [1],
        "/nowhere.json",
    ],
)
def test_what_is_no_measurement(measured):
    with pytest.raises(InputError, match=r"measured is what benchmarks/strassen.py --json writes"):
        archcost.plot.strassen(measured)


# Files


@pytest.mark.parametrize(
    "draw",
    [
        lambda path: archcost.plot.im2col(SMALL[0], path=path),
        lambda path: archcost.plot.tiles(*TILED[0], path=path),
        lambda path: archcost.plot.winograd(2, 3, path=path),
        lambda path: archcost.plot.strassen(path=path),
    ],
    ids=["im2col", "tiles", "winograd", "strassen"],
)
def test_written_as_the_suffix_says_and_the_same_each_time(tmp_path, draw):
    file = tmp_path / "picture.png"
    draw(file)
    first = file.read_bytes()
    assert first.startswith(b"\x89PNG")
    draw(str(file))
    assert file.read_bytes() == first
    with pytest.raises(SpecError, match="no picture format 'docx'"):
        draw(tmp_path / "a.docx")
    with pytest.raises(ArchcostError, match="cannot be written"):
        draw(tmp_path / "nowhere" / "a.png")
