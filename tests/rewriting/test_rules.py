"""What each rule proposes, what it refuses and in which words."""

import pytest
import torch
from torch import nn

import archcost
from archcost import ConvSpec, RewriteError
from archcost.merging.chain import chain_field
from archcost.rewriting.rule import available, get
from archcost.rewriting.rules.stacking import stages
from archcost.rewriting.survey.survey import survey_of
from helpers.layers import FACTORING, conv, planned, refusal, subject


def test_the_rules_are_presented_in_their_order():
    there = [name for name in available() if name in (*FACTORING, "reduce_first")]
    assert there == [*FACTORING, "reduce_first"]


REFUSED = [
    ("small_kernels", conv(8, 8, 3), "its kernel of 3x3 is small already"),
    ("small_kernels", conv(8, 8, (3, 1)), "its kernel of 3x1 is small already"),
    ("small_kernels", conv(8, 8, 5, stride=3), "no stack of smaller kernels has the receptive field"),
    (
        "small_kernels",
        conv(3, 96, 4, stride=4, padding=0),
        "with a stride of 4x4 no stack of smaller kernels",
    ),
    ("small_kernels", conv(8, 8, 5, transposed=True), "it is transposed: its stride would come last"),
    ("small_kernels", conv(8, 8, 5, (2, 2), groups=8), "even its smallest form has 1.80 times the MACs"),
    ("asymmetric", conv(8, 8, 7, (99,)), "its kernel of 7 has a single axis: nothing to factor"),
    ("asymmetric", conv(8, 8, (7, 1)), "its kernel of 7x1 extends along fewer than two axes"),
    ("asymmetric", conv(8, 8, 1), "its kernel of 1x1 extends along fewer than two axes"),
    ("asymmetric", conv(1, 1, 2, padding=0), "even its smallest form has 1."),
    ("bottleneck", conv(8, 8, 5, groups=8), "it is depthwise: a group has a single input channel"),
    ("bottleneck", conv(1, 1, 5), "even its smallest form has 1."),
    ("bottleneck", conv(2, 2, 1), "even its smallest form has 1.00 times the MACs"),
    ("separable", conv(8, 16, 3, groups=8), "it is depthwise already"),
    ("separable", conv(8, 8, 1), "a 1x1 has a single tap: nothing to separate"),
    ("separable", conv(1, 1, 3), "even its smallest form has 1."),
    ("reduce_first", conv(8, 8, 1), "a 1x1 is itself what would be put first"),
    ("reduce_first", conv(8, 8, 3, groups=8), "it is depthwise"),
    ("reduce_first", conv(8, 8, 3, transposed=True), "it is transposed"),
]


@pytest.mark.parametrize(
    ("name", "spec", "words"), REFUSED, ids=lambda v: None if isinstance(v, ConvSpec) else v
)
def test_a_rule_says_why_it_does_not_apply(name, spec, words):
    assert words in refusal(name, spec)


@pytest.mark.parametrize("name", FACTORING)
def test_where_saving_is_refused_the_formula_is_said(name):
    spec = {
        "small_kernels": conv(8, 8, 5, (2, 2), groups=8),
        "asymmetric": conv(1, 1, 2, padding=0),
    }.get(name, conv(1, 1, 5))
    assert get(name).break_even in refusal(name, spec)


APPLIED = [
    (
        "small_kernels",
        [conv(8, 8, 5), conv(8, 8, 5, groups=8), conv(8, 8, 31, (999,)), conv(2, 4, 5, (9, 9, 9))],
    ),
    ("small_kernels", [conv(3, 64, 7, stride=2), conv(3, 64, 11, stride=4), conv(8, 8, (1, 7))]),
    (
        "asymmetric",
        [conv(8, 8, 3), conv(8, 8, 5, groups=8), conv(4, 4, 3, (9, 9, 9)), conv(8, 8, (1, 3, 3), (9, 9, 9))],
    ),
    ("asymmetric", [conv(8, 8, 4, transposed=True, stride=2)]),
    ("bottleneck", [conv(8, 8, 3), conv(64, 64, 1), conv(8, 8, 9, (99,)), conv(16, 16, 3, groups=2)]),
    ("bottleneck", [conv(1, 32, 5), conv(8, 8, 4, transposed=True, stride=2)]),
    ("separable", [conv(8, 8, 3), conv(8, 8, 9, (99,)), conv(16, 16, 3, groups=2), conv(8, 8, 3, (9, 9, 9))]),
]


