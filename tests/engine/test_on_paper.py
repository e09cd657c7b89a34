"""Programs on paper: the steps of a model without its weights, and layers as plain values."""

from collections import Counter

import pytest
import torch

import archcost
from archcost.engine.on_paper import graph_on_paper, layer_of, node_of, work_of_layer
from archcost.engine.reading.registry import Refused
from archcost.engine.recipe import Recipe
from archcost.trace.call import like_traced
from archcost.trace.hints import traced


def counted(graph):
    return Counter((type(node.operator).__name__, layer_of(node)) for node in graph.nodes)


@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2_x0_5", "efficientnet_b0"])
def test_a_program_on_paper_has_the_layers_that_it_has_with_weights(name):
    model = archcost.load(f"torchvision:{name}").model
    trace = traced(model, None, input_size=(1, 3, 64, 64), progress=False)
    call = like_traced(trace)
    with torch.no_grad():
        _, graph = Recipe.of(model, call, trace, model(*call.args, **call.kwargs))
    on_paper = graph_on_paper(archcost.analyze(model, input_size=(1, 3, 64, 64), progress=False).trace)
    assert counted(on_paper) == counted(graph)


def test_a_layer_is_the_same_when_it_was_read_back_and_its_work_is_the_networks():
    trace = archcost.analyze("torchvision:mobilenet_v2", progress=False).trace
    layers = [layer for node in graph_on_paper(trace).nodes if (layer := layer_of(node))]
    assert all(layer_of(node_of(layer)) == layer for layer in layers)
    works = [work_of_layer(layer) for layer in layers]
    assert sum(work.macs for work in works) == 300_774_272
    assert {work.kind for work in works} == {"dense", "pointwise", "grouped", "InvertedResidual", "row"}


def test_what_draws_random_numbers_has_no_program_on_paper():
    class Drawing(torch.nn.Module):
        def forward(self, x):
            return x + torch.rand(8)

    with pytest.raises(Refused):
        graph_on_paper(archcost.analyze(Drawing().eval(), input_size=(1, 3, 8, 8), progress=False).trace)
