"""The model costs what was agreed on."""

import pytest
from net import Net

SIZE = (1, 3, 32, 32)


def test_the_budget(archcost_budget):
    archcost_budget(
        Net().eval(),
        input_size=SIZE,
        name="net-32",
        max_params="60k",
        max_macs="15M",
        max_peak_memory="170 kB",
        min_receptive_field=27,
    )


@pytest.mark.parametrize("channels", [16, 32])
def test_the_baseline(channels, archcost_baseline):
    archcost_baseline(f"net-{channels}", Net(channels).eval(), input_size=SIZE)
