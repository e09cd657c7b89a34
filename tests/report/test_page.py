"""The page is one file that holds its result, asks nothing of the network, and keeps names as text."""

import base64
import hashlib
import json
import re
from copy import deepcopy
from dataclasses import replace

import pytest
from golden import made_up
from golden.models import branches
from torch import nn

import archcost
from archcost.analysis.reports.pictures import costly
from archcost.cli import main
from archcost.errors import SpecError
from archcost.latency.reports.pictures import page_of as page_of_times
from archcost.report.document import Asked
from archcost.report.page.build import page as page_of
from archcost.report.units import si_text
from archcost.rewriting.proposal import Raced

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]>&lt;",
    "@@SAVED@@",
    "\u2028line",
    "lone\ud800",
]


def part(page, name):
    """The text of the page's data block."""
    found = re.findall(rf'<script type="application/[a-z]+" id="archcost-{name}">([^<]*)</script>', page)
    assert len(found) == 1
    return found[0]


def data(page):
    return json.loads(part(page, "page"))


@pytest.fixture(scope="module")
def analysis():
    block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    blocks = [deepcopy(block) for _ in range(3)]
    model = nn.Sequential(nn.Conv2d(3, 8, 5, stride=2), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return archcost.analyze(model, input_size=(1, 3, 32, 32))


@pytest.fixture
def page(analysis, tmp_path):
    analysis.to_html(tmp_path / "page.html")
    return (tmp_path / "page.html").read_text()


def test_page_is_read_back_as_the_result(analysis, tmp_path):
    analysis.to_html(tmp_path / "page.html")
    assert archcost.load_result(tmp_path / "page.html").to_dict() == analysis.to_dict()


def test_page_without_a_saved_result_says_so(tmp_path):
    (tmp_path / "page.html").write_text("<!doctype html><p>another page")
    with pytest.raises(SpecError, match="an HTML page without a saved result"):
        archcost.load_result(tmp_path / "page.html")


def test_policy_allows_the_script_and_style_of_the_page_and_nothing_else(page):
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    script = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    style = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    for kind, texts in (("script-src", script), ("style-src", style)):
        (text,) = texts
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[kind] == f"'sha256-{digest}'"
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"


def test_page_refers_to_nothing_outside_itself(page):
    outside = re.findall(r"(?:src|href)=|@import|url\(|https?://(?!www\.w3\.org/2000/svg)", page)
    assert outside == []


def test_script_shows_texts_as_text_only(page):
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script
    )


