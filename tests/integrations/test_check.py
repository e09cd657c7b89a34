"""`archcost.check`: findings at the lines that build the layers, exit codes, and what bad input says."""

import sys
from pathlib import Path

import pytest
import torch

import archcost
from archcost.errors import SpecError
from archcost.integrations.checking.codes import CODES, matching, selected
from archcost.latency.store.fingerprint import fingerprint
from archcost.latency.store.measurement import Key, Measurement
from archcost.latency.store.store import Store
from archcost.rewriting import available

COLUMNS = sys.version_info >= (3, 11)
NET = """
from torch import nn


class Block(nn.Module):
    def __init__(self, kernel):
        super().__init__()
        self.conv = nn.Conv2d(32, 32, kernel, padding=kernel // 2)  # block

    def forward(self, x):
        return self.conv(x).relu()


class Net(nn.Module):
    def __init__(self, blocks=2):
        super().__init__()
        self.blocks = nn.Sequential(*(Block(5) for _ in range(blocks)))  # blocks
        self.small = Block(3)  # small

    def forward(self, x):
        return self.small(self.blocks(x))


def larger():
    return Net(3)


def breaks():
    raise RuntimeError("no such\\nfile")


def leaves():
    raise SystemExit(3)


def wrong():
    return Net().blocks[0].conv.weight


class Loud(Net):
    def forward(self, x):
        print("in forward")
        return super().forward(x.view(7))
"""
TABLE = '[tool.archcost.models.{}]\nspec = "net.py:{}"\ninput_size = [1, 32, 16, 16]\n'
NETS = TABLE.format("net", "Net")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A function that writes files into a project, the working directory."""
    monkeypatch.chdir(tmp_path)

    def write(toml=NETS, **files):
        Path("pyproject.toml").write_text(toml)
        for name, text in {"net": NET, **files}.items():
            Path(f"{name}.py").write_text(text)
        return tmp_path

    return write


def line_of(mark, file="net.py"):
    return 1 + next(n for n, line in enumerate(Path(file).read_text().splitlines()) if mark in line)


def check(*models, **options):
    return archcost.check(models or None, store=False, progress=False, **options)


def codes(result):
    return [one.code for one in result]


def test_layers_that_a_line_builds_are_one_finding_at_its_column(project):
    project()
    [one] = check()
    assert (one.code, one.level, one.modules) == ("AC101", "note", ("blocks.0.conv", "blocks.1.conv"))
    assert (one.place.file, one.place.line) == ("net.py", line_of("# block\n".strip()))
    assert one.place.column == (21 if COLUMNS else None)
    assert one.text == (
        "Conv2d(32, 32, 5) (and 1 more of the 3 convolutions built here) as two 3x3: -28 % parameters, -28 % "
        "MACs (-23.7 % of the model's), same receptive field, not the same result "
        "[net: blocks.0.conv, blocks.1.conv]"
    )
    assert [(at.place.file, at.place.line) for at in one.related] == [
        ("net.py", line_of("# blocks")),
        *[("net.py", line_of("# blocks"))] * (len(one.related) - 1),
    ]


def test_models_that_share_a_line_share_its_finding_with_the_numbers_of_the_first(project):
    project(NETS + TABLE.format("larger", "larger"))
    [one] = check()
    assert one.models == ("net", "larger")
    assert one.text.endswith("[net: blocks.0.conv, blocks.1.conv; also larger]")
    assert check("larger").findings[0].text.endswith("[larger: blocks.0.conv, blocks.1.conv, blocks.2.conv]")


def test_the_fingerprint_stays_where_lines_move_and_differs_between_findings(project):
    project(NETS + 'max_params = "1k"\n')
    first = {one.code: one.fingerprint for one in check()}
    project(NETS + 'max_params = "1k"\n', net=f"# moved\n\n\n{NET}")
    assert {one.code: one.fingerprint for one in check()} == first
    assert len(set(first.values())) == len(first) == 2
    project(NETS, net=NET.replace("32, 32, kernel", "32, 32, kernel, groups=2"))
    assert {one.code: one.fingerprint for one in check()}["AC101"] != first["AC101"]


def test_a_budget_that_breaks_names_the_line_that_costs_most_and_that_of_the_limit(project):
    project(NETS + 'max_macs = "1M"\nmin_receptive_field = 31\nmax_params = "1M"\n')
    result = check(select=["AC3"])
    at_limit, at_layer = sorted(result, key=lambda one: one.place.file == "net.py")
    assert at_limit.text == "min_receptive_field: 11 pixels at small, 20 below 31 [net]"
    assert (at_limit.place.file, at_limit.place.line) == ("pyproject.toml", 5)
    assert at_layer.place.line == line_of("# block\n".strip())
    assert at_layer.text.startswith(
        "max_macs: 15.5 M MACs, 14.5 M (1446.6 %) above 1.00 M; most in blocks.0.conv and 2 more"
    )
    assert str(at_layer.related[0].place) == "pyproject.toml:4"
    assert result.exit_code == 1


def test_flash_and_sram_break_at_the_line_of_the_costliest_layer(project):
    int8 = 'weights_dtype = "int8"\nactivations_dtype = "int8"\n'
    project(NETS + f'flash = "10 KB"\nsram = "10 KB"\n{int8}')
    flash, sram = check(select=["AC301"])
    assert flash.text.startswith("flash: 60.8 kB in int8, 50.8 kB above 10.0 kB; most in blocks.0.conv")
    assert sram.text.startswith(
        "sram: 16.4 kB at convolution in blocks.0.conv in int8, 6.38 kB above 10.0 kB"
    )
    assert {flash.place.line, sram.place.line} == {line_of("# block\n".strip())}
    project(NETS + f'flash = "1 MB"\nsram = "320 KB"\n{int8}')
    assert not check(select=["AC301"]).findings


def test_a_library_s_model_is_reported_where_the_project_names_it(project):
    project('[tool.archcost.models.zoo]\nspec = "torchvision:alexnet"\n')
    [one] = check()
    assert str(one.place) == "pyproject.toml:2"
    assert one.text.startswith(
        "Conv2d(64, 192, 5) as two 3x3 through 64 channels: -52 % parameters, -52 % MACs (-16.3 % of the"
    )
    assert one.elsewhere.startswith("torchvision/models/alexnet.py:")
    assert f"built at {one.elsewhere}]" in one.text
    [alone] = check("torchvision:alexnet")
    assert alone.place is None
    assert str(alone).startswith("torchvision/models/alexnet.py:")


COPIED = """
import copy
from torch import nn


