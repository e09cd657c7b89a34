"""Tests that need more than the lowest versions in `pyproject.toml`; tried with PyTorch 2.8 and 2.14."""

import pytest
import torch

OLDER = torch.__version__ < "2.14"
GROUPED_ON_CPU = torch._C._dispatch_has_computed_kernel_for_dispatch_key("aten::_grouped_mm", "CPU")


def newer(reason):
    """Skips a test where PyTorch is older than 2.14."""
    return pytest.mark.skipif(OLDER, reason=reason)


grouped_on_cpu = pytest.mark.skipif(
    not GROUPED_ON_CPU, reason="no grouped products on a CPU in this PyTorch, as in 2.8"
)