def test_hostile_names_stay_in_their_block(tmp_path):
    model = nn.Sequential()
    model.__class__ = type(HOSTILE[1], (nn.Sequential,), {})
    for name in HOSTILE:
        model.add_module(name.replace(".", ""), nn.Linear(2, 2))
    found = archcost.analyze(model, input_size=(1, 2))
    found.to_html(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert text.count("<script") == 3
    assert text.count("</script>") == 3
    assert "<img" not in text
    assert "<!--" not in text
    names = data(text)["pictures"][0]["names"]
    assert names[1:4] == HOSTILE[:3]
    assert len(archcost.load_result(tmp_path / "page.html").layers) == len(HOSTILE)


def test_pictures_hold_the_numbers_of_the_analysis(analysis, page):
    pictures = {one["title"]: one for one in data(page)["pictures"]}
    tiles = pictures["Which modules cost most?"]
    assert tiles["measures"][0]["values"] == [cost.macs for cost in analysis.modules]
    assert tiles["alike"][6] == tiles["alike"][10]  # equal blocks; at the first, more memory is alive
    memory = pictures["When is memory at its peak, and what fills it?"]
    assert max(memory["measures"][0]["values"]) == analysis.total.peak_memory_bytes
    mark = memory["marks"][0]
    assert memory["measures"][0]["values"][mark] == analysis.total.peak_memory_bytes
    assert all(one["first"] <= mark <= one["last"] for one in memory["spans"])
    growth = pictures["How does the receptive field grow?"]
    assert growth["measures"][0]["values"][-1] == max(analysis.fields.network.local.size)
    assert growth["level"] == 32


def test_table_holds_every_module_with_its_level(analysis, page):
    table = data(page)["tables"][0]
    assert table["rows"] == len(analysis.modules)
    assert table["levels"] == [cost.level for cost in analysis.modules]
    columns = {one["name"]: one for one in table["columns"]}
    macs = columns["macs"]
    assert [macs["values"][at] for at in macs["at"]] == [cost.macs for cost in analysis.modules]
    assert columns["name"]["texts"] == [cost.name for cost in analysis.modules]


def test_page_without_its_data_is_below_400_kilobytes(page):
    assert len(page) - len(part(page, "page")) - len(part(page, "saved")) < 100_000


def test_page_takes_no_options(analysis, tmp_path):
    with pytest.raises(SpecError, match="the page shows everything; leave top out"):
        analysis.to_html(tmp_path / "page.html", top=3)


def test_every_result_has_a_page(analysis):
    for result in (archcost.compare(analysis, analysis), analysis.fields.network):
        assert data(page_of(result.document(Asked()), result))["schema"] == result.to_dict()["schema"]


def pictures_of(result):
    found = data(page_of(result.document(Asked(full=True)), result))
    return found, {one["kind"]: one for one in found["pictures"]}


def test_page_of_a_measurement_has_its_times_paths_and_roofline():
    found = made_up.measured()
    _, pictures = pictures_of(found)
    dots = pictures["dots"]
    (at,) = [i for i, name in enumerate(dots["names"]) if name == "wide"]
    attainable = min(dots["ceiling"], dots["slope"] * dots["x"][at])
    assert dots["y"][at] / attainable == pytest.approx(found["wide"].roofline_share)
    paths = pictures["choices"]
    fastest = min(paths["bars"][paths["groups"][0]], key=lambda bar: bar[1][0])
    assert (fastest[0], fastest[1][0]) == (found.layers[0].best_path, pytest.approx(found.layers[0].best_ms))


def test_icicle_of_a_measurement_has_the_measured_time_beside_what_was_counted():
    found = made_up.measured()
    page, pictures = pictures_of(found)
    tiles = pictures["tiles"]
    times, macs, *_ = tiles["measures"]
    assert [one["name"] for one in tiles["measures"]][:2] == ["Measured time", "MACs"]
    assert times["values"][0] == pytest.approx(found.context.total * 1e3)
    assert macs["values"] == [cost.macs for cost in found.analysis.modules]
    by_name = dict(zip(tiles["names"], times["values"], strict=True))
    own = {call.name: call.median_s * 1e3 for call in found.context.calls}
    assert by_name["blocks"] == pytest.approx(own["blocks.0.conv"] + own["blocks.1.conv"])
    assert by_name["head"] is None  # not timed, so that no number stands for it
    assert {"Forward pass", "Parameters", "MACs", "Machine"} <= {one["name"] for one in page["facts"]}


def test_depth_chart_of_a_measurement_has_every_call_with_a_time():
    whole = made_up.measured()
    calls = whole.context.calls
    pool = replace(calls[0], name="pool", type="MaxPool2d", median_s=1.0)
    found = replace(whole, context=replace(whole.context, calls=(*calls, pool)))
    depth = next(one for one in pictures_of(found)[0]["pictures"] if "time go" in one["title"])
    assert depth["items"][-1] == "pool, MaxPool2d"
    own, native, _ = depth["measures"]
    assert own["values"] == [pytest.approx(call.median_s * 1e3) for call in found.context.calls]
    assert native["values"] == [*(one.native_ms for one in found.layers), None]


def test_predicted_times_are_in_no_picture():
    found = made_up.measured()
    (predicted,) = (one.seconds * 1e3 for one in found.predictions.values())
    assert predicted not in numbers(pictures_of(found)[1])


def numbers(value):
    if isinstance(value, dict):
        return {one for part in value.values() for one in numbers(part)}
    if isinstance(value, list):
        return {one for part in value for one in numbers(part)}
    return {value} if isinstance(value, float) else set()


def test_proposals_of_a_measured_model_have_its_time_and_paths(tmp_path):
    times = made_up.measured()
    found = archcost.propose(branches(), input_size=made_up.SIZE, errors=False, store=False)
    timed = replace(found, timed=replace(times, analysis=None))
    page, pictures = pictures_of(timed)
    assert pictures["tiles"]["measures"][0]["name"] == "Measured time"
    assert {"pairs", "dots", "choices", "flow"} <= set(pictures)
    assert page["facts"][0]["text"] == "7.000 ms"
    timed.to_html(tmp_path / "page.html")
    assert archcost.load_result(tmp_path / "page.html").timed == timed.timed


def test_page_of_proposals_says_the_gain_and_that_errors_are_not_known(analysis):
    model = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 5))
    found = archcost.propose(model, input_size=(1, 8, 16, 16), errors=False, store=False)
    page, pictures = pictures_of(found)
    assert page["warnings"][0].startswith("Accuracy suffers without retraining, and by how much is not known")
    best = found.best()
    assert pictures["pairs"]["before"][0]["values"] == [one.before.macs for one in best]
    assert pictures["pairs"]["after"][0]["values"] == [one.after.macs for one in best]
    after = found.analysis.total.macs + sum(one.after.macs - one.before.macs for one in best)
    (gain,) = [one["text"] for one in page["facts"] if one["name"] == "With the proposals"]
    assert gain == f"{si_text(found.analysis.total.macs)} → {si_text(after)} MACs"
    assert page["lines"] == []  # the answer is said once


