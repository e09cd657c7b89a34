"""pdflatex sets every result with booktabs alone: no error, no letter missing, no line too wide."""

import re
import shutil
import subprocess

import pytest
import torch
from golden import made_up
from golden.models import branches, recurrent, slim, transformer, uncountable
from torch import nn

import archcost
from archcost import Budget
from archcost.fleet.result import Failed, FleetRow, FleetRun
from archcost.fleet.zoo import MeasuredZoo, ZooModel
from archcost.latency.store import listing
from archcost.latency.store.store import Store
from archcost.learn.winograd import winograd
from archcost.paths.listing import listed
from archcost.report.latex import latex_text
from helpers.trained import drawn, trained

IMAGES = drawn(64, 2)[0]
SIZE = made_up.SIZE
RULES = ["bottleneck", "asymmetric"]
SMALL = {"batches": IMAGES, "trials": 1, "random_weights": True}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed"),
]


def hostile():
    """A model whose names are what TeX takes for its own."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    for name in (
        "a_b",
        "50%",
        "#1",
        "x&y",
        "$z$",
        "[k]",
        "*",
        "--",
        "µ",
        "größe",
        "\\relax",
        "{",
        "^~",
        "層",
    ):
        net.add_module(name, nn.Conv2d(4, 4, 1))
    return net


def results(tmp_path):
    model = branches()  # kept, for an Analysis does not
    analysis = archcost.analyze(model, input_size=SIZE)
    raced = archcost.propose(analysis, rules=RULES, names=["stem", "blocks*"], store=False, progress=False)
    yield analysis
    yield archcost.analyze(transformer(), input_size=(2, 7), dtype=torch.int64)
    yield archcost.analyze(recurrent(), input_size=(2, 5, 6))
    yield archcost.analyze(uncountable(), input_size=(1, 3, 16, 16))
    yield archcost.compare(branches(), slim(), input_size=SIZE)
    yield archcost.diff(analysis, archcost.analyze(slim(), input_size=SIZE))
    yield archcost.analysis.crosscheck(recurrent(), input_size=(2, 5, 6))
    yield archcost.receptive_field(analysis)
    yield archcost.receptive_field(analysis, layer="stem", position=(3, 4))
    yield archcost.spectrum(branches())
    yield archcost.sweep(branches(), [16, 32, 64], batch=[1, 2], memory="1 GB", progress=False)
    yield archcost.training_step(branches(), input_size=SIZE)
    yield archcost.largest_batch(branches(), SIZE, memory="1 GB")
    yield archcost.footprint(analysis, flash="1 KB", sram="1 KB")
    yield made_up.measured()
    yield made_up.acceleration()
    yield raced
    yield archcost.rewrite(branches(), torch.rand(SIZE), rules=RULES, store=False, progress=False)
    yield archcost.optimize(trained(), IMAGES[:1], budget=Budget(macs=0.5, flash="1 MB"), **SMALL)
    yield archcost.frontier(trained(), IMAGES[:1], points=(0.6,), **SMALL)
    yield archcost.zoo("squeezenet1_1")
    yield archcost.recover(trained(), trained(), IMAGES)
    yield archcost.effective_field(branches(), layer="blocks.1", input_size=SIZE)
    yield winograd(torch.rand(5, 5), torch.rand(3, 3))
    yield listed()
    yield listed(["fft", "direct"])
    made_up.fill_store(tmp_path / "store.sqlite")
    with Store(tmp_path / "store.sqlite") as store:
        yield listing.listed(store)
    device = "Intel(R) Xeon(R) @ 2.10GHz #1 & 50 % of {a_b}"
    yield MeasuredZoo(device, 1, 1, "eager", (ZooModel("resnet18", 69.76, 11, 12, 3.5, True),))
    row = FleetRow("torchvision:resnet18", device, 1, 1, "eager", 10**9, 3.5, 0.1, "fft_16", 0.5)
    yield FleetRun("a_store.sqlite", (row,), (Failed(device, "a_b", "100 % full", "log"),))


def compiled(parts, folder):
    """The log of pdflatex."""
    text = "\n\\clearpage\n".join(parts)
    head = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n"
    (folder / "all.tex").write_text(f"{head}{text}\n\\end{{document}}\n", encoding="utf-8")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "all.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    log = (folder / "all.log").read_text(errors="replace")
    assert done.returncode == 0, "\n".join(re.findall(r"^!.*(?:\n.*){6}", log, re.MULTILINE))
    return log


def test_every_result_is_set(tmp_path):
    names = archcost.analyze(hostile(), input_size=(1, 3, 9, 9)).to_latex(by="modules")
    log = compiled([names, *(one.to_latex() for one in results(tmp_path))], tmp_path)
    assert "Missing character" not in log
    assert not re.findall(r"Overfull \\hbox \(\d{2,}", log)


def test_every_letter_is_set(tmp_path):
    letters = [chr(code) for code in range(1, 0x2600)]
    lines = ["".join(map(latex_text, letters[at : at + 64])) for at in range(0, len(letters), 64)]
    assert "Missing character" not in compiled(["\n\n".join(lines)], tmp_path)
