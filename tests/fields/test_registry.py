"""The table of dependence rules: open to everyone, and with an entry for every operator that is counted."""

import pytest
import torch
from torch import nn

import archcost
from archcost import ArchcostError
from archcost.cost import registry as counting
from archcost.fields import registry
from archcost.fields.registry import pointwise
from archcost.trace.schema import find_overload
from helpers.calls import Call

X = torch.zeros(1, 4, 9, 9)


@torch.library.custom_op("archcost_fields::mystery", mutates_args=())
def mystery(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


@mystery.register_fake
def _(x):
    return torch.empty_like(x)


@torch.library.custom_op("archcost_fields::mystery_", mutates_args=("x",))
def mystery_(x: torch.Tensor) -> None:
    x.neg_()


@torch.library.custom_op("archcost_fields::pair", mutates_args=())
def pair(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x.clone(), x.flip(3)


@pair.register_fake
def _(x):
    return torch.empty_like(x), torch.empty_like(x)


@pytest.fixture
def rules():
    """The table of rules, put back afterwards."""
    with registry.table.temporarily():
        yield


class Mysterious(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.stem = nn.Conv2d(4, 4, 3, padding=1)
        self.inner = Call(function)

    def forward(self, x):
        return self.inner(self.stem(x)) + 1


def analysed(function=torch.ops.archcost_fields.mystery):
    return archcost.analyze(Mysterious(function), X, progress=False).fields


def test_an_operator_without_a_rule_is_named_and_sees_all():
    fields = analysed()
    (opaque,) = fields.opaque
    assert (opaque.name, opaque.module) == ("archcost_fields.mystery.default", "inner")
    assert opaque.reason == "no rule for this operator"
    assert fields.at("").window == ((0, 8), (0, 8))
    assert fields.at("").is_global
    assert fields.at("").reason == "`inner` (mystery)"
    assert fields.at("stem").size == (3, 3)


@pytest.mark.parametrize(
    "name", ["archcost_fields::mystery", "archcost_fields.mystery", "archcost_fields.mystery.default"]
)
def test_a_rule_of_ones_own_is_one_decorated_function(rules, name):
    @archcost.rules.field_rule(name)
    def rule(op, see):
        return pointwise(op, see)

    fields = analysed()
    assert fields.opaque == ()
    assert fields.at("").size == (3, 3)


def test_a_rule_holds_for_the_in_place_form_as_well(rules):
    archcost.rules.field_rule("aten::neg")(lambda op, see: see(op.args[0]).running(3))
    for function in (torch.neg, lambda x: x.mul(1).neg_()):
        assert analysed(function).at("").window == ((3, 5), (0, 5))


def test_a_users_rule_replaces_ours(rules):
    archcost.rules.field_rule("aten.relu")(lambda op, see: see(op.args[0]).mixed([3], op.index))
    fields = analysed(torch.relu)
    assert fields.at("").window == ((3, 5), (0, 8))


def test_a_rule_that_fails_is_named_with_its_error(rules):
    @archcost.rules.field_rule("aten.relu")
    def rule(op, see):
        raise KeyError("width")

    fields = analysed(torch.relu)
    (opaque,) = fields.opaque
    assert opaque.reason == "its rule failed: KeyError: 'width'"
    assert fields.at("").is_global


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda op, see: [see(op.args[0])], "its rule returned 1 results for 2 outputs"),
        (
            lambda op, see: see(op.args[0]).select(0, 0),
            r"its rule returned the shape (4, 9, 9) for an output of shape (1, 4, 9, 9)",
        ),
    ],
)
def test_a_rule_that_does_not_fit_its_outputs_is_named(rules, answer, reason):
    archcost.rules.field_rule("archcost_fields::pair")(answer)
    fields = analysed(lambda x: torch.ops.archcost_fields.pair(x)[1])
    assert [o.reason for o in fields.opaque] == [reason]
    assert fields.at("").is_global


def test_one_answer_holds_for_every_output(rules):
    archcost.rules.field_rule("archcost_fields::pair")(pointwise)
    fields = analysed(lambda x: torch.ops.archcost_fields.pair(x)[1])
    assert fields.opaque == ()
    assert fields.at("").size == (3, 3)


def test_what_an_unknown_operator_writes_without_returning_it_sees_all():
    def forward(x):
        y = x * 1
        torch.ops.archcost_fields.mystery_(y)
        return y

    assert analysed(forward).at("").window == ((0, 8), (0, 8))


def test_a_rule_that_slides_makes_its_dimensions_the_axes(rules):
    """Over (N, T, C) the axis would be the second; a window over the last dimension says otherwise."""
    archcost.rules.field_rule("archcost_fields::mystery", slides=True)(pointwise)
    model = Call(torch.ops.archcost_fields.mystery)
    fields = archcost.analyze(model, torch.zeros(2, 4, 9), progress=False).fields
    assert [axis.dim for axis in fields.axes] == [2]


