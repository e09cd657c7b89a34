"""Every output that people see, whole, as the files in tests/golden have it.

`ARCHCOST_WRITE_GOLDEN=1 pytest tests/test_golden.py` writes them anew: read the diff before you commit it.
"""

import contextlib
import difflib
import io
import os
import re
import shutil
import sys
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest
import torch
import torchvision
from golden import made_up
from golden.models import branches, recurrent, slim, transformer, uncountable
from torch import nn

import archcost
from archcost import ConvSpec, kernels
from archcost.cli import COMMANDS, main
from archcost.latency.store.fingerprint import fingerprint
from archcost.latency.store.store import Store
from helpers.versions import OLDER

FOLDER = Path(__file__).parent / "golden"
WRITE = os.environ.get("ARCHCOST_WRITE_GOLDEN") == "1"
SIZE = made_up.SIZE
CNN = ["models.py:branches", "--input-size", "1,3,32,32"]
SLIM = ["models.py:slim", "--input-size", "1,3,32,32"]
RULES = ["bottleneck", "asymmetric"]
QUICK = {"store": False, "progress": False}


def steady(text):
    """A word for this machine, its folders and for versions; long fractions to three digits."""
    text = text.replace(str(fingerprint()), "DEVICE")
    text = re.sub(r"(torch/[\w/]+\.py):\d+", r"\1:LINE", text.replace(f"{FOLDER}/", ""))
    text = re.sub(r'"(archcost|torch)": "[^"]*"', r'"\1": "VERSION"', text)
    return re.sub(r"(?<![\w.])\d+\.\d{4,}(e[+-]?\d+)?(?![\w.])", lambda m: f"{float(m[0]):.3g}", text)


def as_older_versions_say(text):
    """Python 3.10 knows no columns of source text; normalization layers of PyTorch 2.8 do not show `bias`."""
    if sys.version_info < (3, 11):
        text = re.sub(r"(models\.py:\d+):\d+", r"\1", text)
    return re.sub(r"(affine=True), bias=True", r"\1", text) if OLDER else text


def run(*arguments, columns=None, files=()):
    """A command, what it prints, its exit code, and the files it writes."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        if columns:
            patch.setenv("COLUMNS", str(columns))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main(arguments)
            except SystemExit as stopped:
                code = stopped.code
    text = out.getvalue()
    text += f"--- stderr\n{err.getvalue()}" * bool(err.getvalue()) + f"--- exit code {code}\n" * bool(code)
    return text + "".join(f"--- {name}\n{Path(name).read_text(encoding='utf-8')}" for name in files)


def usage(*command):
    """Its help, an option a line: how lines break, and how `-o` is written, depends on Python's version."""
    text = run(*command, "--help", columns=100)
    text = re.sub(r"(-\w) [A-Z]+, (--\w+ )", r"\1, \2", re.sub(r"\n {10,}", " ", text))
    return re.sub(r"(?<=\S) +", " ", text)


def misused():
    """What wrong command lines get, without the usage above it."""
    lines = (
        *("analyze", "analyze x --input-size 1,a", "analyze x --depth -1", "analyze x --operations"),
        *(
            "compare x",
            "diff",
            "paths x",
            "field x --position a",
            "propose x --ratio 2",
            "propose x --rules y",
        ),
    )
    ends = (run(*line.split()).splitlines()[-2:] for line in lines)
    return "".join(
        f"$ archcost {line}\n" + "\n".join(end) + "\n" for line, end in zip(lines, ends, strict=True)
    )


def said(function):
    """The error of a wrong call."""
    with pytest.raises(archcost.ArchcostError) as raised:
        function()
    return f"{type(raised.value).__name__}: {raised.value}\n"


def analyzed(model, size=SIZE, **options):
    return archcost.analyze(model(), input_size=size, progress=False, **options)


@cache
def rewritten():
    found = archcost.rewrite(branches(), torch.linspace(-1, 1, 3 * 32 * 32).view(SIZE), rules=RULES, **QUICK)
    object.__setattr__(found, "speed", made_up.RACE)
    return found


