"""What a path does to its outputs on the way out, and gradients: the same whatever runs."""

import math
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F

from archcost import ConvSpec, InputError, kernels
from archcost.paths import Epilogue, available, get

SPECS = {
    "long": ConvSpec(2, 3, 70, padding=20, input_size=(100,)),
    "dense": ConvSpec(8, 12, 3, padding=1, input_size=(12, 12), batch=2),
    "strided": ConvSpec(8, 12, 3, stride=2, padding=1, input_size=(12, 12)),
    "depthwise": ConvSpec(8, 8, 5, padding=2, groups=8, input_size=(12, 12)),
    "row": ConvSpec(8, 12, 9, padding=4, input_size=(40,)),
    "transposed": ConvSpec(8, 12, 4, stride=2, padding=1, transposed=True, input_size=(7, 7)),
}
TIERS = {"with kernels": nullcontext, "without kernels": kernels.disabled}


def tensors_of(spec, **options):
    generator = torch.Generator().manual_seed(0)
    first, second = (
        (spec.in_channels, spec.out_channels) if spec.transposed else (spec.out_channels, spec.in_channels)
    )
    weight = torch.randn(first, second // spec.groups, *spec.kernel_size, generator=generator, **options)
    bias = torch.randn(spec.out_channels, generator=generator, **options)
    x = torch.randn(spec.batch, spec.in_channels, *spec.input_size, generator=generator, **options)
    return x, weight, bias


def native(x, weight, bias, spec):
    path = get("native")
    return path.run(x, path.prepare(weight, bias, spec))


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("name", available())
def test_every_path_clamps_and_hides_no_nan(name, tier):
    path, ran = get(name), 0
    for spec in SPECS.values():
        if path.supports(spec, torch.float32) is not None:
            continue
        ran += 1
        x, weight, bias = tensors_of(spec)
        plain = native(x, weight, bias, spec)
        for clamp in ((0.0, math.inf), (0.0, 6.0), (-1.0, 1.5)):
            with TIERS[tier]():
                prepared = path.prepare(weight, bias, spec, Epilogue(clamp))
                assert prepared.epilogue == Epilogue(clamp)
                y = path.run(x, prepared)
                torch.testing.assert_close(y, plain.clamp(*clamp), rtol=1e-3, atol=1e-2)
                assert clamp[0] <= y.min() <= y.max() <= clamp[1]
                assert path.run(torch.full_like(x, math.nan), prepared).isnan().any(), clamp
    assert ran


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("name", available())
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_the_output_has_the_layout_asked_for(name, tier, memory_format):
    path = get(name)
    for spec in SPECS.values():
        if path.supports(spec, torch.float32) is not None or len(spec.input_size) != 2:
            continue
        x, weight, bias = tensors_of(spec)
        with TIERS[tier]():
            prepared = path.prepare(weight, bias, spec, Epilogue(memory_format=memory_format))
            for layout in (torch.contiguous_format, torch.channels_last):
                y = path.run(x.contiguous(memory_format=layout), prepared)
                assert y.is_contiguous(memory_format=memory_format)
                torch.testing.assert_close(y, native(x, weight, bias, spec), rtol=1e-3, atol=1e-2)


def test_limits_and_layouts_that_make_no_sense_are_refused():
    _, weight, bias = tensors_of(SPECS["row"])
    with pytest.raises(InputError, match=r"clamp=\(1, 0\), expected \(low, high\)"):
        get("native").prepare(weight, bias, SPECS["row"], Epilogue((1, 0)))
    with pytest.raises(InputError, match=r"expected torch.contiguous_format for 1 spatial axes"):
        get("direct").prepare(weight, bias, SPECS["row"], Epilogue(memory_format=torch.channels_last))


def test_onednn_clamps_by_itself_only_where_nan_may_be_lost():
    path, spec = get("native-prepacked"), SPECS["dense"]
    if path.supports(spec) is not None:
        pytest.skip(path.supports(spec))
    x, weight, bias = tensors_of(spec)
    for clamp in ((0.0, math.inf), (-1.0, 1.5)):
        y = path.run(x, path.prepare(weight, bias, spec, Epilogue(clamp, keeps_nan=False)))
        torch.testing.assert_close(y, native(x, weight, bias, spec).clamp(*clamp), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", ["native-prepacked", "native-nnpack", "winograd-4", "fft-32", "fft-rows"])
def test_gradients_are_those_of_the_framework(name, spec, tier):
    path, spec = get(name), SPECS[spec]
    if path.supports(spec, torch.float32) is not None:
        return
    leaves = [tensor.requires_grad_() for tensor in tensors_of(spec)]
    expected = torch.autograd.grad(native(*leaves, spec).clamp(0, 6).square().sum(), leaves)
    with TIERS[tier]():
        y = path.run(leaves[0], path.prepare(*leaves[1:], spec, Epilogue((0.0, 6.0))))
        found = torch.autograd.grad(y.square().sum(), leaves)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3 * b.abs().max().item())


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("winograd-2", ConvSpec(2, 1, 3, stride=2, padding=1, input_size=(4, 4))),
        ("fft-16", ConvSpec(2, 2, 4, padding=1, input_size=(7,))),
        ("fft-rows", ConvSpec(2, 4, 3, padding=1, groups=2, input_size=(3, 3))),
        ("fft-parts", ConvSpec(2, 2, 64, padding=20, groups=2, input_size=(40,))),
    ],
)
def test_tensor_operations_pass_gradcheck(name, spec):
    path = get(name)
    leaves = [tensor.requires_grad_() for tensor in tensors_of(spec, dtype=torch.float64)]
    assert torch.autograd.gradcheck(lambda x, *weights: path.run(x, path.prepare(*weights, spec)), leaves)