def test_page_says_where_the_cost_is_and_what_is_known_of_a_suggestion():
    model = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.Flatten(), nn.Linear(1024, 1024))
    found = archcost.propose(model, input_size=(1, 16, 8, 8), rules=["separable"], store=False)
    (separable,) = [one for one in found if one.options["order"] == "pointwise-first"]
    race = Raced(1.0, 0.5, 0.1, 2.0, "a machine", 1, disturbed=True)
    found = replace(found, proposals=(replace(separable, race=race),))
    page, _ = pictures_of(found)
    where, what, *_ = page["advice"]
    assert where["text"] == (
        "linear layers and other matrix products 87.7 %, convolutions 12.3 % of the MACs; the rules replace "
        "convolutions only"
    )
    assert "; pointwise first, PyTorch runs its grouped convolution slowly: " in what["text"]
    assert "2.00x as fast here (unreliable: other processes interrupted every sample)" in what["text"]
    assert f"Where the cost is: {where['text']}" in found.to_text()
    cheaper, _ = [one["text"] for one in pictures_of(found.analysis)[0]["advice"]]
    assert "87.7 %" in cheaper


def test_page_of_proposals_has_the_stored_times_of_the_modules():
    inner = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 16, 5))
    found = archcost.propose(nn.Sequential(inner), input_size=(1, 8, 16, 16), errors=False, store=False)
    timed = [replace(one, before=replace(one.before, latency_ms=float(one.name[-1]) + 1)) for one in found]
    page, pictures = pictures_of(replace(found, proposals=tuple(timed)))
    (stored,) = [one for one in pictures["tiles"]["measures"] if one["name"] == "Stored time"]
    assert stored["values"] == [3, 3, 1, 2]
    assert [one["text"] for one in page["facts"] if one["name"] == "Stored time"] == ["3 ms"]


def test_page_of_two_models_has_the_totals_and_the_modules_that_differ(analysis):
    other = archcost.analyze(nn.Sequential(nn.Conv2d(3, 8, 5, stride=2)), input_size=(1, 3, 32, 32))
    for result in (archcost.compare(analysis, other), archcost.diff(analysis, other)):
        page, pictures = pictures_of(result)
        before, after = (
            sum(filter(None, pictures["pairs"][side][0]["values"])) for side in ("before", "after")
        )
        assert after - before == other.total.macs - analysis.total.macs
        assert page["costly_title"] == "What changed most"


def test_command_writes_a_page_of_a_saved_result(analysis, tmp_path, capsys):
    saved, target = str(tmp_path / "saved.json"), str(tmp_path / "report.html")
    analysis.save(saved)
    assert main(["report", saved, "-o", target]) == 0
    assert archcost.load_result(target).to_dict() == analysis.to_dict()
    assert main(["report", target, "-o", target]) == 2  # exists
    assert main(["report", saved, "-o", target, "--force", "--dtype", "fp16"]) == 2
    assert "leave --dtype out" in capsys.readouterr().err
    assert main(["report", saved]) == 2
    assert "give -o report.html" in capsys.readouterr().err


