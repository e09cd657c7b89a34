"""The page is one file that holds its result, asks nothing of the network, and keeps names as text."""

import base64
import hashlib
import json
import re
from copy import deepcopy
from dataclasses import replace

import pytest
from golden import made_up
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
    assert memory["measures"][0]["values"][memory["mark"]] == analysis.total.peak_memory_bytes
    assert all(one["first"] <= memory["mark"] <= one["last"] for one in memory["spans"])
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
    (times,) = pictures["tiles"]["measures"]
    assert times["values"][0] == pytest.approx(found.context.total * 1e3)
    dots = pictures["dots"]
    (at,) = [i for i, name in enumerate(dots["names"]) if name == "wide"]
    attainable = min(dots["ceiling"], dots["slope"] * dots["x"][at])
    assert dots["y"][at] / attainable == pytest.approx(found["wide"].roofline_share)
    paths = pictures["choices"]
    fastest = min(paths["bars"][paths["groups"][0]], key=lambda bar: bar[1][0])
    assert (fastest[0], fastest[1][0]) == (found.layers[0].best_path, pytest.approx(found.layers[0].best_ms))


def test_page_of_proposals_says_the_gain_and_that_errors_are_not_known(analysis):
    model = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 5))
    found = archcost.propose(model, input_size=(1, 8, 16, 16), errors=False, store=False)
    page, pictures = pictures_of(found)
    assert "errors of the proposals are not known" in page["warnings"][0]
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
    where, what, _ = page["advice"]
    assert where["text"] == (
        "linear layers and other matrix products 87.7 %, convolutions 12.3 % of the MACs; the rules replace "
        "convolutions only"
    )
    assert "; pointwise first, PyTorch runs its grouped convolution slowly: " in what["text"]
    assert "2.00x as fast here (unreliable: other processes interrupted every sample)" in what["text"]
    assert f"Where the cost is: {where['text']}" in found.to_text()
    (cheaper,) = [one["text"] for one in pictures_of(found.analysis)[0]["advice"]]
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


def test_what_costs_most_is_also_what_a_module_computes_itself():
    first, *_ = costly(archcost.analyze("torchvision:vit_b_16"))
    assert first.head == "encoder.layers.encoder_layer_0.self_attention and 11 like it"
    assert first.text == "6.29 G MACs, 35.8 % of all: MultiheadAttention"


def test_what_takes_most_time_is_any_module_not_convolutions_alone():
    whole = made_up.measured()
    calls = whole.context.calls
    slow = replace(calls[0], name="pool", type="MaxPool2d", median_s=1.0)
    context = replace(whole.context, calls=(*calls, slow))
    first, *_ = page_of_times(replace(whole, context=context)).costly
    assert (first.head, first.text.endswith("MaxPool2d")) == ("pool", True)
    assert page_of_times(whole).costly[0].head == "mask"