@pytest.mark.parametrize("name", ["native-prepacked", "winograd-4"])
def test_other_ways_to_differentiate_find_the_framework(name):
    """Forward mode and torch.func see no requires_grad: a kernel would drop their gradients in silence."""
    path, spec = get(name), SPECS["dense"]
    if path.supports(spec) is not None:
        pytest.skip(path.supports(spec))
    x, weight, bias = tensors_of(spec)
    prepared = path.prepare(weight, bias, spec)

    def run(x):
        return path.run(x, prepared)

    expected = native(x, weight, None, spec)
    _, tangent = torch.func.jvp(run, (x,), (x,))
    torch.testing.assert_close(tangent, expected, rtol=1e-3, atol=1e-2)
    with torch.autograd.forward_ad.dual_level():
        y = run(torch.autograd.forward_ad.make_dual(x, x))
        tangent = torch.autograd.forward_ad.unpack_dual(y).tangent
        torch.testing.assert_close(tangent, expected, rtol=1e-3, atol=1e-2)
    gradient = torch.func.grad(lambda x: run(x).sum())(x)
    wanted = torch.autograd.grad(native(x.requires_grad_(), weight, None, spec).sum(), x)[0]
    torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-2)
    several = torch.stack([x.detach(), 2 * x.detach()])
    torch.testing.assert_close(torch.vmap(run)(several)[0], run(x.detach()), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("name", ["native-prepacked", "winograd-4"])
def test_packed_weights_serve_while_nothing_is_recorded(name, monkeypatch):
    """The framework's convolution runs only where a gradient is wanted."""
    path, spec = get(name), SPECS["dense"]
    if path.supports(spec) is not None or (name == "winograd-4" and kernels.library() is None):
        pytest.skip("nothing is packed here")
    x, weight, bias = tensors_of(spec)
    trained = path.prepare(weight.requires_grad_(), bias, spec)
    with torch.no_grad():
        frozen = path.prepare(weight, bias, spec)
    assert (trained.trains, frozen.trains) == (True, False)
    calls = []
    original = F.conv2d

    from archcost.paths.algorithms import framework

    monkeypatch.setitem(
        framework.CONVOLUTIONS[False], 2, lambda *a, **k: calls.append(1) or original(*a, **k)
    )
    with torch.no_grad():
        assert not path.run(x, trained).requires_grad
        assert not path.run(x.clone().requires_grad_(), frozen).requires_grad
    with torch.inference_mode():
        path.run(x, trained)
    assert not path.run(x, frozen).requires_grad
    assert not calls
    assert path.run(x, trained).requires_grad
    assert path.run(x.clone().requires_grad_(), frozen).requires_grad
    assert len(calls) == 2
