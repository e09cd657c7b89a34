"""Graphs of small models, and what they compute."""

import copy

import torch
from torch import nn

from archcost.engine.evaluate import evaluate
from archcost.engine.reading.reader import read
from archcost.trace.hints import traced
from archcost.trace.inputs import tensors_in


class Model(nn.Module):
    """A function of tensors, and the modules that it calls; buffers by name."""

    def __init__(self, function, *parts, **buffers):
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)
        self.eval()
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor)

    def forward(self, *given, **named):
        return self.function(*given, *self.parts, *self.buffers(recurse=False), **named)


def settled(model):
    """The model in evaluation, its norms with moments and factors that are not 0 and 1."""
    for one in model.modules():
        if isinstance(one, nn.modules.batchnorm._BatchNorm) and one.running_mean is not None:
            nn.init.normal_(one.running_mean, 0.2, 0.3)
            nn.init.uniform_(one.running_var, 0.5, 1.5)
        if isinstance(one, (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)) and one.weight is not None:
            nn.init.normal_(one.weight, 1.0, 0.3)
            if one.bias is not None:
                nn.init.normal_(one.bias, 0.0, 0.3)
    return model.eval()


def graph_of(model, inputs):
    """The graph of a model before any pass; ``inputs`` as `archcost.accelerate` takes them."""
    state = {name: one.double() for name, one in [*model.named_parameters(), *model.named_buffers()]}
    return read(traced(model, inputs), state)


def exact(model, inputs):
    """All outputs of a float64 copy."""

    def double(given):
        if isinstance(given, torch.Tensor):
            return given.double() if given.is_floating_point() else given.clone()
        if isinstance(given, dict):
            return {key: double(value) for key, value in given.items()}
        return type(given)(map(double, given)) if isinstance(given, (tuple, list)) else given

    given = double(inputs)
    twin = copy.deepcopy(model).double()
    with torch.no_grad():
        made = twin(**given) if isinstance(given, dict) else twin(*given)
    return tensors_in(tuple(made) if isinstance(made, tuple) else made)


def worst(found, expected):
    """The largest max |y - expected| / max |expected| of pairs of tensors; what is no number must agree."""
    assert [tuple(one.shape) for one in found] == [tuple(one.shape) for one in expected]
    error = 0.0
    for one, other in zip(found, expected, strict=True):
        if not other.is_floating_point():
            assert torch.equal(one, other)
        elif other.numel():
            difference = (one.double() - other).nan_to_num(posinf=1.0, neginf=1.0).abs().max()
            assert torch.equal(one.isnan(), other.isnan())
            error = max(error, (difference / other.nan_to_num(0, 0, 0).abs().max().clamp_min(1e-3)).item())
    return error


def assert_read(model, *inputs):
    """Its graph computes what the model does, in float64; returns the graph."""
    given = inputs[0] if len(inputs) == 1 and isinstance(inputs[0], dict) else inputs
    graph = graph_of(model, given)
    assert worst(evaluate(graph, tensors_in(given)), exact(model, given)) < 1e-12
    return graph


def operators(graph):
    """Names of the operators, in order."""
    return [type(node.operator).__name__ for node in graph.nodes]


def calls(graph):
    """Names of the operators of PyTorch that the graph calls back."""
    return [node.operator.name for node in graph.nodes if hasattr(node.operator, "name")]
