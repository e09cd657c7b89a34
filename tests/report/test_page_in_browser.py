"""The page in headless Chromium: opens without an error, switches, zooms, sorts, filters, and is accessible.

Skipped where Playwright or Chromium is missing: ``pip install playwright axe-playwright-python`` and
Debian's ``chromium``.
"""

import re
import shutil
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
from golden.made_up import acceleration, measured
from torch import nn

import archcost
from helpers.trained import drawn, trained

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]

IMAGES = drawn(128, 5)[0]
HOSTILE = "<img src=x onerror=document.title='hacked'>"


class Residual(nn.Module):
    def __init__(self, width, kernel):
        super().__init__()
        self.conv = nn.Conv2d(width, width, kernel, padding=kernel // 2)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x):
        return x + self.norm(self.conv(x)).relu()


def network(*kernels, blocks=4):
    body = nn.Sequential(*(Residual(8, kernel) for kernel in kernels for _ in range(blocks)))
    stem = nn.Conv2d(3, 8, 7, stride=2, padding=3)
    model = nn.Sequential(stem, body, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.add_module(HOSTILE.replace(".", ""), nn.Linear(8, 10))
    return model


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The files of a page of each kind."""
    folder = tmp_path_factory.mktemp("pages")
    analysis = archcost.analyze(network(3, 5), input_size=(1, 3, 64, 64))
    other = archcost.analyze(network(3), input_size=(1, 3, 64, 64))
    results = {
        "analysis": analysis,
        "proposals": archcost.propose(network(3, 5), input_size=(1, 3, 64, 64), errors=False, store=False),
        "comparison": archcost.compare(analysis, other),
        "difference": archcost.diff(analysis, other),
        "measured": measured(),
        "rewritten": archcost.rewrite(network(3, 5), input_size=(1, 3, 64, 64), rules=["asymmetric"]),
        "acceleration": acceleration(),
        "optimized": archcost.optimize(trained(), IMAGES[:1], budget=0.4, batches=IMAGES, trials=2),
        "frontier": archcost.frontier(trained(), IMAGES[:1], batches=IMAGES, points=(0.7, 0.4), trials=1),
        "sweep": archcost.sweep(network(3), input_size=[(1, 3, side, side) for side in (8, 32, 64)]),
        "spectrum": archcost.spectrum(network(3, 5)),
    }
    for name, result in results.items():
        result.to_html(folder / f"{name}.html")
    return {name: folder / f"{name}.html" for name in results}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as made:
        found = made.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser):
    """A function that opens a file; at the end the console must be empty, and nothing was asked for."""
    contexts, said = [], []

    def open_(path, width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if request.url != page.url else None)
        page.goto(Path(path).as_uri())
        page.wait_for_selector("html[data-ready]", timeout=20_000)
        said[:] = [text for text in said if text != Path(path).as_uri()]
        return page

    yield open_
    assert said == []
    for context in contexts:
        context.close()


KINDS = (
    *("analysis", "proposals", "comparison", "difference", "measured", "rewritten", "acceleration"),
    *("optimized", "frontier", "sweep", "spectrum"),
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("kind", KINDS)
def test_page_opens_and_fits_the_width(opened, pages, kind, width, scheme):
    page = opened(pages[kind], width, scheme)
    assert page.locator("h1").count() == 1
    assert page.locator("section").count() >= 2
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("tbody tr").count() > 0


@pytest.mark.skipif(find_spec("axe_playwright_python") is None, reason="needs axe-playwright-python")
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
@pytest.mark.parametrize("kind", KINDS)
def test_axe_finds_nothing(opened, pages, kind, width, scheme):
    page = opened(pages[kind], width, scheme)
    source = next(Path(find_spec("axe_playwright_python").origin).parent.glob("axe.min.js"))
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    page.evaluate(source.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run().then((run) => run.violations.map((one) => [one.id, one.nodes[0].html]))")
    assert found == []


def test_tiles_below_equal_modules_are_as_wide_as_all_of_them(opened, tmp_path):
    """Blocks of blocks of one convolution, which has all the MACs, so that every row is full."""
    blocks = nn.Sequential(*(nn.Sequential(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1))) for _ in range(11)))
    archcost.analyze(nn.Sequential(blocks), input_size=(1, 8, 16, 16)).to_html(tmp_path / "deep.html")
    page = opened(tmp_path / "deep.html")
    rows: dict[float, float] = {}
    for tile in page.locator(".icicle").first.locator(".tile").all():
        box = tile.bounding_box()
        rows[box["y"]] = rows.get(box["y"], 0) + box["width"]
    assert len(rows) == 5
    assert min(rows.values()) > 0.98 * max(rows.values()), rows


def test_tiles_beside_each_other_do_not_overlap(opened, tmp_path):
    """Layers of very different sizes on a narrow screen, so that many tiles are thin."""
    widths = [3, 4, 40, 4, 4, 60, 5, 8, 30, 2, 2, 50, 3]
    layers = [nn.Sequential(nn.Conv2d(a, b, 3, padding=1)) for a, b in pairwise(widths)]
    archcost.analyze(nn.Sequential(*layers), input_size=(1, 3, 16, 16)).to_html(tmp_path / "thin.html")
    page = opened(tmp_path / "thin.html", width=390)
    rows: dict[float, list[tuple[float, float]]] = {}
    for tile in page.locator(".icicle .tile").all():
        box = tile.bounding_box()
        rows.setdefault(box["y"], []).append((box["x"], box["x"] + box["width"]))
    assert sum(map(len, rows.values())) > 10
    for row in rows.values():
        row.sort()
        assert all(right <= left + 0.01 for (_, right), (left, _) in pairwise(row)), row


def test_tile_of_equal_modules_has_the_sum_of_their_measured_times(opened, tmp_path):
    """Equal blocks that do not take equal times: the tiles below them are the sums over all blocks."""
    blocks = nn.Sequential(*(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()) for _ in range(5)))
    analysis = archcost.analyze(blocks, input_size=(1, 8, 16, 16))
    whole = measured()
    times = [replace(whole.context.calls[0], name=f"{at}.0", median_s=at / 1000) for at in range(5)]
    found = replace(whole, analysis=analysis, context=replace(whole.context, calls=tuple(times)))
    found.to_html(tmp_path / "times.html")
    page = opened(tmp_path / "times.html")
    assert page.get_by_role("button", name="Measured time").get_attribute("aria-pressed") == "true"
    labels = [one.get_attribute("aria-label") for one in page.locator(".icicle .tile").all()]
    assert "1–4 ×4, Sequential, 10.000 ms" in labels
    assert "0, Conv2d, 10.000 ms" in labels


def test_hostile_name_is_text_and_runs_nothing(opened, pages):
    page = opened(pages["analysis"])
    assert page.locator("img").count() == 0
    assert page.locator("tbody th", has_text=HOSTILE.replace(".", "")).count() == 1
    assert "hacked" not in page.title()


def test_policy_stops_what_the_page_did_not_bring(browser, pages):
    page = browser.new_page()
    page.goto(pages["analysis"].as_uri())
    page.wait_for_selector("html[data-ready]")
    page.evaluate(
        "const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
        "document.body.append(s);"
        "const i = document.createElement('img'); i.setAttribute('onerror', 'window.ran = 2'); i.src = 'x';"
        "document.body.append(i)"
    )
    page.wait_for_timeout(200)
    assert page.evaluate("window.ran") is None
    page.close()


def test_theme_is_switched(opened, pages):
    page = opened(pages["analysis"], scheme="light")
    back = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(back)
    page.get_by_role("button", name="dark").click()
    assert page.evaluate(back) != light
    page.get_by_role("button", name="light").click()
    assert page.evaluate(back) == light


def test_icicle_collapses_zooms_and_switches(opened, pages):
    page = opened(pages["analysis"])
    tiles = page.locator(".tile")
    assert page.locator(".tile", has_text="×").count() > 0
    collapsed = tiles.count()
    page.get_by_label("equal neighbours as one").uncheck()
    assert tiles.count() > collapsed
    page.locator(".tile", has_text="1").first.click()
    assert page.locator(".crumbs button").count() == 1
    page.keyboard.press("ArrowDown")
    focused = page.evaluate("document.activeElement.getAttribute('aria-label')")
    page.keyboard.press("Enter")
    assert page.locator(".crumbs button").count() == 2
    assert page.locator(".crumbs span").inner_text() in focused
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    assert page.locator(".crumbs button").count() == 0
    page.get_by_role("button", name="Parameters").first.click()
    assert "parameters" in page.locator(".icicle ~ .readout").inner_text()


def test_cursor_moves_along_a_chart_by_keys(opened, pages):
    page = opened(pages["analysis"])
    chart = page.get_by_role("slider", name="When is memory at its peak")
    at = int(chart.get_attribute("aria-valuenow"))
    chart.focus()
    page.keyboard.press("ArrowRight")
    assert int(chart.get_attribute("aria-valuenow")) == at + 1
    page.keyboard.press("Home")
    assert chart.get_attribute("aria-valuetext").startswith("1 of ")


def test_table_sorts_filters_expands_and_chooses_columns(opened, pages):
    page = opened(pages["analysis"])
    table = page.locator("table").first
    rows = table.locator("tbody tr")
    tree = rows.count()
    table.get_by_role("button", name="MACs", exact=True).click()
    first = rows.first.inner_text()
    table.get_by_role("button", name="MACs ▼").click()
    assert table.locator("th[aria-sort=ascending]").count() == 1
    assert rows.first.inner_text() != first
    table.get_by_role("button", name="MACs ▲").click()
    assert rows.count() == tree
    page.get_by_role("button", name="open all").click()
    opened_rows = rows.count()
    page.get_by_role("button", name="close all").click()
    assert rows.count() < opened_rows
    page.get_by_label("Filter modules").fill("norm batchnorm")
    assert rows.count() == 8
    page.locator("details.columns summary").first.click()
    page.get_by_label("Type", exact=True).check()
    assert table.get_by_role("columnheader", name="Type").count() == 1


def test_table_is_copied_as_markdown_and_csv(opened, pages):
    page = opened(pages["analysis"])
    page.evaluate("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    page.get_by_role("button", name="copy as markdown").click()
    page.wait_for_function("window.copied")
    lines = page.evaluate("window.copied").splitlines()
    assert lines[0].startswith("| Module | Output |")
    assert set(lines[1]) <= set("|- :")
    assert any("\\<img" in line for line in lines)
    page.get_by_role("button", name="copy as CSV").click()
    page.wait_for_function("window.copied.startsWith('Module,')")
    assert page.evaluate("window.copied").count("\n") == len(lines) - 1


def test_flow_shows_where_a_residual_joins(opened, pages):
    page = opened(pages["analysis"])
    assert page.locator(".flow circle.join").count() >= 1
    assert page.locator(".flow .edge.skip").count() >= 1
    assert page.locator(".flow li", has_text="add").count() >= 1


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 8)).unbind(-2)
        return x + (q @ k.transpose(-2, -1)).softmax(-1) @ v


def test_flow_leaves_views_out_until_they_are_asked_for(opened, tmp_path):
    archcost.analyze(nn.Sequential(Attention()), input_size=(1, 4, 8)).to_html(tmp_path / "page.html")
    page = opened(tmp_path / "page.html", width=390)
    rows = page.locator(".flow li")
    assert rows.filter(has_text="transpose").count() == 0
    assert rows.filter(has_text="softmax").count() >= 1
    page.get_by_label("with views").check()
    assert rows.filter(has_text="transpose").count() >= 1


def test_lines_without_a_share_are_not_numbered(opened, pages):
    page = opened(pages["proposals"])
    advice = page.locator("section.points", has_text="What to do about it")
    assert advice.locator("ol li").count() >= 1
    assert advice.locator("ol li", has_text="To have it").count() == 0
    assert advice.locator("ul li", has_text="To have it").count() == 1


def test_wide_table_scrolls_by_keys_and_shows_that_there_is_more(opened, pages):
    page = opened(pages["analysis"], width=390)
    frame = page.locator(".edges", has=page.locator("table")).first
    box = frame.locator("> [tabindex='0'][role=region]")
    assert "after" in frame.get_attribute("class")
    box.focus()
    page.keyboard.press("ArrowRight")
    playwright.expect(frame).to_have_class(re.compile("before"))
    box.evaluate("(one) => one.scrollTo(one.scrollWidth, 0)")
    playwright.expect(frame).not_to_have_class(re.compile("after"))


def test_depth_chart_of_a_measurement_has_a_step_for_each_call(opened, pages):
    page = opened(pages["measured"])
    chart = page.get_by_role("slider", name="Where along the depth does the time go?")
    assert int(chart.get_attribute("aria-valuemax")) == len(measured().context.calls)


def test_roofline_has_a_dot_for_each_layer_and_a_key(opened, pages):
    page = opened(pages["measured"])
    assert page.locator(".dot.k0, .dot.k1").count() > 3
    paths = page.get_by_role("combobox", name="Layer")
    before = page.locator(".pairs").inner_text()
    paths.select_option(index=1)
    assert page.locator(".pairs").inner_text() != before


def test_frontier_has_a_curve_for_each_way_to_choose(opened, pages):
    page = opened(pages["frontier"])
    chart = page.get_by_role("slider", name="How far do the outputs move as the MACs shrink?")
    ways = page.locator(".key li").all_inner_texts()
    assert chart.locator(".curve").count() == len(ways) == 3
    chart.focus()
    page.keyboard.press("End")
    assert chart.get_attribute("aria-valuetext").split(" by ")[1].split(":")[0] in ways


def test_three_thousand_layers_stay_responsive(opened, tmp_path):
    """A bound far above what it takes (see docs/report.md), so that a slow machine passes."""
    model = nn.Sequential(*(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()) for _ in range(1500)))
    archcost.analyze(model, input_size=(1, 4, 4, 4)).to_html(tmp_path / "page.html")
    page = opened(tmp_path / "page.html")
    took = page.evaluate(
        """async () => {
          const frame = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
          const times = [];
          const act = async (what) => {
            const start = performance.now();
            what();
            await frame();
            times.push(performance.now() - start);
          };
          await act(() => document.querySelectorAll(".tile")[1].click());
          await act(() => document.querySelector("thead button").click());
          for (let i = 0; i < 10; i += 1) await act(() => window.scrollBy(0, 3000));
          return Math.max(...times);
        }"""
    )
    assert took < 2000