@cache
def result(name):
    return {
        "model": branches,  # kept, for an Analysis does not
        "analysis": lambda: analyzed(lambda: result("model")),
        "transformer": lambda: analyzed(transformer, (2, 7), dtype=torch.int64),
        "recurrent": lambda: analyzed(recurrent, (2, 5, 6)),
        "uncountable": lambda: analyzed(uncountable, (1, 3, 16, 16)),
        "comparison": lambda: archcost.compare(branches(), slim(), input_size=SIZE),
        "measured": made_up.measured,
        "acceleration": made_up.acceleration,
        "interrupted": lambda: replace(made_up.measured(), interrupted=True, context=None, cold=True),
        "few": lambda: archcost.propose(result("analysis"), rules=RULES, names=["stem", "blocks*"], **QUICK),
        "one": lambda: replace(result("raced"), proposals=result("raced").proposals[:1]),
        "raced": lambda: replace(
            result("few"), proposals=tuple(replace(one, race=made_up.RACE) for one in result("few").proposals)
        ),
        "rewritten": rewritten,
    }[name]()


def shown(name, way, **options):
    found = getattr(result(name), way)(**options)
    return found if isinstance(found, str) else "".join(f"{key} = {value}\n" for key, value in found.items())


def table(name, width):
    """What `print` would show on a terminal of that width."""
    return shown(name, "to_text", width=width)


def difference(*options, columns=None):
    """Two saved models: a larger kernel, a block more, a module renamed."""
    if sys.version_info < (3, 11):
        pytest.skip("where a module was built has no column before Python 3.11")
    for name in ("branches", "rebuilt"):
        archcost.analyze(f"models.py:{name}", input_size=SIZE, progress=False).save(f"{name}.json")
    limits = ("--fail-on", "macs>+5%", "--fail-on", "params>+1M")
    return run("diff", "branches.json", "rebuilt.json", *limits, *options, columns=columns)


def listed(action, *options, **how):
    made_up.fill_store("made-up.sqlite")
    return run("store", action, "--store", "made-up.sqlite", *options, **how)


def measure(*options, columns=None):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("archcost.latency.measure.measure", lambda *_, **__: made_up.measured())
        return run("measure", *CNN, *options, columns=columns)


def paths(*options, columns=None):
    """With compiled kernels, whichever instructions they are for."""
    if kernels.isa() is None:
        pytest.skip("it lists what compiled kernels serve, and there are none")
    before, _, end = run("paths", *options, columns=columns).rpartition("\nKernels: ")
    end = " ".join(end.split()) + "\n"  # its lines break elsewhere
    return f"{before}\nKernels: " + re.sub(r"built for .*? in use;", "built for ISA, ISA in use;", end)


def paths_alone():
    with kernels.disabled():
        return run("paths").splitlines()[-1] + "\n"


CASES = {"help.txt": usage, "usage-wrong.txt": misused}
for command in (one.__name__.rpartition(".")[2] for one in COMMANDS):
    CASES[f"help-{command}.txt"] = partial(usage, command)
for action in ("list", "export", "import", "prune", "path"):
    CASES[f"help-store-{action}.txt"] = partial(usage, "store", action)

FORMATS = {"markdown": "md", "csv": "csv", "json": "json", "html": "html"}
COMMAND_LINES = {
    "analyze": ["analyze", *CNN],
    "compare": ["compare", CNN[0], *SLIM],
    "propose": ["propose", *CNN, "--store", ":memory:"],
}
HALF = [*SLIM, "--rules", "bottleneck"]
SHORT = {
    "json": {"compare": ["compare", SLIM[0], *SLIM], "propose": ["propose", *HALF]},
    "html": {"propose": ["propose", *HALF]},
    "md": {"propose": ["propose", *HALF]},
}  # where the whole is long
for name, line in COMMAND_LINES.items():
    for columns in (None, 80, 120):
        CASES[f"cli-{name}-{columns or 'pipe'}.txt"] = partial(run, *line, columns=columns)
    for form, ending in FORMATS.items():
        less = SHORT.get(ending, {}).get(name, line)
        CASES[f"cli-{name}.{ending}"] = partial(run, *less, "--format", form)
for columns in (None, 80, 120):
    CASES[f"cli-measure-{columns or 'pipe'}.txt"] = partial(measure, columns=columns)
for columns in (None, 80, 120):
    CASES[f"cli-diff-{columns or 'pipe'}.txt"] = partial(difference, columns=columns)
for form in ("markdown", "csv"):
    CASES[f"cli-diff.{FORMATS[form]}"] = partial(difference, "--format", form)
for form in ("markdown", "csv", "json"):
    CASES[f"cli-measure.{FORMATS[form]}"] = partial(measure, "--format", form)