@pytest.mark.parametrize(("name", "specs"), APPLIED)
def test_a_rule_applies_where_it_saves(name, specs):
    for spec in specs:
        assert refusal(name, spec) is None
        found = list(get(name).options(subject(spec), 0.9))
        assert found
        assert any(planned(name, spec, **options).macs < spec.macs for options in found)


STACKED = [
    (5, 1, [3, 3]),
    (7, 1, [3, 3, 3]),
    (9, 1, [3, 3, 3, 3]),
    (4, 1, [3, 2]),
    (6, 1, [3, 3, 2]),
    (5, 2, [3, 2]),
    (7, 2, [3, 3]),
    (11, 2, [3, 3, 3]),
    (4, 2, [2, 2]),
    (11, 4, [7, 2]),
    (7, 3, [4, 2]),
    (5, 3, [5]),
]


@pytest.mark.parametrize(("taps", "stride", "wanted"), STACKED)
def test_stages_are_recounted_behind_the_stride(taps, stride, wanted):
    assert [kernel for (kernel,) in stages(conv(4, 4, taps, (99,), stride=stride))] == wanted


def test_axes_are_stacked_by_themselves():
    chain = planned("small_kernels", conv(8, 8, (7, 3), stride=(1, 2)), middle=8).chain
    assert [step.spec.kernel_size for step in chain] == [(3, 3), (3, 1), (3, 1)]
    assert [step.spec.stride for step in chain] == [(1, 2), (1, 1), (1, 1)]


def test_dilation_is_kept_and_counts_with_the_stride():
    chain = planned("small_kernels", conv(8, 8, 5, dilation=3), middle=8).chain
    assert [step.spec.dilation for step in chain] == [(3, 3), (3, 3)]
    strided = conv(8, 8, 5, dilation=2, stride=2)
    chain = planned("small_kernels", strided, middle=8).chain
    assert [(step.spec.kernel_size, step.spec.dilation) for step in chain] == [
        ((3, 3), (2, 2)),
        ((3, 3), (1, 1)),
    ]
    assert chain_field(chain) == strided.receptive_field()


WRONG = [
    (
        "asymmetric",
        {"rank": 0},
        "rank=0 is not valid here; give a whole number from 1 to 24, where it is exact",
    ),
    ("asymmetric", {"rank": 2.5}, "rank=2.5 is not valid"),
    ("asymmetric", {"first": "depth"}, "first='depth' is not valid; give one of height, width"),
    ("asymmetric", {"ranks": 3}, "asymmetric has no option 'ranks'; it has rank, first"),
    ("bottleneck", {"form": "inside"}, "form='inside' is not valid; give one of both, out, in"),
    ("bottleneck", {"form": "in", "rank_out": 3}, "form='in' takes no rank_out"),
    ("bottleneck", {"rank_in": 9}, "from 1 to 8"),
    ("separable", {"terms": 9}, "from 1 to 8"),
    ("separable", {"order": "first"}, "is not valid; give one of depthwise-first, pointwise-first"),
    ("small_kernels", {"middle": 4}, "small_kernels does not apply: its kernel of 3x3 is small already"),
    ("reduce_first", {"activation": "Tanh"}, "only 'ReLU' lets through unchanged"),
]


@pytest.mark.parametrize(("name", "options", "words"), WRONG)
def test_an_option_without_sense_says_what_has(name, options, words):
    with pytest.raises(RewriteError) as caught:
        planned(name, conv(8, 8, 3), **options)
    assert str(caught.value).startswith("layer: ")
    assert words in str(caught.value)


def test_the_middle_of_a_grouped_stack_is_a_multiple_of_its_groups():
    spec = conv(8, 8, 5, groups=4)
    with pytest.raises(RewriteError, match="at least 4, a multiple of its 4 groups"):
        planned("small_kernels", spec, middle=6)
    assert [step.spec.groups for step in planned("small_kernels", spec, middle=12).chain] == [4, 4]


def test_depthwise_stays_depthwise():
    spec = conv(8, 8, 5, groups=8)
    small = planned("small_kernels", spec, middle=16)
    assert [(one.spec.in_channels, one.spec.out_channels, one.spec.groups) for one in small.convs] == [
        (8, 16, 8),
        (16, 8, 8),
    ]
    apart = planned("asymmetric", spec, rank=2)
    assert [(one.spec.kernel_size, one.spec.groups) for one in apart.convs] == [((5, 1), 8), ((1, 5), 8)]