class Two(nn.Sequential):
    pass


def Net():
    return copy.deepcopy(Two(nn.Conv2d(32, 32, 5)))
"""


def test_a_copied_layer_has_the_line_of_the_module_around_it(project):
    project(net=COPIED)
    [one] = check()
    assert (one.place.line, one.modules) == (line_of("class Two"), ("0",))


def test_an_excluded_file_is_no_code_of_the_project(project):
    project(NETS.replace("net.py", "use.py"), use="import net\n\n\ndef Net():\n    return net.Net()\n")
    assert check().findings[0].place.file == "net.py"
    project('[tool.archcost]\nexclude = ["net.*"]\n' + NETS.replace("net.py", "use.py"))
    assert str(check().findings[0].place).startswith("use.py:5")


def test_a_model_that_fails_does_not_keep_others_from_being_checked(project, capsys):
    names = ("breaks", "leaves", "wrong", "Loud", "gone")
    project("".join(TABLE.format(name, name) for name in names) + NETS)
    result = check()
    assert codes(result) == ["AC101"]
    assert result.exit_code == 2
    texts = {one.model: str(one) for one in result.failures}
    assert list(texts) == list(names)
    line = line_of("no such")
    assert texts["breaks"] == (
        f"net.py:{line}: breaks: net.py:breaks: building the model failed: RuntimeError: no such file; "
        f"archcost check breaks --debug shows the traceback"
    )
    assert texts["leaves"].startswith(f"net.py:{line_of('SystemExit')}: leaves: SystemExit: 3")
    assert texts["wrong"].startswith(
        "pyproject.toml:8: wrong: net.py:wrong: building the model failed: TypeErr"
    )
    assert texts["Loud"].startswith(f"net.py:{line_of('x.view(7)')}: Loud: ")
    assert texts["gone"].startswith("pyproject.toml:14: gone: net.py:gone: there is no 'gone'")
    assert all("\n" not in text for text in texts.values())
    assert capsys.readouterr().out == ""  # what models print is not the report's


def test_nothing_is_left_in_the_project_and_nothing_in_the_process(project):
    root = project(
        TABLE.format("one", "Net").replace("net.py", "a/net.py")
        + TABLE.format("two", "Net").replace("net.py", "b/net.py")
    )
    for folder, width in (("a", 32), ("b", 16)):
        (root / folder).mkdir()
        (root / folder / "parts.py").write_text(f"WIDTH = {width}\n")
        text = "from torch import nn\nfrom parts import WIDTH\n\n\ndef Net():\n"
        text += "    return nn.Sequential(nn.Conv2d(32, WIDTH, 5))\n"
        (root / folder / "net.py").write_text(text)
    before, path = sorted(root.rglob("*")), list(sys.path)
    result = archcost.check(progress=False)  # with the user's own store
    assert not result.failures
    assert [one.modules for one in result] == [("0",), ("0",)]
    assert ["Conv2d(32, 32, 5)" in result[0].text, "Conv2d(32, 16, 5)" in result[1].text] == [True, True]
    assert sorted(root.rglob("*")) == before
    assert sys.path == path
    assert not sys.dont_write_bytecode or "PYTHONDONTWRITEBYTECODE" in __import__("os").environ


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ('[tool.archcost]\nlevle = "note"\n', "pyproject.toml:2: unknown key 'levle' in [tool.archcost]"),
        ('[tool.archcost]\nlevel = "warn"\n', "pyproject.toml:2: level is 'warn'; did you mean 'warning'?"),
        ('[tool.archcost]\nrules = ["AC9"]\n', "pyproject.toml:2: there is no code 'AC9'; archcost"),
        ('[tool.archcost]\nrules = "AC1"\n', "pyproject.toml:2: rules is 'AC1'; write a list of texts"),
        ('[tool]\narchcost = 3\n', "pyproject.toml:2: archcost is 3; it is a table: [tool.archcost]"),
        ("[tool.archcost.models.a]\n", "pyproject.toml:1: a has no spec; write spec = 'net.py:Net'"),
        (NETS + "inputsize = 3\n", "pyproject.toml:4: unknown key 'inputsize' in [tool.archcost.models.net]"),
        (NETS + "max_mac = 3\n", "pyproject.toml:4: unknown key 'max_mac' in [tool.archcost.models.net]"),
        (NETS + 'max_params = "26 millions"\n', "pyproject.toml:4: max_params: cannot read '26 millions'"),
        (NETS + "max_latency_ratio = 1.1\n", "pyproject.toml:4: net: a latency is measured"),
        (NETS.replace("16]", "-1]"), "pyproject.toml:3: input_size is [1, 32, 16, -1]; write"),
        (NETS + "weights = 3\n", "pyproject.toml:4: weights is 3; write the path of a state dict"),
        ('[tool.archcost.ignore]\n"*" = ["AC7"]\n', "pyproject.toml:2: there is no code 'AC7'"),
        ("[tool.archcost\n", "pyproject.toml is not valid TOML: "),
    ],
)  # fmt: skip
def test_a_wrong_configuration_is_one_line_with_its_place_and_the_mend(project, toml, said):
    project(toml)
    with pytest.raises(SpecError) as raised:
        check() if "tool.archcost\n" not in toml else check(config="pyproject.toml")
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)


def test_what_is_asked_for_has_to_exist(project):
    project()
    for wrong, said in (
        (lambda: check("nett"), "there is no model 'nett'; did you mean 'net'?"),
        (lambda: check(config="other.toml"), "other.toml cannot be read: No such file or directory"),
        (lambda: check(select=["AC11"]), "there is no code 'AC11'"),
        (lambda: check(level="bad"), "level is 'bad'"),
    ):
        with pytest.raises(SpecError, match=said.replace("?", r"\?")):
            wrong()
    project("[project]\nname = 'x'\n")
    with pytest.raises(
        SpecError, match=r"there is no model to check: give a SPEC, or add \[tool.archcost.models"
    ):
        check()


def test_the_configuration_is_found_upwards_and_paths_are_its_own(project, monkeypatch):
    root = project()
    (root / "deep" / "er").mkdir(parents=True)
    (root / "deep" / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    monkeypatch.chdir(root / "deep" / "er")
    assert [str(one.place.file) for one in check()] == ["net.py"]
    (root / "deep" / "other.toml").write_text(NETS.replace("net.py", "../net.py"))
    assert codes(check(config="../other.toml")) == ["AC101"]


def test_inputs_weights_and_dtypes_are_those_of_the_table(project):
    project(
        NETS.replace("[1, 32, 16, 16]", "{ x = [2, 32, 8, 8] }") + 'dtype = "fp16"\nweights = "w.pt"\n',
    )
    assert "w.pt" in check().failures[0].text
    sys.path.insert(0, "")
    torch.save(archcost.load("net.py:Net").model.state_dict(), "w.pt")
    sys.path.remove("")
    [one] = check()
    assert one.gain.macs[0] == 2 * 2 * 25 * 32 * 32 * 64


def test_levels_and_codes_decide_what_is_reported_and_what_fails(project):
    project()
    assert check().exit_code == 0
    assert check(level="note").exit_code == 1
    assert codes(check(ignore=["small-kernels"])) == []
    assert set(codes(check(select=["AC1"]))) >= {"AC101", "AC102", "AC104"}
    project('[tool.archcost]\nlevel = "note"\nrules = ["AC104"]\n' + NETS)
    result = check()
    assert codes(result) == ["AC104"]
    assert "as 5x5 depthwise and 1x1" in result[0].text
    assert result.exit_code == 1


def test_every_rewrite_rule_has_a_code_and_words_find_codes():
    assert {one.rule for one in CODES.values() if one.rule} == set(available())
    assert matching("AC20") == tuple(code for code in CODES if code.startswith("AC20"))
    assert matching("layout") == ("AC401",)
    assert "AC103" not in selected(None)
    assert selected(["AC1"], ["AC10"]) == ()


def stored(spec, layout, milliseconds, path="native", disturbed=False):
    key = Key(fingerprint().hash, spec, "float32", path, layout, torch.get_num_threads())
    return Measurement(
        key, "here", milliseconds / 1e3, 1e-6, 25, 0, "cpu", torch.__version__, disturbed, 1e-7, 0, 1e9
    )


@pytest.mark.parametrize(("new", "said"), [(1.0, "2.0x faster"), (5.0, "2.5x slower")])
def test_what_was_measured_here_is_said_and_what_was_slower_is_left_out(project, new, said):
    project()
    five = archcost.ConvSpec(32, 32, 5, padding=2, input_size=(16, 16))
    three = archcost.ConvSpec(32, 32, 3, padding=1, input_size=(16, 16))
    first = archcost.ConvSpec(32, 32, 3, padding=1, bias=False, input_size=(16, 16))
    with Store(":memory:") as store:
        store.put_many([stored(five, "contiguous", 4.0), stored(three, "contiguous", new)])
        store.put(stored(first, "contiguous", new))
        found = {one.code: one for one in archcost.check(store=store, progress=False)}
        assert ("AC101" in found) == (new == 1.0)
        found = {one.code: one for one in archcost.check(store=store, slower_too=True, progress=False)}
        assert f"not the same result, {said} measured here" in found["AC101"].text
        store.put(stored(five, "channels_last", 2.0, disturbed=True))
        store.put(stored(five, "contiguous", 1.0, "im2col"))
        found = {one.code: one for one in archcost.check(store=store, select=["AC4"], progress=False)}
        assert "in channels_last: 2.0x faster measured here (unreliable: " in found["AC401"].text
        assert "by path im2col: 4.0x faster measured here [" in found["AC402"].text


def test_a_result_is_shown_in_every_form_and_saved(project, tmp_path):
    project(NETS + TABLE.format("breaks", "breaks"))
    result = check()
    assert result.to_pandas()["code"].tolist() == ["AC101"]
    assert str(result).splitlines()[-1] == result.summary
    assert result.to_dict()["findings"][0]["gain"]["macs"][0] == 2 * 25 * 32 * 32 * 256
    assert "**archcost check failed**" in result.to_markdown()
    result.save(tmp_path / "check.json")
    assert archcost.load_result(tmp_path / "check.json") == result