CASES |= {
    "cli-analyze-verbose-80.txt": partial(run, "analyze", *CNN, "-v", columns=80),
    "cli-analyze-verbose-resnet18.txt": partial(run, "analyze", "torchvision:resnet18", "-v", columns=100),
    "cli-analyze-every.txt": partial(run, "analyze", *SLIM, "--depth", "all"),
    "cli-analyze-top.txt": partial(run, "analyze", *CNN, "--top", "3", "--sort", "params"),
    "cli-analyze-depth.txt": partial(run, "analyze", *CNN, "--depth", "1", "--columns", "name,macs"),
    "cli-analyze-top.csv": partial(run, "analyze", *CNN, "--top", "3", "--format", "csv"),
    "cli-analyze-operations.csv": partial(run, "analyze", *SLIM, "--by", "operations", "--format", "csv"),
    "cli-analyze-operations.json": partial(run, "analyze", *SLIM, "--by", "operations", "--format", "json"),
    "cli-analyze-check.txt": partial(run, "analyze", *CNN, "--check"),
    "cli-analyze-resnet18.txt": partial(run, "analyze", "torchvision:resnet18", columns=100),
    "cli-analyze-failed-80.txt": partial(
        run, "analyze", "models.py:mismatched", "--input-size", "1,3,32,32", columns=80
    ),
    "cli-analyze-wrong.txt": partial(run, "analyze", "models.py:branch"),
    "cli-compare-resnet18.txt": lambda: archcost.compare(
        torchvision.models.resnet18(), nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3)), input_size=(1, 3, 64, 64)
    ).to_text(width=100),
    "cli-field.txt": partial(run, "field", *CNN),
    "cli-field.json": partial(run, "field", *CNN, "--format", "json"),
    "cli-field-layer.txt": partial(run, "field", *CNN, "--layer", "stem", "--position", "3,4", "--verify"),
    "cli-field-effective.txt": partial(run, "field", *CNN, "--layer", "blocks.1", "--effective"),
    "cli-propose-top.txt": partial(
        run, "propose", *CNN, "--store", ":memory:", "--top", "5", "--sort", "weight_error", columns=100
    ),
    "cli-propose-all-80.txt": partial(run, "propose", *CNN, "--store", ":memory:", "--all", columns=80),
    "cli-propose-columns.csv": partial(
        run, "propose", *HALF, "--columns", "name,rule,macs_after,best", "--format", "csv"
    ),
    "cli-paths.txt": paths,
    "cli-paths-alone.txt": paths_alone,
    "cli-paths.json": partial(paths, "--format", "json"),
    "cli-paths-80.txt": partial(paths, columns=80),
    "cli-paths-detail.txt": partial(paths, "fft", "direct"),
    "cli-paths-table.txt": partial(paths, "--columns", "name,supports", "--top", "9"),
    "cli-rewrite.txt": partial(
        run, "rewrite", *HALF, "-o", "new.pt", "--report", "report.md",
        "--python", "layers.py", files=("report.md", "new.plan.json", "layers.py"),
    ),
    "cli-rewrite-80.txt": partial(run, "rewrite", *HALF, "-o", "new.pt", columns=80),
    "cli-rewrite-120.txt": partial(run, "rewrite", *HALF, "-o", "new.pt", columns=120),
    "cli-rewrite.json": partial(
        run, "rewrite", *SLIM, "--layers", "2=bottleneck", "-o", "new.pt", "--format", "json"
    ),
    "cli-rewrite-nothing.txt": partial(run, "rewrite", *SLIM, "--rules", "merge", "-o", "none.pt"),
    "cli-store-list.txt": partial(listed, "list"),
    "cli-store-list-80.txt": partial(listed, "list", columns=80),
    "cli-store-list.json": partial(listed, "list", "--format", "json"),
    "cli-store-list.csv": partial(listed, "list", "--format", "csv"),
    "cli-store-list.md": partial(listed, "list", "--format", "markdown"),
    "cli-store-export.txt": partial(listed, "export"),
    "cli-zoo.txt": partial(run, "zoo", "squeezenet1_1"),
}  # fmt: skip

WAYS = {"to_markdown": "md", "to_csv": "csv", "to_json": "json", "to_html": "html"}
for name, widths in {"acceleration": (80,), "interrupted": (None, 80), "raced": (None, 80, 120)}.items():
    for width in widths:
        CASES[f"{name}-{width or 'wide'}.txt"] = partial(table, name, width)
for name in ("transformer", "recurrent", "uncountable", "rewritten"):
    CASES[f"{name}-100.txt"] = partial(table, name, 100)
for name in ("analysis", "comparison", "measured", "one", "rewritten"):
    CASES[f"{name}-str.txt"] = lambda name=name: f"{result(name)}\n{result(name)!r}\n"