def test_rules_come_through_entry_points_and_the_users_own_win_over_all(tmp_path, warm):
    """In a fresh interpreter, with a package beside archcost that announces one."""
    (tmp_path / "fieldpackage.py").write_text(
        "import archcost\n"
        "@archcost.rules.field_rule('aten.relu')\n"
        "def rule(op, see):\n"
        "    return see(op.args[0]).mixed([3], op.index)\n"
    )
    info = tmp_path / "fieldpackage-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fieldpackage\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[archcost.field_rules]\nmine = fieldpackage\n")
    code = (
        "import torch, archcost\n"
        "archcost.rules.field_rule('aten.sigmoid')(lambda op, see: see(op.args[0]).mixed([2], op.index))\n"
        "for layer in (torch.nn.ReLU(), torch.nn.Sigmoid()):\n"
        "    print(archcost.analyze(layer, torch.zeros(1, 2, 5, 5), progress=False).fields.at('').window)\n"
    )
    done = warm.run(f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n") == ["((2, 2), (0, 4))", "((0, 4), (2, 2))", ""]


@pytest.mark.parametrize("names", [(), (3,)])
def test_a_rule_that_cannot_be_registered_says_why(rules, names):
    with pytest.raises(ArchcostError, match="name the operators"):
        archcost.rules.field_rule(*names)


# Counted, and opaque here on purpose: nested and sparse tensors have no positions of their own; `set` and
# `resize` put other memory under a tensor; helpers that return nothing flood what they write.
NO_RULE = """
    _nested_from_padded _nested_tensor_from_mask _nested_tensor_from_mask_left_aligned
    _nested_tensor_from_tensor_list _nested_view_from_buffer_copy to_padded_tensor
    set resize _cummax_helper _cummin_helper
    _foreach_addcdiv _foreach_addcmul _foreach_clone _foreach_copy _foreach_lerp _foreach_mm _foreach_zero
    _to_dense _to_sparse _to_sparse_bsc _to_sparse_bsr _to_sparse_csc _to_sparse_csr sparse_mask _sparse_sum
    _sparse_coo_tensor_with_dims_and_tensors _jagged_to_padded_dense_forward _padded_dense_to_jagged_forward
    _histogramdd_bin_edges _histogramdd_from_bin_cts _histogramdd_from_bin_tensors histogram hash_tensor
    _dyn_quant_matmul_4bit _mixed_dtypes_linear _scaled_grouped_mm _scaled_grouped_mm_v2 _scaled_mm_v2
    _weight_int4pack_mm_for_cpu _weight_int4pack_mm_with_scales_and_zeros _transform_bias_rescale_qkv
    _mps_convolution _mps_convolution_transpose _nnpack_spatial_convolution miopen_convolution_transpose
    miopen_depthwise_convolution cudnn_affine_grid_generator _grid_sampler_2d_cpu_fallback _cudnn_ctc_loss
    _aminmax native_norm _chunk_cat _stack _lazy_clone _masked_scale _sample_dirichlet _unsafe_masked_index
    as_strided_scatter resize_as embedding_renorm
""".split()


def framework():
    """Every operator of the framework and of torchvision, with its overloads."""
    import torchvision  # noqa: F401 - registers its operators

    found: dict[str, set[str]] = {}
    for schema in torch._C._jit_get_all_schemas():
        found.setdefault(schema.name.replace("::", "."), set()).add(schema.overload_name or "default")
    return found


def answered(overload):
    """By a rule or a tag; or the framework turns it into other operators before any is recorded."""
    if registry.rule_for(str(overload)) is not None:
        return True
    return torch._C._dispatch_has_kernel_for_dispatch_key(overload.name(), "CompositeImplicitAutograd")


def test_every_operator_that_is_counted_has_a_dependence():
    missing = set()
    for name, overloads in framework().items():
        # Backward operators are counted in training steps; no field is asked of them.
        if name in counting.table.entries and "_backward" not in name:
            forms = [find_overload(f"{name}.{overload}") for overload in overloads]
            if not all(answered(form) for form in forms if form is not None):
                missing.add(name)
    assert missing == {f"aten.{name}" for name in NO_RULE}


def test_every_rule_names_an_operator_of_the_framework():
    """A misspelt rule would never apply; families with one rule for several versions may name absent ones."""
    known = set()
    for name, overloads in framework().items():
        for form in (name, name.removesuffix("_")):
            known |= {form, *(f"{form}.{overload}" for overload in overloads)}
    names = {n for n in registry.table.entries if n.partition(".")[0] in ("aten", "quantized", "torchvision")}
    missing = names - known
    assert len(missing) < len(names) // 8, sorted(missing)
