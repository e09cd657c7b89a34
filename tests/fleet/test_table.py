"""What becomes of a fleet's store: estimates, exports, the zoo by latency."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import archcost
from archcost.cli import main
from archcost.engine.activation import RELU
from archcost.engine.graph import Node, Value
from archcost.engine.on_paper import layer_of, node_of
from archcost.engine.operators import Convolution
from archcost.fleet.errors import FleetError
from archcost.fleet.kept import FleetStore, checked, mark_of
from archcost.fleet.law import _EAGER, Law
from archcost.fleet.paper import of_analysis
from archcost.fleet.table import latency_table
from archcost.fleet.tasks import Layer, Model, Product, Step
from archcost.fleet.work import BYTES, WORK, attention_macs, work_of
from archcost.latency.store.measurement import spec_json
from archcost.spec import ConvSpec
from helpers.fleet import LAYERS, times, whole

NAMES = "resnet18 resnet34 resnet50 vgg11 alexnet googlenet mobilenet_v2 squeezenet1_0 squeezenet1_1".split()
MARK = mark_of("f" * 16, "pi5")
PRODUCTS = [Product((n, 16, 32), 1) for n in (1, 2, 3)]
LAW = {**dict.fromkeys(BYTES, 2e-10), "calls": 1e-6}


def paper(number, name):
    """A model on paper, and its seconds by a law that is known."""
    layers = [LAYERS[number % 5], LAYERS[(number * 3 + 1) % 5]]
    moved = [(number * at * 7919) % 1000 * 1000 + 10 for at in (2, 3)]
    operations = {"native_batch_norm": [number, moved[0], 0], "relu": [3, moved[1], 0]}
    product = PRODUCTS[number % 3]
    convs = [
        {
            "spec": json.loads(spec_json(one.spec)),
            "dtype": "float32",
            "layout": "contiguous",
            "count": number + 1,
        }
        for one in layers
    ]
    found = {"model": name, "batch": 1, "params": 1000 * number + 1, "macs": 10**6, "convolutions": convs}
    found |= {"operations": operations, "products": [[*product.sizes, 2]], "input": ""}
    seconds = 1.2 * sum((number + 1) * median_of(one) for one in layers) + 1.1 * 2 * seconds_of(product)
    return found, seconds + sum(LAW.get(key, 0.0) * work for key, work in work_of(found).items())


def seconds_of(product):
    return 1e-4 * product.sizes[0]


def median_of(layer):
    return 1e-4 * (1 + LAYERS.index(layer)) if layer in LAYERS else 1e-4


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "fleet.sqlite"
    with FleetStore(path) as kept:
        for layer in LAYERS:
            kept.keep(layer, MARK, times(layer, median_of(layer)))
        for product in PRODUCTS:
            seconds = seconds_of(product)
            kept.keep(product, MARK, {"product": whole(seconds)["model"], "reference_s": 0.001})
        for number, name in enumerate([*NAMES, *(f"more{n}" for n in range(8))]):
            found, seconds = paper(number, f"torchvision:{name}")
            kept.keep_papers([found])
            kept.keep(Model(f"torchvision:{name}", 1, 1), MARK, whole(seconds))
    return path


def test_a_law_is_learnt_from_whole_models_and_holds_for_one_left_out(store):
    table = latency_table(store, "pi5", without=["torchvision:resnet34"])
    found, seconds = paper(1, "torchvision:resnet34")
    estimate = table.of_paper(found)
    assert estimate.seconds == pytest.approx(seconds, rel=1e-3)
    assert estimate.error < 0.01
    assert estimate.share_predicted == 0
    assert "ms predicted for torchvision:resnet34 on pi5" in str(estimate)


def test_attention_that_few_models_have_stays_near_its_matrix_products():
    """One model has a little of it, and other work that the law does not know; that is not attention's."""
    rows = np.zeros((12, len(_EAGER) + len(WORK)))
    rows[:, _EAGER.index("product")] = 1.0
    rows[:, -1] = np.arange(12) * 1e-3
    seconds = rows @ np.array([1.0] * len(_EAGER) + [0.0] * len(BYTES) + [10.0])
    rows[0, _EAGER.index("attention")] = 0.01
    seconds[0] += 0.1  # 10 times its products
    found = Law.of(rows, seconds, "eager").coefficients[_EAGER.index("attention")]
    assert 1.0 <= found < 5.0
    rows[1:6, _EAGER.index("attention")] = 0.5
    seconds[1:6] += 0.9  # 1.8 times
    found = Law.of(rows, seconds, "eager").coefficients[_EAGER.index("attention")]
    assert 1.55 < found <= 1.8


def test_maxima_count_what_their_windows_read_and_attention_its_products():
    class Net(nn.Module):
        def forward(self, x):
            y = F.max_pool2d(F.max_pool2d(x, 3, 2, 1), 2)
            z = F.scaled_dot_product_attention(x, x, x)
            return F.adaptive_max_pool2d(y, 1), z

    found = of_analysis(archcost.analyze(Net(), torch.randn(1, 4, 16, 16), progress=False))
    work = work_of(found)
    assert work["max_pool"] == 4 * 4 * (8 * 8 * 9 + 4 * 4 * 4 + 4 * 4)
    assert attention_macs(found) == 4 * 2 * 16**3


