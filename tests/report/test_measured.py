"""What was measured, kept and accelerated: every format, every option, and read back from a file."""

import json
from dataclasses import replace

import pytest
from golden import made_up
from torch import nn

import archcost
from archcost import SpecError
from archcost.cli import main
from archcost.latency.convolutions import convolutions_of
from archcost.latency.paths import PathTimes
from archcost.latency.store.listing import listed
from archcost.latency.store.store import Store
from archcost.paths.listing import listed as listed_paths
from archcost.report.document import Asked


def stored(tmp_path):
    made_up.fill_store(tmp_path / "made-up.sqlite")
    with Store(tmp_path / "made-up.sqlite") as store:
        return listed(store)


RESULTS = {
    "measured": lambda tmp_path: made_up.measured(),
    "stored": stored,
    "paths": lambda tmp_path: listed_paths(),
    "acceleration": lambda tmp_path: made_up.acceleration(),
    "left": lambda tmp_path: made_up.acceleration(changed=False),
}


@pytest.fixture(params=RESULTS)
def result(request, tmp_path):
    return RESULTS[request.param](tmp_path)


def test_a_result_is_read_back_as_it_was(result, tmp_path):
    result.save(tmp_path / "it.json")
    again = archcost.load_result(tmp_path / "it.json")
    assert type(again) is type(result)
    assert again == result
    assert str(again) == str(result)
    for form in ("json", "csv", "markdown", "html"):
        assert getattr(again, f"to_{form}")() == getattr(result, f"to_{form}")()


def test_what_has_no_levels_takes_no_depth(result):
    for form in ("text", "json", "csv", "pandas"):
        with pytest.raises(SpecError, match="has no levels of modules; leave depth out"):
            getattr(result, f"to_{form}")(depth=1)


def test_columns_sort_and_top_mean_the_same_in_every_format(result):
    table = result.to_pandas()
    name = table.columns[0]
    few = result.to_pandas(columns=[name], sort=name, top=2)
    assert list(few.columns) == [name]
    assert list(few[name]) == sorted(table[name])[:2]
    assert result.to_csv(columns=[name], sort=name, top=2).splitlines()[0] == name
    rows = next(v for v in result.to_dict(columns=[name], sort=name, top=2).values() if has_rows(v))
    assert [row[name] for row in rows] == list(few[name])
    text = result.to_text(columns=[name], sort=name, top=2)
    assert str(few[name][0]) in text
    with pytest.raises(SpecError, match="there is no column 'nme'"):
        result.to_text(columns=["nme"])
    with pytest.raises(SpecError, match="there is no table 'modules'; take one of"):
        result.to_pandas(by="modules")


def has_rows(value):
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], dict)


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 120, 200])
def test_no_line_is_wider_and_the_first_columns_stay(result, width):
    for options in ({}, {"columns": list(result.to_pandas().columns)}):
        lines = result.to_text(width=width, **options).splitlines()
        assert max(map(len, lines)) <= width
        rules = [at for at, line in enumerate(lines) if line.startswith("─")]
        heads = lines[rules[0] - 2 : rules[0]] if rules else []
        assert rules or not options
        assert not any("…" in line for line in heads if width > 30)  # a name may be cut, a head is not


KEY_COLUMNS = {
    "measured": ("In context", "Best"),
    "stored": ("Path", "Median"),
    "acceleration": ("Modules", "ms"),
}


@pytest.mark.parametrize("width", [60, 80, 100, 120])
@pytest.mark.parametrize("name", KEY_COLUMNS)
def test_the_key_columns_stay_at_every_width(name, width, tmp_path):
    text = RESULTS[name](tmp_path).to_text(width=width)
    rule = next(at for at, line in enumerate(text.splitlines()) if line.startswith("─"))
    heads = " ".join(text.splitlines()[rule - 2 : rule])
    assert all(word in heads for word in KEY_COLUMNS[name]), heads


def test_of_several_devices_people_see_a_table_each_and_data_one(tmp_path):
    found = stored(tmp_path)
    text = found.to_text()
    assert text.splitlines()[0].endswith("made-up.sqlite  3 measurements of 2 devices")
    assert text.count("Convolution") == found.to_html().count("<table") == 2
    assert f"{'0' * 16}: another machine" in text
    assert list(found.to_pandas()["device"]) == [one.device for one in found.measurements]
    assert found.to_text(top=2, sort="ms").count("Convolution") == 2
    assert found.to_text(top=1, sort="ms").count("Convolution") == 1


def test_disturbed_is_a_column_where_something_was(tmp_path):
    parts = stored(tmp_path).to_text().split("\n\n")[1:]
    assert [part.count("Disturbed") for part in parts] == [part.count("yes") for part in parts]
    assert sum("Disturbed" in part for part in parts) == 1


def test_what_top_leaves_out_is_summed_so_that_all_adds_up():
    measured = made_up.measured()
    lines = measured.to_text(columns=["macs", "latency_ms"], top=2).splitlines()
    first = next(at for at, line in enumerate(lines) if line.startswith("─")) + 1
    shown = [line.split()[-1] for line in lines[first : first + 2]]
    rest = next(line for line in lines if line.startswith("(5 others)")).split()[-1]
    whole = next(line for line in lines if line.startswith("All convolutions")).split()[-1]
    assert sum(map(float, (*shown, rest))) == pytest.approx(float(whole))
    assert shown == sorted(shown, reverse=True)


