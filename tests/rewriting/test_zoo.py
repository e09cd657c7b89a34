"""Every rule on real networks: shapes stay, what is exact is exact, and nothing is silently wrong."""

import pytest
import timm
import torch
import torchvision
from torch import nn

import archcost
from archcost.rewriting import available

SMALL = {
    "squeezenet1_1": 64,
    "shufflenet_v2_x0_5": 64,
    "mobilenet_v3_small": 64,
    "mnasnet0_5": 64,
    "timm:repvgg_a0": 64,
    "timm:tf_mobilenetv3_small_minimal_100": 64,
    "timm:ghostnet_050": 64,
}
EVERY = [
    *torchvision.models.list_models(module=torchvision.models, exclude="*vit*"),
    *("timm:tf_efficientnet_b0", "timm:convnext_atto", "timm:resnetv2_50x1_bit", "timm:mobileone_s0"),
    *("timm:hrnet_w18_small", "timm:res2net50_14w_8s", "timm:resnest14d", "timm:dla34", "timm:inception_v4"),
]
RULES = [rule for rule in available() if rule != "layout"]


def built(name):
    torch.manual_seed(0)
    if name.startswith("timm:"):
        model = timm.create_model(name.removeprefix("timm:"), num_classes=10)
    else:
        options = {"aux_logits": False} if name in ("googlenet", "inception_v3") else {}
        options |= {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        model = torchvision.models.get_model(name, weights=None, **options)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.1)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.normal_(norm.running_mean, std=0.1)
    return model.eval()


def check(name, rule, size):
    model = built(name)
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = model(x)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    new = archcost.rewrite(model, x, rules=[rule], store=False, progress=False)
    taken_back = [one for one in new.skipped if "undone" in one.reason]
    assert not taken_back
    assert {one.proposal.name for one in new.outcomes} == {one.name for one in new.plan}
    with torch.no_grad():
        found, other = new.model(x), new.model(x[:1, :, : size - 3, : size - 6])
        expected = model(x[:1, :, : size - 3, : size - 6])
    assert found.shape == y.shape
    assert other.shape == expected.shape
    assert found.isfinite().all()
    if new.plan and all(one.exact for one in new.plan):
        torch.testing.assert_close(found, y, rtol=1e-3, atol=1e-4 * float(y.abs().max()))
        torch.testing.assert_close(other, expected, rtol=1e-3, atol=1e-4 * float(y.abs().max()))
    if new.plan and rule != "pool_first":
        assert new.after.total.macs <= new.before.total.macs
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    return new


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("rule", RULES)
def test_a_small_network_by_every_rule(name, rule):
    check(name, rule, SMALL[name])


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("rule", RULES)
def test_every_network_by_every_rule(name, rule):
    check(name, rule, 299 if "inception" in name else 224 if "alexnet" in name or "vgg" in name else 128)