def program(number):
    """A program on paper, and its seconds by a law that is known."""
    layers = [[STEPS[(number * at + 1) % len(STEPS)], at] for at in (1, 2, 3)]
    moved = (number * 7919) % 1000 * 1000 + 10
    seconds = sum(
        (0.8 if groups_of(one) > 1 else 1.1) * count * seconds_of_step(one) for one, count in layers
    )
    return {"layers": layers, "others": {"Channels": [number, moved]}}, seconds + 2e-10 * moved


def step(channels, groups=1):
    """A layer of a program, as text."""
    weight = torch.zeros(channels, channels // groups, 3, 3)
    conv = Convolution(weight, None, (1, 1), ((1, 1), (1, 1)), (1, 1), groups, RELU)
    images = (1, channels, 8, 8)
    return layer_of(Node(conv, (Value(images),), Value(images)))


STEPS = [step(8 * n) for n in range(1, 6)] + [step(16 * n, 16 * n) for n in range(1, 5)]


def groups_of(layer):
    return node_of(layer).operator.groups


def seconds_of_step(layer):
    return 1e-4 * (1 + STEPS.index(layer))


def test_programs_have_a_law_of_their_own(store):
    names = [f"torchvision:{name}" for name in NAMES] + [f"torchvision:more{n}" for n in range(8)]
    with FleetStore(store) as kept:
        for one in STEPS[:-1]:
            timed = {"step": whole(seconds_of_step(one))["model"], "variant": "direct", "reference_s": 0.001}
            kept.keep(Step(one, 1), MARK, checked(Step(one, 1), timed))
        for number, name in enumerate(names):
            made, seconds = program(number)
            kept.keep_papers([{**paper(number, name)[0], "program": made}])
            kept.keep(Model(name, 1, 1, "program"), MARK, whole(seconds))
    found, seconds = program(1)
    table = latency_table(store, without=[names[1]])
    estimate = table.of_paper({**paper(1, names[1])[0], "program": found}, how="program")
    assert estimate.seconds == pytest.approx(seconds, rel=0.1)
    assert estimate.share_predicted == 0
    lacking = {**found, "layers": [[STEPS[-1], 1]]}
    estimate = table.of_paper({**paper(1, names[1])[0], "program": lacking}, how="program")
    assert 0 < estimate.seconds < 10 * seconds_of_step(STEPS[-1])
    assert estimate.share_predicted == 1
    with pytest.raises(FleetError, match="no program of torchvision:resnet34 on paper"):
        table.of_paper(paper(1, names[1])[0], how="program")


def test_what_the_table_lacks_is_said(store):
    with pytest.raises(FleetError, match="no device 'cloud'; it has: pi5"):
        archcost.latency_table(store, "cloud")
    found, _ = paper(1, "torchvision:resnet34")
    found["convolutions"][0]["spec"] = json.loads(spec_json(ConvSpec(3, 5, 7, input_size=(9, 9))))
    with pytest.raises(FleetError, match="nothing is known of 3 -> 5, 7x7"):
        archcost.latency_table(store).of_paper(found)


@pytest.mark.parametrize("format", ["csv", "json", "parquet"])
def test_the_table_is_exported_a_row_for_each_time(store, tmp_path, format):
    import pandas as pd

    if format == "parquet":
        pytest.importorskip("pyarrow")
    file = tmp_path / f"table.{format}"
    assert main(["fleet", "export", str(store), "--format", format, "-o", str(file)]) == 0
    found = getattr(pd, f"read_{format}")(file)
    layers = found[found.kind == "layer"]
    assert len(layers) == 5
    assert len(found) == 5 + 3 + 17
    assert set(layers.kernel_size) == {"3x3"}
    assert layers.median_s.tolist() == layers.q1_s.tolist()
    assert main(["fleet", "export", str(store), "-o", str(file)]) == 2


def test_the_zoo_by_accuracy_and_latency_has_its_front_marked(store, capsys, tmp_path):
    assert main(["zoo", "--measured", str(store), "--format", "json"]) == 0
    models = {one["name"]: one for one in json.loads(capsys.readouterr().out)["models"]}
    assert set(models) == set(NAMES)
    for name, one in models.items():
        faster = [o for o in models.values() if o["ms"] < one["ms"] and o["accuracy"] >= one["accuracy"]]
        assert one["front"] == (not faster), name
    pytest.importorskip("matplotlib")
    from archcost.fleet.zoo import measured_zoo

    figure = archcost.plot.zoo(measured_zoo(store=store), path=tmp_path / "zoo.png")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "9 classifiers on pi5" in figure.axes[0].get_title(loc="left")
    front = [name for name in sorted(NAMES, key=lambda n: models[n]["ms"]) if models[name]["front"]]
    assert texts[-len(front) :] == front  # of so few models all have their names
    assert sorted(texts) == sorted(NAMES)


def test_status_and_merge_by_hand(store, tmp_path, capsys):
    assert main(["fleet", "status", str(store)]) == 0
    assert "pi5: 25 tasks done, 0 failed" in capsys.readouterr().out
    assert main(["store", "merge", str(store), "--store", str(tmp_path / "all.sqlite")]) == 0
    assert "30 measurements and tasks read, 5 kept" in capsys.readouterr().err
    with FleetStore(tmp_path / "all.sqlite") as found:
        assert {type(task) for task, *_ in found.results()} == {Layer, Product, Model}
