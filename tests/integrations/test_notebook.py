"""%archcost in IPython's own shell: variables and SPECs, what is shown, and messages of one line."""

import sys

import pytest
import torch
from torch import nn

import archcost

pytest.importorskip("IPython", reason="IPython is not installed")
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3))

    def forward(self, x, y=None):
        return self.body(x if y is None else x + y)


@pytest.fixture
def shell(monkeypatch, tmp_path):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "archcost")
    shell.user_ns.update(net=Net(), x=torch.rand(2, 3, 8, 8), number=3)
    yield shell
    shell.history_manager.end_session()
    InteractiveShell.clear_instance()


def shown(shell, line):
    """The representations that the front end gets for a line."""
    with capture_output() as captured:
        assert shell.run_line_magic("archcost", line) is None
    (output,) = captured.outputs
    return output.data


def test_a_variable_is_shown_as_text_and_as_folded_html(shell):
    data = shown(shell, "net --input-size 1,3,16,16")
    expected = archcost.analyze(shell.user_ns["net"], input_size=(1, 3, 16, 16))
    assert data == {"text/plain": expected.to_text(), "text/html": expected._repr_html_()}
    assert "<details>" in data["text/html"]


def test_the_rows_that_are_asked_for_are_not_folded(shell):
    data = shown(shell, "net --input-size 1x3x16x16 --top 1 --columns macs,params")
    expected = archcost.analyze(shell.user_ns["net"], input_size=(1, 3, 16, 16))
    options = {"top": 1, "columns": ("macs", "params")}
    assert data == {"text/plain": expected.to_text(**options), "text/html": expected.to_html(**options)}
    assert "body" not in shown(shell, "net --input-size 1,3,16,16 --depth 0")["text/plain"].split("Total")[0]


@pytest.mark.parametrize(
    ("line", "inputs"),
    [
        ("-o net --inputs x", "2x3x8x8 float32"),
        ("-o net --inputs '(x, x[:1])'", "2x3x8x8 float32, 1x3x8x8 float32"),
        ("-o net.body --inputs x", "2x3x8x8 float32"),
        ("-o net.body[0] --inputs x", "2x3x8x8 float32"),
        ("analyze -o net --input-size 1,3,8,8 --input-size 1,3,8,8", "1x3x8x8 float32, 1x3x8x8 float32"),
        ("-o torchvision:squeezenet1_1", "1x3x224x224 float32"),
    ],
)
def test_o_returns_the_result_of_expressions_and_specs(shell, line, inputs):
    with capture_output() as captured:
        found = shell.run_line_magic("archcost", line)
    assert captured.outputs == []
    assert found.input_text == inputs


def test_a_cell_assigns_what_o_returns(shell):
    shell.run_cell("analysis = %archcost -o net --inputs x", silent=True).raise_error()
    assert isinstance(shell.user_ns["analysis"], archcost.Analysis)


def test_measure_times_the_convolutions_here(shell):
    with capture_output():
        found = shell.run_line_magic("archcost", "measure -o net --inputs x --threads 1 --seconds 0.5")
    assert isinstance(found, archcost.Measured)
    assert {row.name for row in found.layers} == {"body.0", "body.2"}


def test_a_variable_may_be_called_as_a_command_is(shell):
    shell.user_ns["measure"] = shell.user_ns["net"]
    assert "Net" in shown(shell, "measure")["text/plain"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "the following arguments are required: MODEL; usage: %archcost [measure] MODEL [options]"),
        ("modle", "there is no variable 'modle'; a SPEC has a colon, as in torchvision:resnet50"),
        ("net --input-size 1,a", "argument --input-size: '1,a' is not a shape; write it as in 1,3,224,224"),
        ("net --inputs nothing", "nothing: NameError: name 'nothing' is not defined"),
        ("net.nobody", "net.nobody: AttributeError: 'Net' object has no attribute 'nobody'"),
        ("net --inputs 'x", "No closing quotation"),
        ("net --depth two", "argument --depth: invalid int value: 'two'"),
        ("net --columns nonsense --inputs x", "there is no column 'nonsense'"),
        ("net --seconds 3", "--seconds belongs to %archcost measure"),
        ("number", "int"),
        ("torchvision:resnet5", "resnet50"),
        ("nowhere.py:Net", "nowhere.py"),
    ],
)
def test_mistakes_are_a_line_without_a_traceback(shell, line, message):
    with pytest.raises(UsageError) as caught:
        shell.run_line_magic("archcost", line)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_help_of_the_magic_says_how_to_write_it(shell):
    shell.run_cell("%archcost?", silent=True).raise_error()
    assert "--input-size 1,3,224,224 --depth 2" in shell.find_line_magic("archcost").__doc__


def test_importing_archcost_does_not_import_ipython():
    import subprocess

    code = "import sys, archcost; archcost.load_ipython_extension; print('IPython' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "False\n"


def test_a_notebook_runs_from_start_to_end(tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    cells = ["%load_ext archcost\nimport torchvision\nnet = torchvision.models.resnet18()",
             "%archcost net --input-size 1,3,64,64", "import archcost; archcost.analyze(net)"]  # fmt: skip
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(book, timeout=120, kernel_name="python3").execute(cwd=tmp_path)
    pages = [output.data for cell in book.cells[1:] for output in cell.outputs if "data" in output]
    assert len(pages) == 2
    assert all("<details>" in page["text/html"] and "ResNet" in page["text/plain"] for page in pages)
