"""Modules of two versions are matched by name, then by structure: what moved is not gone and added."""

import pytest
import torch
from torch import nn

import archcost
from archcost.analysis.matching import matching

SIZE = (1, 3, 16, 16)


def conv(*arguments):
    return nn.Conv2d(*arguments, padding="same")


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = conv(width, width, 3)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x)))


class Named(nn.Module):
    """Modules by name, run one after the other."""

    def __init__(self, **children):
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, x):
        for child in self.children():
            x = child(x)
        return x


class Other(Named):
    """Another class that does the same."""


def matched(a, b):
    """The names that matched, those of a alone and those of b alone."""
    found = matching(*(archcost.analyze(model, input_size=SIZE) for model in (a, b)))
    pairs = {x.name: y.name for x, y in found.to_b.items()}
    gone = [node.name for node in found.a if node not in found.to_b]
    new = [node.name for node in found.b if node not in found.to_a]
    places = {y.name: found.place(x, y) for x, y in found.to_b.items() if found.place(x, y)}
    return pairs, gone, new, places


def test_a_layer_put_into_a_sequential_shifts_the_others():
    a = nn.Sequential(conv(3, 8, 3), nn.ReLU(), conv(8, 8, 3), nn.ReLU(), conv(8, 4, 1))
    b = nn.Sequential(conv(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 8, 3), nn.ReLU(), conv(8, 4, 1))
    pairs, gone, new, places = matched(a, b)
    assert pairs == {"": "", "0": "0", "1": "2", "2": "3", "3": "4", "4": "5"}
    assert (gone, new, places) == ([], ["1"], {})


def test_a_block_more_in_the_middle_is_one_block_more():
    a = nn.Sequential(conv(3, 8, 1), Block(8), conv(8, 4, 1), Block(4))
    b = nn.Sequential(conv(3, 8, 1), Block(8), Block(8), conv(8, 4, 1), Block(4))
    pairs, gone, new, _ = matched(a, b)
    assert gone == []
    assert new == ["2", "2.conv", "2.norm"]
    assert pairs["2"] == "3"
    assert pairs["3.conv"] == "4.conv"


@pytest.mark.parametrize("kind", ["renamed", "moved"])
def test_a_subtree_with_another_name_or_parent_is_the_same_one(kind):
    def body():
        return nn.Sequential(Block(8), Block(8))

    a = Named(stem=conv(3, 8, 3), body=body(), head=conv(8, 2, 1))
    if kind == "renamed":
        b, name = Named(stem=conv(3, 8, 3), trunk=body(), head=conv(8, 2, 1)), "trunk"
    else:
        b, name = Named(stem=conv(3, 8, 3), outer=Named(inner=body()), head=conv(8, 2, 1)), "outer.inner"
    pairs, gone, new, places = matched(a, b)
    assert gone == []
    assert new == ([] if kind == "renamed" else ["outer"])
    assert pairs["body.1.norm"] == f"{name}.1.norm"
    assert places == {name: kind}


def test_a_renamed_subtree_that_also_changed_inside_is_the_same_one():
    a = Named(stem=conv(3, 8, 3), body=nn.Sequential(Block(8), Block(8), Block(8)))
    b = Named(stem=conv(3, 8, 3), trunk=nn.Sequential(Block(8), Block(8), conv(8, 8, 5)))
    pairs, gone, _, places = matched(a, b)
    assert pairs["body"] == "trunk"
    assert pairs["body.1.conv"] == "trunk.1.conv"
    assert pairs["body.2"] == "trunk.2"
    assert gone == ["body.2.conv", "body.2.norm"]
    assert places == {"trunk": "renamed"}


def test_a_class_renamed_keeps_its_modules():
    a = Named(stem=conv(3, 8, 3), body=Named(x=Block(8), y=Block(8)))
    b = Other(stem=conv(3, 8, 3), body=Other(x=Block(8), y=Block(8)))
    pairs, gone, new, places = matched(a, b)
    assert all(x == y for x, y in pairs.items())
    assert (gone, new, places) == ([], [], {})


def test_a_layer_wrapped_in_its_place_moved_inward():
    a = Named(first=conv(3, 8, 3), second=conv(8, 8, 3), third=conv(8, 8, 3))
    wrapped = nn.Sequential(conv(8, 8, 3), nn.BatchNorm2d(8))
    pairs, gone, new, places = matched(a, Named(first=conv(3, 8, 3), second=wrapped, third=conv(8, 8, 3)))
    assert pairs["second"] == "second.0"
    assert gone == []
    assert new == ["second", "second.1"]
    assert places == {"second.0": "moved"}


@pytest.mark.parametrize("inward", [True, False])
def test_a_model_that_became_a_part_of_another_moved_as_a_whole(inward):
    whole = Named(stem=conv(3, 8, 3), body=nn.Sequential(Block(8), Block(8)))
    around = Other(net=Named(stem=conv(3, 8, 3), body=nn.Sequential(Block(8), Block(8))), head=conv(8, 2, 1))
    pairs, gone, new, _ = matched(whole, around) if inward else matched(around, whole)
    assert pairs.get("") == ("net" if inward else None)
    assert pairs["body.1" if inward else "net.body.1"] == ("net.body.1" if inward else "body.1")
    assert sorted(new if inward else gone) == ["", "head"]


def test_a_layer_of_a_block_that_is_gone_is_no_layer_of_a_new_one():
    a = Named(stem=conv(3, 8, 3), old=Named(a=conv(8, 8, 5), norm=nn.BatchNorm2d(8), b=conv(8, 8, 7)))
    b = Named(stem=conv(3, 8, 3), new=Other(norm=nn.BatchNorm2d(8), c=conv(8, 16, 3), d=conv(16, 4, 3)))
    pairs, gone, new, _ = matched(a, b)
    assert pairs == {"": "", "stem": "stem"}
    assert gone[0] == "old"
    assert new[0] == "new"


def test_equal_subtrees_keep_their_order():
    a = Named(one=nn.Sequential(Block(3), Block(3)), two=nn.Sequential(Block(3), Block(3)))
    b = Named(three=nn.Sequential(Block(3), Block(3)), four=nn.Sequential(Block(3), Block(3)))
    pairs, *_ = matched(a, b)
    assert pairs["one"] == "three"
    assert pairs["two"] == "four"
    assert [pairs[f"one.{i}"] for i in range(2)] == ["three.0", "three.1"]


def test_a_long_list_of_equals_is_aligned_in_order():
    a, b = (nn.Sequential(*(nn.ReLU() for _ in range(n))) for n in (300, 301))
    pairs, gone, new, _ = matched(a, b)
    assert (len(pairs), gone, new) == (301, [], ["300"])
