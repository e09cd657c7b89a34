"""The process is as before an analysis, and other threads do not notice it."""

import contextlib
import copy
import gc
import signal
import sys
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules import module as hooks_of_torch

from archcost.errors import ArchcostError, InputError, ModelError
from archcost.progress import Progress
from archcost.trace.recording.kept import KeptForBackward
from archcost.trace.recording.recorder import Recorder
from archcost.trace.recording.turns import this_thread
from archcost.trace.run import record


def test_users_own_hooks_fire_and_stay():
    fired = []
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model[0].register_forward_pre_hook(lambda module, args: fired.append("pre"))
    model[0].register_forward_hook(lambda module, args, kwargs, out: fired.append("post"), with_kwargs=True)
    mine = hooks_of_torch.register_module_forward_hook(lambda module, args, out: fired.append("global"))
    try:
        record(model, torch.rand(2, 4))
        assert fired == ["pre", "global", "post", "global", "global"] * 2  # inference, then training
        assert len(model[0]._forward_hooks) == len(model[0]._forward_pre_hooks) == 1
        assert list(hooks_of_torch._global_forward_hooks) == [mine.id]
    finally:
        mine.remove()


def test_a_hook_that_changes_the_output_still_does():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(2, 2))
    model[0].register_forward_hook(lambda module, args, out: out[:, :2])
    assert record(model, torch.rand(3, 4)).outputs.shape == (3, 2)


@pytest.mark.parametrize("grad", [True, False])
def test_the_callers_grad_mode_stays(grad):
    with torch.set_grad_enabled(grad):
        record(nn.Linear(4, 4), torch.rand(2, 4))
        assert torch.is_grad_enabled() is grad


def test_inference_mode_stays_and_does_no_harm():
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.rand(2, 4)
    expected = record(model, x).kept_for_backward
    assert expected == {"1": 2 * 4 * 4}
    with torch.inference_mode():
        assert record(model, x).kept_for_backward == expected
        assert torch.is_inference_mode_enabled()
        made_here = nn.Linear(4, 4)
        assert record(made_here, torch.rand(2, 4), device="cpu").outputs.shape == (2, 4)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_fused_attention_paths_stay_as_they_were(enabled):
    was = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(enabled)
        record(nn.Linear(4, 4), torch.rand(2, 4))
        assert torch.backends.mha.get_fastpath_enabled() is enabled
    finally:
        torch.backends.mha.set_fastpath_enabled(was)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_stays_as_it_was(enabled):
    was = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        record(nn.Linear(4, 4), torch.rand(2, 4))
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was else gc.disable)()


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL, lambda number, frame: None])
def test_the_sigint_handler_stays(handler):
    was = signal.signal(signal.SIGINT, handler)
    try:
        record(nn.Linear(4, 4), torch.rand(2, 4))
        assert signal.getsignal(signal.SIGINT) is handler or signal.getsignal(signal.SIGINT) == handler
    finally:
        signal.signal(signal.SIGINT, was)


def test_attention_on_meta_is_the_frameworks_own_again():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    q = torch.empty(1, 2, 5, 8, device="meta")
    runs = []
    for analyse in (False, True):
        seen = []
        if analyse:
            with pytest.raises(ArchcostError):
                record(nn.Linear(4, 4), torch.rand(2, 3))
            record(nn.TransformerEncoderLayer(8, 2, 8), torch.rand(2, 5, 8))
        with Names():
            F.scaled_dot_product_attention(q, q, q)
        runs.append(seen)
    assert runs[0] == runs[1]
    assert "aten.bmm.default" in runs[0]


def in_threads(*jobs):
    errors = []

    def run(job):
        try:
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def facts(trace):
    return [(op.name, trace.module_of(op), op.fed_by) for op in trace.ops], trace.notes, trace.device


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8)

    def forward(self, x):
        y = self.norm(self.a(x))
        return y if y.sum() > -1e9 else -y


def test_threads_analyse_two_models_at_once():
    models = [nn.Sequential(nn.Linear(8, 8), nn.ReLU()), Branching()]
    x = torch.rand(4, 8)
    expected = [facts(record(model, x)) for model in models]
    got = [[], []]
    in_threads(*(lambda i=i: got[i].extend(facts(record(models[i], x)) for _ in range(25)) for i in (0, 1)))
    for mine, wanted in zip(got, expected, strict=True):
        assert all(one == wanted for one in mine)


