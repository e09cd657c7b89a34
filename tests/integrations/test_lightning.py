"""The Lightning callback: printed and logged once at the start of a fit, and never in its way."""

import importlib
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import archcost

PACKAGES = ("lightning.pytorch", "pytorch_lightning")
pytestmark = pytest.mark.skipif(
    not all(find_spec(name.partition(".")[0]) for name in PACKAGES), reason="lightning is not installed"
)
SIZE = (2, 3, 16, 16)


# Imported by the tests that run: it takes seconds, and every worker collects this file.
def lightning(name=PACKAGES[0]):
    return importlib.import_module(name)


def ArchcostSummary(**options):
    return importlib.import_module("archcost.integrations.lightning").ArchcostSummary(**options)


def net(package=PACKAGES[0], example=None):
    class Net(lightning(package).LightningModule):
        def __init__(self):
            super().__init__()
            self.example_input_array = example
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3))

        def forward(self, x):
            return self.body(x).mean((2, 3))

        def training_step(self, batch, index):
            return self(batch[0]).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    return Net()


@pytest.fixture
def fit(tmp_path):
    def run(model, callback, *loggers, package=PACKAGES[0]):
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        trainer = lightning(package).Trainer(
            accelerator="cpu", max_steps=2, callbacks=[callback], logger=list(loggers) or False,
            default_root_dir=tmp_path, **quiet,
        )  # fmt: skip
        trainer.fit(model, DataLoader(TensorDataset(torch.rand(4, *SIZE[1:])), batch_size=2))
        assert trainer.global_step == 2
        return trainer

    return run


@pytest.mark.parametrize("package", PACKAGES)
def test_the_costliest_layers_and_the_total_are_printed_when_the_fit_starts(fit, package, capsys):
    callback = ArchcostSummary(top=1)
    model = net(package, torch.rand(SIZE))
    fit(model, callback, package=package)
    text = capsys.readouterr().out
    assert text.startswith("Net  input 2x3x16x16 float32, in training mode\n")
    assert "body.3 (Conv2d)" in text
    assert "body.0 (Conv2d)" not in text
    assert callback.analysis.total.macs == archcost.analyze(model.body, input_size=SIZE).total.macs
    assert "inputs from the model's example_input_array" in text


def test_csv_and_tensorboard_loggers_get_the_totals_once_as_hyperparameters(fit, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    made = CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path / "board")
    logged = []
    for logger in made:
        known = logger.log_hyperparams
        monkeypatch.setattr(logger, "log_hyperparams", lambda *a, f=known: (logged.append(a), f(*a)))
    callback = ArchcostSummary(input_size=SIZE)
    fit(net(), callback, *made)
    numbers = callback.analysis.flat(prefix="archcost")
    assert numbers["archcost/macs"] == callback.analysis.total.macs
    assert [a for a in logged if a] == [(numbers,), (numbers,)]
    for logger in made:
        text = (Path(logger.log_dir) / "hparams.yaml").read_text()
        assert f"archcost/macs: {numbers['archcost/macs']}\n" in text


def test_what_the_callback_is_given_comes_before_the_example(fit, capsys):
    callback = ArchcostSummary(inputs=torch.rand(1, 3, 9, 9))
    fit(net(example=torch.rand(SIZE)), callback)
    assert callback.analysis.input_text == "1x3x9x9 float32"


@pytest.mark.parametrize(
    ("model", "options", "text"),
    [
        (net, {}, r"Net has no example_input_array; set it in the model, or write ArchcostSummary\(input_si"),
        (
            lambda: net(example=torch.rand(1, 7, 9, 9)),
            {},
            r"'body.0' \(Conv2d\) got an input of shape 1x7x9x9",
        ),
        (net, {"input_size": (0,)}, r"input_size: \(0,\) is not a shape"),
    ],
)
def test_a_model_that_cannot_be_analysed_is_a_warning_and_is_trained(fit, model, options, text, capsys):
    callback = ArchcostSummary(**options)
    with pytest.warns(UserWarning, match=f"^ArchcostSummary: {text}.*The fit goes on without a summary"):
        fit(model(), callback)
    assert callback.analysis is None
    assert capsys.readouterr().out == ""


def test_other_processes_of_a_distributed_fit_stay_quiet(capsys):
    class Trainer:
        is_global_zero = False

    callback = ArchcostSummary()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        callback.on_fit_start(Trainer(), net())
    assert capsys.readouterr().out == ""
    assert callback.analysis is None


def test_the_model_is_trained_as_if_it_had_not_been_looked_at(fit):
    def trained(*callbacks):
        torch.manual_seed(3)
        model = net(example=torch.rand(SIZE))
        fit(model, *callbacks)
        return model.state_dict()

    bare, seen = trained(lightning().Callback()), trained(ArchcostSummary())
    assert all(torch.equal(bare[name], seen[name]) for name in bare)


def test_without_lightning_the_import_says_what_to_install(monkeypatch):
    for name in ("lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "archcost.integrations.lightning")
    with pytest.raises(ImportError, match=r"needs Lightning: pip install 'archcost\[lightning\]'"):
        importlib.import_module("archcost.integrations.lightning")