for name, ways in {
    "transformer": ("to_csv", "to_markdown"),
    "recurrent": ("to_markdown",),
    "uncountable": ("to_csv", "to_json"),
    "measured": ("to_html",),
    "acceleration": ("to_csv", "to_json", "to_markdown", "to_html"),
    "raced": ("to_csv", "to_markdown", "to_html"),
    "one": ("to_json",),
    "rewritten": ("to_csv", "to_markdown", "to_html"),
}.items():
    for way in ways:
        CASES[f"{name}.{WAYS[way]}"] = partial(shown, name, way)

CASES |= {
    "analysis-flat.txt": partial(shown, "analysis", "flat", depth=1, prefix="cost/"),
    "analysis-operations.md": partial(shown, "analysis", "to_markdown", by="operations"),
    "measured-paths.csv": partial(shown, "measured", "to_csv", by="paths"),
    "measured-paths.txt": partial(shown, "measured", "to_text", by="paths", top=5),
    "measured-top.txt": partial(
        shown, "measured", "to_text", top=2, columns=["macs", "native_ms", "speedup"]
    ),
    "rewritten-plan.py.txt": lambda: rewritten().plan.to_python(),
    "acceleration.txt": lambda: f"{made_up.acceleration()}\n\n{made_up.acceleration(changed=False)}\n",
    "crosscheck.txt": lambda: f"{archcost.analysis.crosscheck(recurrent(), input_size=(2, 5, 6))}\n",
    "fields.txt": lambda: "".join(
        f"{one}\n{one!r}\n"
        for one in (
            archcost.receptive_field(result("analysis")),
            archcost.receptive_field(result("analysis"), layer="mask", position=(0, 31)),
            ConvSpec(3, 8, 3).receptive_field(),
        )
    ),
    "small.txt": lambda: "".join(
        f"{one}\n{one!r}\n"
        for one in (
            *(made_up.DEVICE, made_up.ROOFLINE, Store(":memory:"), ConvSpec(3, 8, 3)),
            *made_up.measured().predictions.values(),
        )
    ),
    "errors.txt": lambda: "\n".join(map(said, WRONG)),
}
WRONG = [
    lambda: archcost.analyze(torchvision.models.resnet18),
    lambda: archcost.analyze(branches(), (1, 3, 32, 32)),
    lambda: archcost.analyze(branches(), input_size=(3, 32, 32)),
    lambda: archcost.analyze(branches(), input_size=(1, 4, 32, 32)),
    lambda: archcost.analyze("branches"),
    lambda: result("analysis").to_text(columns=["mac"]),
    lambda: result("analysis").to_text(sort="parms"),
    lambda: archcost.receptive_field(result("analysis"), layer="stm"),
    lambda: archcost.receptive_field(result("analysis"), layer="stem", position=(99, 0)),
    lambda: archcost.propose(result("analysis"), rules=["asymetric"]),
    lambda: archcost.propose(result("analysis"), names=["stm"]),
    lambda: archcost.rewrite(branches(), torch.zeros(SIZE), {"stm": "asymmetric"}),
    lambda: archcost.measure(branches(), torch.zeros(SIZE), paths=["winograd-5"]),
    lambda: archcost.accelerate(branches(), torch.zeros(SIZE), tolerance=-1),
    lambda: result("measured")["stm"],
    lambda: ConvSpec(3, 8, 0),
    lambda: ConvSpec(3, 8, 3, groups=2),
    lambda: archcost.stacked_field([]),
    lambda: archcost.convolve(torch.zeros(1, 3, 8, 8), torch.zeros(4, 2, 3, 3)),
]


@pytest.fixture(autouse=True)
def quiet(tmp_path, monkeypatch):
    """A folder with the models, no terminal, one thread, no store of the user's."""
    shutil.copy(FOLDER / "models.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ARCHCOST_STORE", str(tmp_path / "store.sqlite"))
    monkeypatch.setenv("NO_COLOR", "1")
    for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE", "PYTHON_COLORS"):
        monkeypatch.delenv(name, raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", CASES)
def test_what_people_see_is_what_they_saw(name):
    text = steady(CASES[name]())
    file = FOLDER / name
    if WRITE:
        file.write_bytes(text.encode())
    before = as_older_versions_say(file.read_text(encoding="utf-8")) if file.exists() else ""
    lines = difflib.unified_diff(before.splitlines(), text.splitlines(), f"golden/{name}", "now", lineterm="")
    if text != before:
        pytest.fail("\n".join(lines) or "line ends differ", pytrace=False)


def test_every_file_has_its_output():
    there = {file.name for file in FOLDER.iterdir() if file.is_file() and file.suffix != ".py"}
    assert there == set(CASES)