def test_in_three_dimensions_one_axis_is_parted_from_the_others():
    spec = conv(8, 8, 3, (9, 9, 9))
    assert [options["first"] for options in get("asymmetric").options(subject(spec), 0.5)] == [
        "depth",
        "height+width",
    ]
    chain = planned("asymmetric", spec, rank=4, first="height+width").chain
    assert [step.spec.kernel_size for step in chain] == [(1, 3, 3), (3, 1, 1)]


def test_stride_and_padding_are_split_by_axis():
    spec = conv(8, 8, 3, stride=(2, 3), padding=[(0, 2), (1, 1)], dilation=2, padding_mode="reflect")
    first, second = (step.spec for step in planned("asymmetric", spec, rank=4, first="width").chain)
    assert (first.stride, first.padding, first.dilation) == ((1, 3), ((0, 0), (1, 1)), (1, 2))
    assert (second.stride, second.padding, second.dilation) == ((2, 1), ((0, 2), (0, 0)), (2, 1))
    assert first.padding_mode == second.padding_mode == "reflect"


class Block(nn.Module):
    """Three branches of one map, side by side."""

    def __init__(self, joined):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.one, self.three, self.five = (
            nn.Conv2d(16, 16, k, padding=k // 2, bias=False) for k in (1, 3, 5)
        )
        self.head = nn.Conv2d(48 if joined == "cat" else 16, 16, 3, padding=1, bias=False)
        self.act, self.joined = nn.ReLU(inplace=True), joined

    def forward(self, x):
        x = self.act(self.stem(x))
        branches = [self.act(branch(x)) for branch in (self.one, self.three, self.five)]
        return self.head(torch.cat(branches, 1) if self.joined == "cat" else sum(branches))


def subjects(model, *shape):
    analysis = archcost.analyze(model, input_size=shape)
    return survey_of(analysis).subjects


def test_a_branch_beside_others_is_reduced_first_and_what_feeds_alone_is_not():
    rule, found = get("reduce_first"), subjects(Block("cat"), 1, 3, 8, 8)
    reasons = {name: rule.refusal(one) for name, one in found.items()}
    assert {name: why and why.reason for name, why in reasons.items()} == {
        "stem": "no other layer reads its input: bottleneck's form 'in' is the same change there",
        "one": "a 1x1 is itself what would be put first",
        "three": None,
        "five": None,
        "head": "no other layer reads its input: bottleneck's form 'in' is the same change there",
    }
    added = subjects(Block("add"), 1, 3, 8, 8)
    assert "their outputs are not concatenated with its own" in rule.refusal(added["three"]).reason


def test_the_plain_block_has_the_parameters_of_the_textbook_and_the_reduced_one_fewer():
    found = subjects(Block("cat"), 1, 3, 8, 8)
    branches = [found[name] for name in ("one", "three", "five")]
    assert sum(one.spec.params for one in branches) == 8960
    reduced = [get("reduce_first").replacement(one, channels=8).params for one in branches[1:]]
    assert branches[0].spec.params + sum(reduced) == 4864
    c1, c2 = 16, 8
    assert ((3 * c1 + c2) + 9 * c2 + 25 * c2) * c1 == 5248
    assert [get("reduce_first").replacement(one) for one in branches[1:]] == [
        get("reduce_first").replacement(one, channels=8) for one in branches[1:]
    ]


def test_the_branches_of_known_models_are_found():
    from torchvision.models.segmentation.deeplabv3 import ASPP

    found = subjects(ASPP(64, [2, 4], 32).eval(), 1, 64, 16, 16)
    taken = [name for name, one in found.items() if get("reduce_first").refusal(one) is None]
    assert taken == ["convs.1.0", "convs.2.0"]


@pytest.mark.parametrize("name", [*FACTORING, "reduce_first"])
def test_the_replacement_stands_in_the_place_of_the_layer(name):
    spec = conv(8, 12, 5, batch=3)
    made = planned(name, spec)
    assert made.name == "layer"
    first, *_, last = (one.spec for one in made.convs)
    assert (first.in_channels, first.input_size) == (spec.in_channels, spec.input_size)
    assert (last.out_channels, last.output_size) == (spec.out_channels, spec.output_size)
    assert [one.spec.bias for one in made.convs] == [False] * (len(made.convs) - 1) + [True]
    assert {one.spec.batch for one in made.convs} == {3}
