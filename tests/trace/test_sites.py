"""Each module knows the line of code that built it, and recording leaves nothing behind."""

import copy
import pickle
import sys
import threading
from functools import wraps
from pathlib import Path

import pytest
import torch
from torch import nn

import archcost
from archcost.trace import sites

HERE = Path(__file__).name
COLUMNS = sys.version_info >= (3, 11)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)  # block's conv

    def forward(self, x):
        return self.conv(x)


def line_of(text):
    return 1 + next(n for n, line in enumerate(Path(__file__).read_text().splitlines()) if text in line)


def built(model, size=(1, 3, 16, 16)):
    found = archcost.analyze(model, input_size=size).trace.modules
    return {name: info.built_at for name, info in found.items()}


def at(site):
    """File and line of a site's frame, without folders."""
    return Path(site.frame.file).name, site.frame.line


def test_a_recorded_module_has_file_line_column_and_the_calls_that_led_there():
    with archcost.recording_sites():
        model = nn.Sequential(Block(), nn.Conv2d(3, 4, 1))  # the whole
    found = built(model)
    whole = line_of("# the whole")
    assert at(found[""]) == at(found["0"]) == at(found["1"]) == (HERE, whole)
    assert at(found["0.conv"]) == (HERE, line_of("# block's conv"))
    assert [frame.line for frame in found["0.conv"].frames] == [line_of("# block's conv"), whole]
    text = Path(__file__).read_text().splitlines()[whole - 1]
    columns = (text.index("nn.Seq") + 1, text.index("Block") + 1, text.index("nn.Conv2d") + 1)
    assert tuple(found[name].frame.column for name in ("", "0", "1")) == (columns if COLUMNS else (None,) * 3)
    assert str(found["1"]).endswith(f"{HERE}:{whole}" + f":{columns[2]}" * COLUMNS)
    assert found["0.conv"].frame.function == ("Block.__init__" if COLUMNS else "__init__")


@pytest.mark.skipif(not COLUMNS, reason="columns need Python 3.11")
def test_columns_count_characters_and_a_call_over_several_lines_starts_at_its_first():
    with archcost.recording_sites():
        model = nn.ModuleDict({"ééé": nn.Identity(), "b": nn.Conv2d(3, 3, 1)})  # letters
        several = nn.Conv2d(  # first of several
            3,
            4,
            1,
        )
    text = Path(__file__).read_text().splitlines()[line_of("# letters") - 1]
    found = sites.sites_of({"b": model["b"], "several": several})
    assert found["b"].frame.column == text.index("nn.Conv2d") + 1
    assert at(found["several"]) == (HERE, line_of("# first of several"))


def test_a_wrapped_constructor_and_a_metaclass_are_not_the_site():
    class Meta(type):
        def __call__(cls, *args):
            return super().__call__(*args)

    def wrapped(init):
        @wraps(init)
        def run(*args):
            init(*args)

        return run

    class Odd(nn.Module, metaclass=Meta):
        @wrapped
        def __init__(self):
            super().__init__()

    with archcost.recording_sites():
        odd = Odd()  # odd one
    assert at(sites.sites_of({"": odd})[""]) == (HERE, line_of("# odd one"))


def test_modules_built_elsewhere_have_the_line_of_their_class_and_say_so():
    with archcost.recording_sites():
        model = Block()
    head = line_of("class Block")
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), Block()):
        site = built(other)[""]
        assert site.is_class
        assert at(site) == (HERE, head)
        assert str(site).endswith(f"{HERE}:{head} (class Block)")
    assert str(built(Block())["conv"]).endswith(f"{HERE}:{head} (class Block)")
    alone = built(nn.Sequential(nn.Conv2d(3, 3, 3)))["0"]
    assert alone.frame.is_library
    assert alone.frame.file == "torch/nn/modules/conv.py"


def test_modules_of_a_spec_are_recorded_down_to_the_last(tmp_path, monkeypatch):
    (tmp_path / "parts_of_net.py").write_text(
        "from torch import nn\n\ndef part():\n    return nn.Conv2d(3, 8, 3)\n"
    )
    (tmp_path / "net.py").write_text(
        "from torch import nn\nfrom parts_of_net import part\n\n\n"
        "def factory():\n    return nn.Sequential(part(), nn.Conv2d(8, 8, 1))\n\n\nREADY = factory()\n"
    )
    monkeypatch.chdir(tmp_path)
    for name in ("factory", "READY"):
        for dtype in (None, torch.float64):
            found = archcost.analyze(f"net.py:{name}", input_size=(1, 3, 8, 8), dtype=dtype).trace.modules
            assert [str(found["0"].built_at.frame).split(":")[:2], str(found["1"].built_at)[:8]] == [
                ["parts_of_net.py", "4"],
                "net.py:6",
            ]
    last = found["0"].built_at.frames[-1]
    assert (last.file, last.line, last.function) == ("net.py", 9, "<module>")


@pytest.mark.parametrize("spec", ["torchvision:resnet18", "timm:convnext_atto"])
def test_every_module_of_a_published_model_is_recorded(spec):
    trace = archcost.analyze(spec).trace
    assert all(info.built_at and not info.built_at.is_class for info in trace.modules.values())
    conv = next(info for info in trace.modules.values() if info.type_name == "Conv2d")
    assert conv.built_at.frame.is_library
    assert conv.built_at.frame.file.startswith(spec.partition(":")[0])


def test_the_column_and_a_saved_analysis_keep_the_sites(tmp_path):
    with archcost.recording_sites():
        model = Block()
    analysis = archcost.analyze(model, input_size=(1, 3, 8, 8))
    line = line_of("# block's conv")
    assert f"{HERE}:{line}" in analysis.to_pandas().set_index("name").loc["conv", "built_at"]
    assert f"{HERE}:{line}" in analysis.to_text(columns=["built_at"])
    analysis.save(tmp_path / "a.json")
    assert archcost.load_result(tmp_path / "a.json").trace.modules == analysis.trace.modules


def test_recording_is_restored_also_after_an_exception_and_only_for_the_thread_that_asked():
    before, built = nn.Module.__init__, {}

    def build():
        with archcost.recording_sites():
            with archcost.recording_sites():
                built["inner"] = nn.Identity()
            built["outer"] = nn.Identity()
            other = threading.Thread(target=lambda: built.update(thread=nn.Identity()))
            other.start()
            other.join()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        build()
    assert nn.Module.__init__ is before
    assert not sites._active
    built["after"] = nn.Identity()
    recorded = {name for name, site in sites.sites_of(built).items() if not site.is_class}
    assert recorded == {"inner", "outer"}


def test_a_wrapper_put_around_meanwhile_stays_and_nothing_more_is_recorded(monkeypatch):
    original = nn.Module.__init__
    monkeypatch.setattr(nn.Module, "__init__", original)  # put back at the end
    with archcost.recording_sites():
        ours = nn.Module.__init__
        nn.Module.__init__ = lambda self, *args, **kwargs: ours(self, *args, **kwargs)
        theirs = nn.Module.__init__
    assert nn.Module.__init__ is theirs
    assert sites.sites_of({"": nn.Identity()})[""].is_class


def test_recorded_modules_are_not_kept_alive():
    with archcost.recording_sites():
        model = nn.Conv2d(3, 3, 1)
    key = id(model)
    assert key in sites._built
    del model
    assert key not in sites._built