def of_times(*times, layers=1):
    """A measurement of equal convolutions; ``times`` are (path, layout, ms, changes)."""
    model = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(layers)))
    analysis = archcost.analyze(model, input_size=(1, 8, 16, 16), progress=False)
    calls = convolutions_of(analysis.trace)
    task = calls[0].task
    found = tuple(
        made_up.measurement(task.spec, path, ms / 1e3, layout, **more) for path, layout, ms, more in times
    )
    measured = PathTimes(task, found, {path: 1e-6 for path, *_ in times}, {})
    return replace(made_up.measured(), calls=calls, convolutions=(measured,), context=None, predictions={})


def test_the_gain_of_the_layout_alone_is_shown():
    found = of_times(("native", "contiguous", 3.0, {}), ("native", "channels_last", 2.0, {}))
    (layer,) = found.layers
    assert (layer.speedup, layer.layout_speedup, layer.as_run_ms) == (1, pytest.approx(1.5), pytest.approx(3))
    assert "3.000 ms as the model runs them, 2.000 ms in the faster layout (1.50x as fast)" in found.to_text()
    assert "Layout gain" in found.to_text()
    advice, _ = found.document(Asked()).page().advice
    assert (advice.head, advice.text[:64]) == (
        "0 by another layout",
        "PyTorch's own path, channels_last: 1.50x as fast alone, 1.000 ms",
    )
    same = of_times(("native", "contiguous", 2.01, {}), ("native", "channels_last", 2.0, {}))
    assert same.layers[0].layout_speedup == 1
    assert "Layout gain" not in same.to_text()
    assert "no other path or layout is faster beyond the noise" in same.to_text()


def test_advice_from_interrupted_times_says_so():
    slow = ("native", "contiguous", 3.0, {"disturbed": True})
    page = of_times(slow, ("winograd-4", "contiguous", 1.0, {})).document(Asked()).page()
    said = "unreliable: other processes interrupted every sample"
    assert page.advice[0].text.endswith(said)
    (fact,) = [one for one in page.facts if one.name == "Convolutions alone"]
    assert fact.remark.endswith(f"1 of these times is {said}")


def test_of_many_convolutions_the_slowest_are_shown_first():
    found = of_times(("native", "contiguous", 2.0, {}), layers=30)
    assert "(10 others)" in found.to_text()
    assert "(10 others)" not in found.to_text(full=True)
    assert len(found.to_pandas()) == 30
    assert found.to_markdown().partition("<details>")[2].count("| native") == 30


def test_by_paths_columns_are_those_of_paths():
    measured = made_up.measured()
    record = measured.to_dict(by="paths", sort="ms", top=3)
    times = [one["median_s"] for one in record["paths"]]
    assert times == sorted((one.median_s for one in measured.paths), reverse=True)[:3]
    assert len(record["layers"]) == len(measured.layers)
    assert "Rough" in measured.to_text(by="paths")
    with pytest.raises(SpecError, match="there is no column 'best_ms'"):
        measured.to_text(by="paths", columns=["best_ms"])


def test_an_acceleration_is_complete_as_data():
    found = made_up.acceleration()
    record = json.loads(found.to_json(), parse_constant=pytest.fail)
    assert record["schema"] == "archcost.acceleration/2"
    assert record["ratio"] == {"median": 1.5, "spread": 0.05, "pairs": 20}
    assert record["steps"][0]["modules"] == ["blocks.0.conv", "blocks.0.norm", "blocks.0.act"]
    assert found.to_pandas()["name"][0] == "blocks.0.conv + norm + act"
    assert found.pytorch_share == 10.0


NET = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1))
"""


@pytest.fixture
def net(written):
    return written(NET)


def test_the_command_accelerates_and_shows_it_in_every_format(net, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    line = ["accelerate", net, "--input-size", "1,3,16,16", "--seconds", "2", "--threads", "1"]
    line += ["--store", "store.sqlite"]
    assert main([*line, "--save", "it.json"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "net.py:net  1 thread, float32, batch 1"
    assert "As is ms" in out
    assert str(archcost.load_result("it.json")) == out.rstrip("\n")
    assert main([*line, "--format", "json", "-o", "out.json"]) == 0
    assert capsys.readouterr().out == ""
    rows = json.loads((tmp_path / "out.json").read_text())["steps"]
    assert {name for row in rows for name in row["modules"]} == {"0", "1", "2"}
    assert main([*line, "--tolerance", "-1"]) == 2
    assert capsys.readouterr().err.startswith("archcost: --tolerance must be a number above 0")


def test_ctrl_c_leaves_the_model_as_it_was_and_exits_130(net, capsys, monkeypatch):
    import torch

    from archcost.engine import accelerate

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(accelerate, "_example", interrupted)
    line = ["accelerate", net, "--input-size", "1,3,16,16", "--seconds", "2", "--store", ":memory:"]
    assert main(line) == 130
    out, err = capsys.readouterr()
    assert (out, err) == ("", "archcost: interrupted\n")
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
    parts, state = list(model), {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        archcost.accelerate(model, torch.rand(1, 3, 16, 16), seconds=2, store=False)
    assert all(one is other for one, other in zip(model, parts, strict=True))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_weights_go_with_a_spec(net):
    import torch

    x = torch.rand(1, 3, 16, 16)
    torch.save({"0.weight": torch.zeros(8, 3, 3, 3), "0.bias": torch.ones(8),
                "2.weight": torch.zeros(8, 8, 1, 1), "2.bias": torch.full((8,), 2.0)}, "w.pt")  # fmt: skip
    fast = archcost.accelerate(net, x, seconds=0.2, weights="w.pt", store=False)
    assert torch.equal(fast(x), torch.full((1, 8, 14, 14), 2.0))
    with pytest.raises(SpecError, match="weights goes with a SPEC"):
        archcost.accelerate(nn.Conv2d(3, 8, 3), x, weights="w.pt")
