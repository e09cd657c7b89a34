"""Prepared kernels as PyTorch's compilers see them: operators of their own, of known shape and layout."""

import pytest
import torch
from torch import nn

from archcost import ConvSpec, kernels
from archcost.paths import Epilogue, get

pytestmark = pytest.mark.skipif(kernels.library() is None, reason=f"no kernels: {kernels.why_not()}")

LAYERS = {
    "dense": ("winograd-4", ConvSpec(8, 12, 3, padding=1, input_size=(12, 12))),
    "grouped": ("winograd-4", ConvSpec(32, 32, 3, padding=1, groups=2, input_size=(12, 12))),
    "by phases": ("winograd-4", ConvSpec(8, 12, 3, stride=2, padding=1, input_size=(12, 12))),
    "row": ("fft-32", ConvSpec(8, 12, 9, padding=4, input_size=(50,))),
    "depthwise": ("fft-rows", ConvSpec(8, 8, 7, padding=3, groups=8, input_size=(12, 12))),
}


class Layer(nn.Module):
    def __init__(self, name, spec, epilogue):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        shape = (spec.out_channels, spec.in_channels // spec.groups, *spec.kernel_size)
        weight, bias = (
            torch.randn(shape, generator=generator),
            torch.randn(spec.out_channels, generator=generator),
        )
        self.path = get(name)
        self.prepared = self.path.prepare(weight, bias, spec, epilogue)

    def forward(self, x):
        return self.path.run(x, self.prepared)


def layer_and_input(layer, epilogue=Epilogue((0.0, 6.0))):  # noqa: B008
    name, spec = LAYERS[layer]
    return Layer(name, spec, epilogue).eval(), torch.randn(2, spec.in_channels, *spec.input_size)


@pytest.mark.parametrize(
    "layer", [pytest.param(layer, marks=[pytest.mark.slow] * (layer == "by phases")) for layer in LAYERS]
)
def test_compile_sees_through_a_path_in_one_graph(layer):
    module, x = layer_and_input(layer)
    torch._dynamo.reset()
    with torch.no_grad():
        y = module(x)
        compiled = torch.compile(module, backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(compiled, y)
    assert compiled.stride() == y.stride()


@pytest.mark.parametrize("layer", LAYERS)
def test_a_module_with_prepared_weights_is_exported(layer):
    module, x = layer_and_input(layer)
    with torch.no_grad():
        program = torch.export.export(module, (x,), strict=False)
        torch.testing.assert_close(program.module()(x), module(x))
    operators = {str(node.target) for node in program.graph.nodes}
    assert "archcost.convolve.default" in operators


def test_the_batch_may_be_dynamic():
    module, x = layer_and_input("dense")
    with torch.no_grad():
        batch = torch.export.Dim("batch", min=1, max=64)
        program = torch.export.export(module, (x,), dynamic_shapes=({0: batch},), strict=False)
        wide = torch.randn(5, *x.shape[1:])
        torch.testing.assert_close(program.module()(wide), module(wide))


@pytest.mark.parametrize("memory_format", [None, torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("layer", ["dense", "row", "depthwise"])
def test_operators_keep_the_promises_of_their_fakes(layer, layout, memory_format):
    _, spec = LAYERS[layer]
    axes = len(spec.input_size)
    if axes == 1 and torch.channels_last in (layout, memory_format):
        return
    module, x = layer_and_input(layer)
    packed, padding = module.prepared.content.packed, module.prepared.content.padding
    x = x.contiguous(memory_format=layout) if axes == 2 else x
    flat = [side for pair in padding for side in pair]
    together = None if memory_format is None else memory_format == torch.channels_last
    for bias, clamp in ((None, None), (module.prepared.bias, [0.0, 6.0])):
        known = (packed.kind, packed.numbers, packed.isa)
        arguments = (x, packed.data, bias, *known, flat, [1, 1, 1, 1], clamp, together)
        operator = torch.ops.archcost.convolve.default
        torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.slow
def test_inductor_runs_the_kernel():
    module, x = layer_and_input("dense")
    torch._dynamo.reset()
    with torch.no_grad():
        try:
            compiled = torch.compile(module, fullgraph=True)(x)
        except (torch._inductor.exc.InductorError, RuntimeError) as error:
            pytest.skip(f"inductor does not work here: {str(error).splitlines()[0]}")
        torch.testing.assert_close(compiled, module(x))


def test_a_subclass_of_tensor_goes_through_the_operator():
    module, x = layer_and_input("dense")
    with torch.no_grad():
        torch.testing.assert_close(module(nn.Parameter(x)), module(x))