def test_threads_analyse_one_model_at_once():
    model, x = Branching(), torch.rand(4, 8)
    before, expected = copy.deepcopy(model.state_dict()), facts(record(model, x))
    got = []
    in_threads(*[lambda: got.extend(facts(record(model, x)) for _ in range(15))] * 3)
    assert len(got) == 45
    assert all(one == expected for one in got)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(value.is_meta for value in model.state_dict().values())


def test_what_other_threads_run_is_not_recorded():
    model, other, x = Branching(), nn.Sequential(nn.Linear(8, 8), nn.Tanh()), torch.rand(4, 8)
    expected = facts(record(model, x))
    stop = threading.Event()

    def keep_running():
        while not stop.is_set():
            other(x)

    def analyse():
        try:
            for _ in range(25):
                assert facts(record(model, x)) == expected
        finally:
            stop.set()

    in_threads(keep_running, analyse)


class Everything(nn.Module):
    """Calls every callback of both recorders."""

    def __init__(self):
        super().__init__()
        self.lin, self.gru, self.norm = nn.Linear(8, 8), nn.GRU(8, 8), nn.BatchNorm1d(8)
        self.plain = torch.ones(8)

    def forward(self, x):
        y = self.norm(self.lin(x) * self.plain)
        self.plain.add_(1)
        return self.gru(torch.relu_(y)[None])[0] + torch.arange(8)


CALLBACKS = [
    *(
        (Recorder, name)
        for name in ("enter", "leave", "name_state", "describe", "recurrent", "_storage", "_bury")
    ),
    *(
        (Recorder, name)
        for name in ("_refs_in", "_describe", "_ref", "_on_meta", "_operate", "_execute", "_record")
    ),
    *((Recorder, name) for name in ("_before_write", "_is_made", "__torch_dispatch__")),
    *(
        (KeptForBackward, name)
        for name in ("name_state", "recurrent", "_operate", "_note", "_is_made", "_keep", "_add")
    ),
    (Progress, "step"),
]


def state_of_process():
    return (
        torch._C._len_torch_dispatch_stack(),
        dict(hooks_of_torch._global_forward_hooks),
        dict(hooks_of_torch._global_forward_pre_hooks),
        dict(hooks_of_torch._global_forward_hooks_with_kwargs),
        dict(hooks_of_torch._global_forward_hooks_always_called),
        getattr(this_thread, "recorder", None),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
        gc.isenabled(),
        sys.getrecursionlimit(),
        signal.getsignal(signal.SIGINT),
        torch._C._autograd._saved_tensors_hooks_is_enabled(),
        torch.get_default_dtype(),
    )


@pytest.mark.parametrize("error", [RuntimeError, RecursionError, KeyboardInterrupt, ArchcostError])
@pytest.mark.parametrize("nth", [1, 3])
@pytest.mark.parametrize(("owner", "name"), CALLBACKS, ids=lambda value: getattr(value, "__name__", value))
def test_whatever_raises_wherever_nothing_is_left_behind(monkeypatch, owner, name, nth, error):
    model, x = Everything(), torch.rand(4, 8)
    expected = facts(record(model, x))
    before, state = state_of_process(), copy.deepcopy(model.state_dict())
    original, calls = getattr(owner, name), []

    def breaks(*args, **kwargs):
        calls.append(name)
        if len(calls) == nth:
            raise error("injected")
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, breaks)
    with contextlib.suppress(ArchcostError, KeyboardInterrupt, error):
        record(model, x)
    monkeypatch.undo()
    assert calls
    assert state_of_process() == before
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(model.plain, torch.ones(8))
    assert facts(record(model, x)) == expected


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.jagged, torch.strided])
def test_nested_tensors_are_refused_and_leave_nothing_behind(layout):
    class Inside(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(4, 6)

        def forward(self, x):
            return self.lin(torch.nested.nested_tensor([x[:3], x], layout=layout)).unbind()[0]

    before = state_of_process()
    with pytest.raises(
        InputError, match=r"a NestedTensor has rows of different lengths.*pass a padded tensor"
    ):
        record(
            nn.Linear(4, 6), torch.nested.nested_tensor([torch.rand(3, 4), torch.rand(5, 4)], layout=layout)
        )
    assert state_of_process() == before
    with pytest.raises(ModelError, match=r"computes on a NestedTensor.*; pad it"):
        record(Inside(), torch.rand(5, 4))
    assert state_of_process() == before
