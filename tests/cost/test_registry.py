"""What has no counting rule is named, never 0; a rule of one's own is one decorated function."""

import itertools

import pytest
import torch
from torch import nn

import archcost
from archcost import ArchcostError
from archcost.cost import registry
from archcost.rules import Count
from helpers.calls import Call

X = torch.zeros(2, 4, 6, 6)
N = X.numel()


# What has no rule


@torch.library.custom_op("archcost_rules::mystery", mutates_args=())
def mystery(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


@mystery.register_fake
def _(x):
    return torch.empty_like(x)


@pytest.fixture
def rules():
    """The table of rules, put back afterwards."""
    with registry.table.temporarily():
        yield


class Mysterious(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Call(torch.ops.archcost_rules.mystery)

    def forward(self, x):
        return self.inner(self.inner(x)) + 1


def test_an_operator_without_a_rule_is_named_with_its_module():
    analysis = archcost.analyze(Mysterious(), X)
    (unknown,) = analysis.uncounted
    assert (unknown.op, unknown.module, unknown.times) == ("archcost_rules.mystery.default", "inner", 2)
    assert unknown.reason == (
        "no counting rule for this operator; add one with "
        '@archcost.rules.counting_rule("archcost_rules::mystery")'
    )
    row = next(c for c in analysis.operations if c.op.name == unknown.op)
    assert row.macs is None
    assert row.other_ops is None
    assert row.flops is None
    assert analysis.total.uncounted == analysis["inner"].uncounted == 2


@pytest.mark.parametrize(
    "name", ["archcost_rules::mystery", "archcost_rules.mystery", "archcost_rules.mystery.default"]
)
def test_a_rule_of_ones_own_is_one_decorated_function(rules, name):
    @archcost.rules.counting_rule(name, kind="matmul")
    def rule(op):
        return 7, op.outputs[0].numel

    analysis = archcost.analyze(Mysterious(), X)
    assert analysis.uncounted == ()
    assert (analysis["inner"].macs, analysis["inner"].other_ops) == (14, 2 * N)


def test_a_users_rule_replaces_ours(rules):
    @archcost.rules.counting_rule("aten.relu")
    def rule(op):
        return Count(1, 2, "activation")

    total = archcost.analyze(nn.ReLU(), X).total
    assert (total.macs, total.other_ops) == (1, 2)


def test_a_rule_that_fails_leaves_an_unknown(rules):
    @archcost.rules.counting_rule("aten.relu")
    def rule(op):
        raise KeyError("width")

    (unknown,) = archcost.analyze(nn.ReLU(), X).uncounted
    assert unknown.reason == "its rule failed: KeyError: 'width'"


def test_rules_of_other_packages_come_through_entry_points(tmp_path, warm):
    """In a fresh interpreter, with a package beside archcost that announces one."""
    (tmp_path / "mypackage.py").write_text(
        "import archcost\n@archcost.rules.counting_rule('aten.relu')\ndef rule(op):\n    return 11, 0\n"
    )
    info = tmp_path / "mypackage-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mypackage\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[archcost.rules]\nmine = mypackage\n")
    code = "import torch, archcost; print(archcost.analyze(torch.nn.ReLU(), torch.zeros(3)).total.macs)"
    done = warm.run(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}")
    assert (done.stdout, done.stderr) == ("11\n", "")


@pytest.mark.parametrize(
    ("names", "kind", "message"),
    [
        ((), "other", "name the operators"),
        ((3,), "other", "name the operators"),
        (("aten.relu",), "fast", "unknown kind 'fast'; the kinds are convolution"),
    ],
)
def test_a_rule_that_cannot_be_registered_says_why(rules, names, kind, message):
    with pytest.raises(ArchcostError, match=message):
        archcost.rules.counting_rule(*names, kind=kind)


def test_every_rule_names_an_operator_of_the_framework():
    """A misspelt rule would never apply; families with one rule for several versions may name absent ones."""
    import torchvision  # noqa: F401 - registers its operators

    known = set()
    for schema in torch._C._jit_get_all_schemas():
        known.add(schema.name.replace("::", ".").removesuffix("_"))
    names = {
        name
        for name in registry.table.entries
        if name.partition(".")[0] in ("aten", "quantized", "torchvision")
    }
    missing = {name for name in names if name not in known and name.removesuffix(".Scalar") not in known}
    assert len(missing) < len(names) // 8, sorted(missing)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "its rule failed: TypeError"),
        (7, "its rule failed: TypeError"),
        ((None, 5), "its rule returned None without a reason"),
    ],
)
def test_a_rule_that_does_not_answer_leaves_an_unknown(rules, answer, reason):
    archcost.rules.counting_rule("aten.relu")(lambda op: answer)
    analysis = archcost.analyze(nn.ReLU(), X)
    (unknown,) = analysis.uncounted
    assert unknown.reason.startswith(reason)
    assert analysis.total.arithmetic_intensity is None
    assert "macs" not in analysis.flat()


def test_a_rule_for_one_overload_holds_for_its_in_place_form(rules):
    archcost.rules.counting_rule("aten.add.Tensor")(lambda op: (3, 0))
    assert archcost.analyze(Call(lambda x: x.clone().add_(x) + 1.0), X).total.macs == 6


def test_an_operator_that_returns_a_number_is_unknown_too(rules):
    torch.library.custom_op("archcost_rules::energy", lambda x: float(x.sum()), mutates_args=(),
                            schema="(Tensor x) -> float")  # fmt: skip
    analysis = archcost.analyze(Call(lambda x: x * torch.ops.archcost_rules.energy(x)), X, device="cpu")
    assert [u.op for u in analysis.uncounted] == ["archcost_rules.energy.default"]


def test_every_counted_kind_is_a_known_kind():
    analysis = archcost.analyze("torchvision:googlenet")
    kinds = {c.kind for c in analysis.operations}
    assert kinds <= set(registry.KINDS)
    assert {"convolution", "norm", "activation", "pool", "movement"} <= kinds
    assert all(a.op.index + 1 == b.op.index for a, b in itertools.pairwise(analysis.operations))
