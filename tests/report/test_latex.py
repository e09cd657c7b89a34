"""LaTeX of every result: the rules of booktabs, and no character that TeX would take for its own."""

import re

import pytest
from torch import nn

import archcost
from archcost.report.latex import latex_text


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("a_b & 5 % {x} #1 $2", r"a\_b \& 5 \% \{x\} \#1 \$2"),
        (
            "<0.1 ~ \\ ^ > |",
            r"\textless{}0.1 \textasciitilde{} \textbackslash{} \textasciicircum{} \textgreater{} \textbar{}",
        ),
        ("3×3 → µs μs ≥ 2³", r"3$\times$3 $\rightarrow$ µs \textmu{}s $\geq$ 2³"),
        (
            "[k] *all --top `it's`",
            r"{[}k{]} {*}all {-}{-}top \textasciigrave{}it\textquotesingle{}s\textasciigrave{}",
        ),
        ("größe ą 層 \t\x00", "größe a ? ??"),
        ("└ layer1\N{NO-BREAK SPACE}…", r"layer1~\dots{}"),
    ],
)
def test_special_characters_are_escaped(text, safe):
    assert latex_text(text) == safe


def test_a_table_is_no_wider_than_a_page():
    long = "a_module_of_a_very_long_name_that_no_line_of_an_article_has_room_for_even_where_it_stands_alone"
    model = nn.Sequential()
    model.add_module(long, nn.Conv2d(3, 4, 3))
    text = archcost.analyze(model, input_size=(1, 3, 8, 8)).to_latex(by="modules")
    assert text.startswith("% Columns left out for the width of a page: ")
    name = re.search(r"\\begin\{tabular\}\[t\]\{@\{\}l@\{\}\}(.*?)\\end\{tabular\}", text)[1]
    assert name.replace(r" \\ ", "").replace("\\", "") == f"{long} (Conv2d)"
    assert max(map(len, name.replace("\\_", "_").split(r" \\ "))) <= 76


@pytest.mark.parametrize("result", ["analysis", "sweep", "step", "footprint"])
def test_a_result_is_a_table_of_booktabs(result, tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    found = {
        "analysis": lambda: archcost.analyze(model, input_size=(1, 3, 8, 8)),
        "sweep": lambda: archcost.sweep(model, [8, 16], progress=False),
        "step": lambda: archcost.training_step(model, input_size=(1, 3, 8, 8)),
        "footprint": lambda: archcost.footprint(model, input_size=(1, 3, 8, 8)),
    }[result]()
    text = found.to_latex()
    text = re.sub(r"^%.*\n", "", text)
    tables = text.count(r"\begin{tabular}{")
    assert tables >= 1
    for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\caption{", r"\end{table}"):
        assert text.count(rule) == tables
    body = re.sub(r"\\[&%$#_{}]", "", text)
    for line in body.splitlines():
        if line.endswith(r"\\"):
            assert line.count("&") == body.partition("\\begin{tabular}{")[2].index("}") - 1 or tables > 1
    assert not re.search(r"[#$^~_]|(?<!\\)%", body)
    found.to_latex(tmp_path / "t.tex")
    assert (tmp_path / "t.tex").read_text(encoding="utf-8").endswith(text)


def test_cite_prints_bibtex(capsys):
    from archcost.cli import main

    assert main(["cite"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("@software{archcost,")
    assert archcost.__version__ in out
    assert out.count("{") == out.count("}")