def test_command_measures_the_model_for_its_page(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text("from torch import nn\ndef net(): return nn.Conv2d(3, 4, 3)\n")
    monkeypatch.setenv("ARCHCOST_STORE", ":memory:")
    asked = [str(tmp_path / "net.py:net"), "--input-size", "1,3,16,16", "--measure", "--seconds", "2"]
    for name, more in {"whole.html": [], "times.html": ["--no-propose"]}.items():
        assert main(["report", *asked, *more, "-o", str(tmp_path / name)]) == 0
    found = archcost.load_result(tmp_path / "whole.html")
    assert isinstance(found, archcost.Proposals)
    assert found.timed.context is not None
    assert isinstance(archcost.load_result(tmp_path / "times.html"), archcost.Measured)


def test_result_of_any_command_is_a_page_where_the_file_is_html(tmp_path, capsys):
    (tmp_path / "net.py").write_text("from torch import nn\ndef net(): return nn.Conv2d(3, 4, 3)\n")
    asked = [str(tmp_path / "net.py:net"), "--input-size", "1,3,16,16"]
    assert main(["analyze", *asked, "-o", str(tmp_path / "page.html")]) == 0
    assert isinstance(archcost.load_result(tmp_path / "page.html"), archcost.Analysis)
    assert main(["analyze", *asked, "--format", "html", "-o", str(tmp_path / "same.html")]) == 0
    assert isinstance(archcost.load_result(tmp_path / "same.html"), archcost.Analysis)
    assert capsys.readouterr().err == "".join(
        f"archcost: wrote {tmp_path / name}\n" for name in ("page.html", "same.html")
    )
    assert main(["analyze", *asked, "--format", "html"]) == 0
    assert "<!doctype" not in capsys.readouterr().out


def test_equal_peaks_of_memory_are_all_named():
    block = nn.Sequential(nn.Conv2d(4, 16, 1), nn.ReLU(), nn.Conv2d(16, 4, 1))
    found = archcost.analyze(nn.Sequential(*(deepcopy(block) for _ in range(6))), input_size=(1, 4, 8, 8))
    memory = next(one for one in pictures_of(found)[0]["pictures"] if "peak" in one["title"])
    values = memory["measures"][0]["values"]
    assert len(memory["marks"]) == 5  # the first block reads the input, which is not counted
    assert {values[at] for at in memory["marks"]} == {max(values)}
    assert memory["mark_text"] == (
        "peak 9.22 kB in 1.1 (relu); as much again in 2.1, 3.1, 4.1 and 1 more of the same height"
    )


def test_growth_of_a_single_step_is_not_drawn():
    model = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.Flatten(), nn.Linear(64, 2))
    titles = [
        one["title"] for one in pictures_of(archcost.analyze(model, input_size=(1, 3, 16, 16)))[0]["pictures"]
    ]
    assert "How does the receptive field grow?" not in titles


def test_what_costs_most_is_also_what_a_module_computes_itself():
    first, *_ = costly(archcost.analyze("torchvision:vit_b_16"))
    assert first.head == "encoder.layers.encoder_layer_0.self_attention and 11 like it"
    kinds = "linear layers and other matrix products 88.6 %, attention itself 11.4 %"
    assert first.text == f"6.29 G MACs, 35.8 % of all: MultiheadAttention ({kinds})"


def test_what_takes_most_time_is_any_module_not_convolutions_alone():
    whole = made_up.measured()
    calls = whole.context.calls
    slow = replace(calls[0], name="pool", type="MaxPool2d", median_s=1.0)
    context = replace(whole.context, calls=(*calls, slow))
    first, *_ = page_of_times(replace(whole, context=context)).costly
    assert (first.head, first.text.endswith("MaxPool2d")) == ("pool", True)
    assert page_of_times(whole).costly[0].head == "mask"
