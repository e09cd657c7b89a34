"""What paths say of their multiplications and their memory is what they do."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from archcost import ConvSpec
from archcost.kernels import disabled
from archcost.paths import available, get, strassen_matmul
from archcost.paths.algorithms import direct, fft, im2col, winograd
from archcost.paths.algorithms.toom_cook import POINTS, toom_cook
from archcost.paths.phases import phases

LAYERS = {
    "3x3": ConvSpec(16, 24, 3, padding=1, input_size=(20, 20), batch=2),
    "3x3 stride 2": ConvSpec(16, 24, 3, stride=2, padding=1, input_size=(21, 21)),
    "dilated": ConvSpec(8, 8, 3, padding=2, dilation=2, input_size=(20, 20)),
    "grouped": ConvSpec(12, 8, 5, padding=2, groups=4, input_size=(15, 15)),
    "depthwise": ConvSpec(8, 8, 7, padding=3, groups=8, input_size=(15, 15)),
    "transposed": ConvSpec(8, 16, 4, stride=2, padding=1, transposed=True, input_size=(9, 9)),
    "1xN": ConvSpec(8, 8, (1, 7), padding=(0, 3), input_size=(17, 17)),
    "1x1": ConvSpec(16, 16, 1, input_size=(12, 12)),
    "1-d": ConvSpec(8, 8, 31, padding=15, input_size=(300,)),
    "1-d stride 4": ConvSpec(4, 8, 64, stride=4, input_size=(500,)),
    "3-d": ConvSpec(4, 6, 3, padding=1, input_size=(8, 8, 8)),
}
OWN = [name for name in available() if not name.startswith(("native", "fft-"))] + [
    "fft-16",
    "fft-64",
    "fft-rows",
]


@pytest.fixture(autouse=True)
def tensor_operations():
    """What is counted here are tensors; test_kernels.py has the compiled kernels."""
    with disabled():
        yield


class Multiplications(TorchDispatchMode):
    """Counts those of matrix products by their sizes, and apart from them those of one tensor by another."""

    def __init__(self):
        super().__init__()
        self.count = self.elementwise = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function in (torch.ops.aten.mm.default, torch.ops.aten.bmm.default):
            self.count += out.numel() * args[0].shape[-1]
        if function is torch.ops.aten.mul.Tensor and isinstance(args[1], torch.Tensor):
            self.elementwise += out.numel()
        return out


class LiveBytes(TorchDispatchMode):
    """The most bytes that tensors made inside hold at a time."""

    def __init__(self):
        super().__init__()
        self.made, self.peak = {}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {t.untyped_storage()._cdata for t in args if isinstance(t, torch.Tensor)}
        out = function(*args, **(kwargs or {}))
        self.made = {key: one for key, one in self.made.items() if not one[0].expired()}
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            storage = tensor.untyped_storage()
            if storage._cdata not in given:
                self.made.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self.peak = max(self.peak, sum(size for _, size in self.made.values()))
        return out


def prepared_and_input(path, spec, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    first, second = spec.out_channels, spec.in_channels
    if spec.transposed:
        first, second = second, first
    weight = torch.randn(first, second // spec.groups, *spec.kernel_size, generator=generator).to(dtype)
    x = torch.randn(spec.batch, spec.in_channels, *spec.input_size, generator=generator).to(dtype)
    return path.prepare(weight, None, spec), x


def counted_products(monkeypatch, *modules):
    """A list that fills with the multiplications of every point-wise product while a path runs."""
    found = []

    def counting(original):
        def point_products(x, weight):
            found.append(x.numel() * weight.shape[-1])
            return original(x, weight)

        return point_products

    for module in modules:
        monkeypatch.setattr(module, "point_products", counting(module.point_products))
    return found


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    "name", ["direct", "im2col", "im2col-tiled", "strassen", "strassen-1", "strassen-2", "strassen-3"]
)
def test_matrix_products_multiply_as_often_as_stated(name, layer):
    path, spec = get(name), LAYERS[layer]
    prepared, x = prepared_and_input(path, spec)
    with Multiplications() as seen:
        path.run(x, prepared)
    assert seen.count == path.multiplications(spec)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", ["winograd-2", "winograd-4", "winograd-6", "fft", "fft-16", "fft-64"])
def test_fast_paths_multiply_as_often_as_stated(name, layer, monkeypatch):
    path, spec = get(name), LAYERS[layer]
    if path.supports(spec) is not None:
        return
    prepared, x = prepared_and_input(path, spec)
    found = counted_products(monkeypatch, winograd, fft)
    with Multiplications() as seen:
        path.run(x, prepared)
    # The Fourier path multiplies complex numbers itself where there is nothing to sum over.
    alone = spec.groups == spec.in_channels and name.startswith("fft")
    assert (seen.elementwise if alone else sum(found)) == path.multiplications(spec)


def test_the_definition_multiplies_every_weight_at_every_position():
    for spec in LAYERS.values():
        counts = {get(name).multiplications(spec) for name in ("native", "direct", "im2col", "im2col-tiled")}
        assert counts == {spec.macs}


def test_winograd_takes_the_multiplications_of_the_textbook():
    def layer(kernel, size):
        return ConvSpec(1, 1, kernel, input_size=tuple(n + k - 1 for n, k in zip(size, kernel, strict=True)))

    # F(2x2, 3x3): 16 for 4 outputs in place of 36; F(4x4, 3x3): 36 for 16 in place of 144.
    assert get("winograd-2").multiplications(layer((3, 3), (2, 2))) == 16
    assert get("winograd-4").multiplications(layer((3, 3), (4, 4))) == 36
    assert get("winograd-6").multiplications(layer((3, 3), (6, 6))) == 64
    assert get("winograd-2").multiplications(layer((3,), (2,))) == 4
    assert get("winograd-4").multiplications(layer((1, 7), (5, 4))) == 5 * 10
    assert get("winograd-4").multiplications(layer((3, 3, 3), (4, 4, 4))) == 216
    # Strided by 2, the taps of 3x3 fall into 2x2, 2x1, 1x2 and 1x1: (5 + 4) ** 2 for 16 outputs, not 144.
    strided = ConvSpec(1, 1, 3, stride=2, input_size=(9, 9))
    assert get("winograd-4").multiplications(strided) == 81
    # A map that tiles do not divide pays for whole tiles.
    assert get("winograd-4").multiplications(layer((3, 3), (5, 4))) == 72


def test_winograds_transforms_are_counted_from_their_matrices():
    # F(2, 3) only adds and subtracts. F(4, 3) along one axis multiplies at each entry that is not 0, 1, -1.
    tile = ConvSpec(1, 1, 3, input_size=(4, 4))
    assert get("winograd-2").transform_multiplications(tile) == 0
    line = ConvSpec(5, 2, 3, input_size=(6,))
    matrices = toom_cook(4, 3)
    entries = [sum(abs(v) not in (0, 1) for row in m for v in row) for m in (matrices.input, matrices.output)]
    assert get("winograd-4").transform_multiplications(line) == 5 * entries[0] + 2 * entries[1]


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_strassen_takes_seven_eighths_a_level(levels):
    spec = ConvSpec(64, 64, 1, input_size=(8, 8))
    path = get(f"strassen-{levels}")
    assert Fraction(path.multiplications(spec), spec.macs) == Fraction(7, 8) ** levels
    a, b = torch.randn(3, 24, 40), torch.randn(40, 16)
    with Multiplications() as seen:
        product = strassen_matmul(a, b, levels)
    assert Fraction(seen.count, 3 * 24 * 40 * 16) == Fraction(7, 8) ** levels
    torch.testing.assert_close(product, a @ b, rtol=1e-4, atol=1e-4)


def test_the_fft_counts_three_products_a_frequency_and_what_stride_discards():
    spec = ConvSpec(3, 5, 5, input_size=(16, 16))
    # One tile of 16 x 16 has 16 x 9 frequencies.
    assert get("fft-16").multiplications(spec) == 3 * 16 * 9 * 15
    # At stride 2 by discarding the count would stay; by phases four images of a quarter of the size.
    strided = ConvSpec(3, 5, 5, stride=2, input_size=(16, 16))
    path = get("fft-16")
    totals = [path.multiplications(one) + path.transform_multiplications(one) for one in (strided, spec)]
    assert totals[0] <= totals[1]
    # Along one axis the first and the last of 9 frequencies are real and take one product each.
    assert path.multiplications(ConvSpec(3, 5, 5, input_size=(16,))) == (3 * 7 + 2) * 15
    # Four products a frequency, and a third fewer weights, where many of them are read for four tiles.
    many = ConvSpec(128, 64, 64, padding=32, input_size=(128,))
    assert get("fft-96").multiplications(many) == (4 * 47 + 2) * 4 * 128 * 64
    assert get("fft-96").multiplications(replace(many, batch=2)) == (3 * 47 + 2) * 8 * 128 * 64
    # 1x1 taps a phase leave nothing to transform: the count is that of the definition.
    pooled = ConvSpec(3, 5, 2, stride=2, input_size=(16, 16))
    assert get("fft").multiplications(pooled) == pooled.macs
    assert get("fft").transform_multiplications(pooled) == 0


def test_stride_is_discarded_where_that_is_cheaper():
    """A few filters of 7 taps at stride 3: three short kernels fill their tiles worse than one."""
    path = get("fft-16")

    def total(spec):
        return path.multiplications(spec) + path.transform_multiplications(spec)

    few = ConvSpec(4, 4, 7, stride=3, groups=4, input_size=(54,))
    assert total(few) == total(replace(few, stride=1))
    assert path.workspace_bytes(few) > path.workspace_bytes(replace(few, stride=1))
    prepared, x = prepared_and_input(path, few)
    whole, _ = prepared_and_input(path, replace(few, stride=1))
    assert torch.equal(path.run(x, prepared), path.run(x, whole)[..., ::3])

    stem = ConvSpec(3, 64, 7, stride=2, padding=3, input_size=(224, 224))
    assert total(stem) < 0.6 * total(replace(stem, stride=1))


@pytest.mark.parametrize("name", ["im2col", "im2col-tiled"])
@pytest.mark.parametrize("layer", LAYERS)
def test_the_matrix_has_the_bytes_that_are_stated(layer, name, monkeypatch):
    spec, path = LAYERS[layer], get(name)
    prepared, x = prepared_and_input(path, spec)
    sizes = []
    original = im2col.Im2colPath._product

    def noting(self, weight, columns, of):
        product = original(self, weight, columns, of)
        sizes.append((product if spec.transposed else columns).nbytes)
        return product

    monkeypatch.setattr(im2col.Im2colPath, "_product", noting)
    path.run(x, prepared)
    matrix = 4 * im2col.matrix_elements(spec)
    if matrix:
        assert sum(sizes) == matrix
        assert max(sizes) <= max(im2col.BLOCK_BYTES, min(sizes)) or name == "im2col"
        assert path.workspace_bytes(spec) >= max(sizes)
    assert spec.kernel_size != (1, 1) or matrix == 0


def test_im2col_holds_k_squared_times_the_input():
    spec = ConvSpec(64, 64, 3, padding=1, input_size=(56, 56))
    padded, matrix = 64 * 58 * 58, 64 * 9 * 56 * 56
    assert get("im2col").workspace_bytes(spec) == 4 * (padded + matrix)
    assert get("im2col").workspace_bytes(spec, itemsize=8) == 8 * (padded + matrix)
    assert get("im2col-tiled").workspace_bytes(spec) < get("im2col").workspace_bytes(spec) / 4


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", OWN)
def test_workspace_is_never_more_than_stated_nor_much_less(name, layer):
    path, spec = get(name), LAYERS[layer]
    if path.supports(spec) is not None:
        return
    prepared, x = prepared_and_input(path, spec)
    content = getattr(prepared.content, "weights", [prepared.content])
    own = sum(weight.nbytes for weight in content) if name.startswith(("strassen-", "winograd", "fft")) else 0
    with LiveBytes() as seen:
        y = path.run(x, prepared)
    measured = seen.peak - y.nbytes + own
    stated = path.workspace_bytes(spec)
    assert measured <= stated + 4096  # the small matrices of the transforms
    assert stated <= 3 * measured + 4 * (x.numel() + y.numel())


def test_native_workspace_is_not_known():
    assert get("native").workspace_bytes(LAYERS["3x3"]) is None


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.integers(1, 8), st.integers(1, 8), st.data())
def test_toom_cook_is_a_correlation_exactly(m, r, data):
    if m + r - 2 > len(POINTS):
        return
    numbers = st.integers(-9, 9)
    pixels = data.draw(st.lists(numbers, min_size=m + r - 1, max_size=m + r - 1))
    taps = data.draw(st.lists(numbers, min_size=r, max_size=r))
    matrices = toom_cook(m, r)

    def times(matrix, vector):
        return [sum(a * v for a, v in zip(row, vector, strict=True)) for row in matrix]

    products = [
        a * b for a, b in zip(times(matrices.kernel, taps), times(matrices.input, pixels), strict=True)
    ]
    expected = [sum(t * pixels[i + j] for j, t in enumerate(taps)) for i in range(m)]
    assert times(matrices.output, products) == expected


def test_f_2_3_has_the_matrices_of_lavin_and_gray():
    matrices = toom_cook(2, 3)
    half = Fraction(1, 2)
    assert matrices.kernel == ((1, 0, 0), (half, half, half), (half, -half, half), (0, 0, 1))
    # Their last row and column have the other sign, which cancels.
    assert matrices.input == ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, -1, 0, 1))
    assert matrices.output == ((1, 1, 1, 0), (0, 1, -1, 1))


def test_phases_cover_every_tap_and_every_output_once():
    for spec in LAYERS.values():
        parts = phases(spec)
        taps = sum(math.prod(axis.taps for axis in part.axes) for part in parts)
        assert taps == math.prod(spec.kernel_size)
        if spec.transposed:
            outputs = sum(math.prod(axis.count for axis in part.axes) for part in parts)
            assert outputs == math.prod(spec.output_size)


def test_reading_the_references_takes_less_than_a_page():
    """direct, im2col and Strassen's product are there to be read: their code stays short."""
    import inspect

    from archcost.paths.algorithms import strassen

    for what in (direct.DirectPath._run, direct.mix_channels, im2col.im2col, strassen.strassen_matmul):
        assert len(inspect.getsource(what).splitlines()) <= 25
