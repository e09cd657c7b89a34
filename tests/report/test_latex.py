"""LaTeX of every result: the rules of booktabs, and no character that TeX would take for its own."""

import re

import pytest
from torch import nn

import archcost
from archcost.report.latex import latex_text


def test_special_characters_are_escaped():
    assert latex_text("a_b & 5 % {x} <0.1 ~ \\") == (
        r"a\_b \& 5 \% \{x\} \textless{}0.1 \textasciitilde{} \textbackslash{}"
    )


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
    tables = text.count(r"\begin{tabular}")
    assert tables >= 1
    for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\caption{", r"\end{table}"):
        assert text.count(rule) == tables
    body = re.sub(r"\\[&%$#_{}]", "", text)
    for line in body.splitlines():
        if line.endswith(r"\\"):
            assert line.count("&") == body.partition("\\begin{tabular}{")[2].index("}") - 1 or tables > 1
    assert not re.search(r"[#$^~_]|(?<!\\)%", body)
    found.to_latex(tmp_path / "t.tex")
    assert (tmp_path / "t.tex").read_text(encoding="utf-8") == text


def test_cite_prints_bibtex(capsys):
    from archcost.cli import main

    assert main(["cite"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("@software{archcost,")
    assert archcost.__version__ in out
    assert out.count("{") == out.count("}")
